"""Numbers that would spoil others are refused by name: constants, NaN, one score far out, rewards of another form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.optimise.best_of_n import best_of_n
from rmlab.optimise.compact import CompactPool
from rmlab.optimise.tilt import tilted_weights
from rmlab.reward.laplace import fit_posterior
from rmlab.reward.model import RewardModel
from tests.cases.tiny import judge, policy, ppo_once


def pool(scores) -> CompactPool:
    """A compact pool of two members' scores (P, N, 2)."""
    rng = np.random.default_rng(0)
    count, answers, _ = scores.shape
    terms = [{"name": n, "label": n, "values": [0.0], "slope": s} for n, s in (("a", 1.0), ("b", 0.0))]
    return CompactPool.from_pool(
        gold_counts=rng.integers(0, 6, (count, answers, 2)),
        bill=terms,
        scores=scores,
        columns=["m0", "m1"],
        ensembles=[{"name": "two", "label": "two", "members": [0, 1]}],
        tokens=rng.integers(0, 9, (count, answers, 5)),
        lengths=np.full((count, answers), 5),
        prompts=["p"] * count,
        vocab=list("abcdefghi"),
        keep=answers,
    )


@pytest.fixture
def scores():
    return np.random.default_rng(1).normal(size=(2, 200, 2))


@pytest.mark.parametrize("constant", [0.35, 0.0, -1e6])
def test_a_member_that_says_nothing_is_not_aligned(constant):
    reward = RewardModel(judge("Llama", 2))
    reference = np.random.default_rng(0).normal(size=(1000, 2))
    reference[:, 1] = np.float32(constant)
    with pytest.raises(ValueError, match=r"spread of members \[1\] on the reference"):
        reward.align(reference)
    assert not reward.aligned


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_none_is_named_by_its_place(scores, value):
    scores[0, 7, 1] = value
    with pytest.raises(ValueError, match=r"scores\[0, 7, 1\] = "):
        pool(scores)


def test_one_score_far_out_is_refused_and_the_lowest_is_enough(scores):
    spoilt = scores.copy()
    spoilt[0, 3, :] = -1e6
    with pytest.raises(ValueError, match="a score of 'm0' = -1000000"):
        pool(spoilt)
    scores[0, 3, :] = scores.min() - 1
    assert len(np.unique(pool(scores).scores[..., 0])) > 350


@pytest.mark.parametrize(
    ("proxy", "words"),
    [([[1.0, None, 3.0]], "proxy"), ([[1.0, np.nan, 3.0]], "proxy = 'NaN'"), ([1.0], "proxy")],
)
def test_a_missing_score_is_named(proxy, words):
    with pytest.raises(ValueError, match=words):
        best_of_n(proxy, [[1.0, 2, 3]], [1, 2])


def test_half_precision_tables_are_refused_with_the_mend():
    with pytest.raises(ValueError, match=r"proxy cannot be read .*give one table of float32 or float64"):
        best_of_n(torch.tensor([[1.0, 2, 3]]).bfloat16(), [[1.0, 2, 3]], [1, 3])


def test_tilting_survives_the_largest_scores():
    assert tilted_weights([[1e300, -1e300, 0.0]], 1.0).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "rewards",
    [
        lambda n: [None] * n,
        lambda n: np.ones((n, 1)),
        lambda n: np.full(n, np.inf),
        lambda n: [1.0] * (n - 1),
        lambda n: 1.0,
        lambda n: {"rewards": [1.0] * n},
        lambda n: torch.full((n,), torch.nan),
    ],
)
def test_rewards_of_another_form_are_named_with_prompt_and_answer(rewards):
    from rmlab.optimise import ppo
    from rmlab.recipe import Ppo

    settings = Ppo(steps=1, batch=4, minibatches=2, epochs=1, max_new_tokens=6)
    with pytest.raises(ValueError, match=r"reward at step 0 .*prompt 0 of the batch is"):
        ppo.train(policy("Llama"), lambda rng, n: [[10, 11]] * n, lambda p, a: rewards(len(a)), settings, 0)


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 1}, {"batch": 1, "minibatches": 1}, {"kl_coef": 0.0, "whiten_rewards": True}],
)
def test_one_token_and_one_answer_are_enough(settings):
    rows = ppo_once(policy("Llama"), **settings)
    assert all(np.isfinite(row["k1"]) for row in rows) and np.isfinite(rows[0]["grad_norm"])


def test_a_posterior_is_finite_at_its_edges():
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(50, 8, generator=draw, dtype=torch.float64)
    w = torch.randn(8, generator=draw, dtype=torch.float64)
    sides = torch.sign(z @ w)[:, None]
    few = torch.randn(5, 64, generator=draw), torch.randn(64, generator=draw)
    for arguments in (
        (z[:1].repeat(50, 1), w),
        few,
        (z[:1], w),
        (z * sides, 1e3 * w),
        (1e6 * z, 1e-6 * w),
        (z * (torch.arange(8) != 3), w),
    ):
        posterior = fit_posterior(*arguments)
        assert 0 < posterior.tau < np.inf and torch.isfinite(posterior.sample(3, 0)).all()
