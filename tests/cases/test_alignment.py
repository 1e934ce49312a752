"""Alignment and posterior go with their folder, whole or in part; what was never aligned is not aggregated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.optimise import ppo
from rmlab.optimise.reward import reward_function
from rmlab.recipe import Ppo
from rmlab.reward.ensemble import load
from rmlab.reward.lora import LoraModel
from rmlab.reward.methods import train_ensemble
from rmlab.reward.model import RewardModel
from tests.cases.tiny import ROW, close, inputs, judge, policy

METHODS = {
    "heads": {"k": 3},
    "lora": {"k": 3, "rank": 2},
    "dropout": {"k": 3},
    "laplace": {"k": 3},
    "BERT": {},
}


def ensemble(method):
    if method == "BERT":
        built = RewardModel(judge("BERT", 3))
    else:
        built = train_ensemble(method, inputs(policy("Llama")), **METHODS[method])
    built.align(np.random.default_rng(1).normal(3, 2, (50, 3)))
    return built


def scores(model):
    ids = torch.tensor([ROW])
    return model(ids, torch.ones_like(ids)).detach()


@pytest.mark.parametrize("method", METHODS)
def test_members_keep_their_alignment_in_any_order_and_on_disk(method, tmp_path):
    whole = ensemble(method)
    whole.save(tmp_path / "whole")
    few = whole.subset([2, 0])
    few.save(tmp_path / "few")
    for again, columns in (
        (load(tmp_path / "whole"), [0, 1, 2]),
        (load(tmp_path / "few"), [2, 0]),
    ):
        close(scores(again), scores(whole)[:, columns])
    close(scores(few), scores(whole)[:, [2, 0]])


def test_some_members_of_a_folder_are_aligned_as_all_are(tmp_path):
    whole = ensemble("lora")
    whole.save(tmp_path)
    for members in ([0, 2], [tmp_path / "member_0", tmp_path / "member_2"]):
        close(scores(LoraModel.load(tmp_path, members=members)), scores(whole)[:, [0, 2]])


def test_a_posterior_comes_back(tmp_path):
    whole = ensemble("laplace")
    whole.save(tmp_path)
    answers = np.array(ROW[:3]), np.array([ROW[3:]]), np.array([3])
    close(load(tmp_path).score_std(*answers), whole.score_std(*answers))


@pytest.mark.parametrize("aggregator", ["min", "median", "mean_std"])
def test_what_was_never_aligned_is_no_reward_but_by_its_mean(aggregator):
    model = RewardModel(judge("BERT", 3))
    with pytest.raises(ValueError, match="never aligned"):
        reward_function(model, aggregator)
    assert np.isfinite(reward_function(model, "mean")([ROW[:3]], [ROW[3:]])).all()


def test_a_folder_of_another_runs_reward_is_refused(tmp_path):
    settings = Ppo(steps=1, batch=4, minibatches=2, epochs=1, max_new_tokens=6, save_every=1)

    def run(reward, folder):
        return ppo.train(policy("Llama"), lambda rng, n: [[10, 11]] * n, reward, settings, 0, folder=folder)

    run(lambda prompts, answers: np.zeros(len(answers)), tmp_path)
    with pytest.raises(
        ValueError, match=r"reward of step 0 of the run in .*: give that run's again, or another"
    ):
        run(lambda prompts, answers: np.array([len(a) for a in answers], float), tmp_path)
