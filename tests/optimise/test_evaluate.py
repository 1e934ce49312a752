"""What an evaluation says of a policy: its columns, beside the run's own, and its texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rmlab.optimise.evaluate import evaluate, save_records
from rmlab.optimise.ppo import Run, collect, gae, token_rewards, train
from rmlab.recipe import Ppo, stream, stream_seed
from rmlab.reward.aggregate import aggregate

SETTINGS = Ppo(
    steps=2,
    batch=8,
    max_new_tokens=5,
    minibatches=2,
    lr=3e-3,
    kl_coef=0.1,
    missing_eos_penalty=1.5,
    eval_every=2,
)
TERMS = {"gold_fives", "gold_length"}


@pytest.fixture
def policy(tiny_policy):
    return tiny_policy()


@pytest.fixture(scope="module")
def prompts(counting):
    return counting.prompts(5, stream(0, "prompts"))


def members(prompts, answers):
    """Two members: the fives of an answer, and its length less its prompt's."""
    fives = [answer.count(5) for answer in answers]
    lengths = [len(answer) - len(prompt) for prompt, answer in zip(prompts, answers, strict=True)]
    return np.array([fives, lengths], np.float32).T


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Three of the five prompts are kept as text."""
    monkeypatch.setattr("rmlab.optimise.evaluate.SHOWN", 3)


def test_columns_are_means_over_the_answers_of_a_stream_of_their_own(policy, counting, prompts):
    run, texts = Run(policy, SETTINGS, 0, None), []
    run.step, run.origin = 4, 0.7
    run.critic.head.bias.data += 0.3
    columns = evaluate(counting, prompts, 3, members, "min", 1.0, 11, texts)(run)
    ids = [list(p.ids) for p in prompts]
    batch = collect(run, ids, 3, stream_seed(11, 4))
    scores = members(batch.prompts, batch.answers)
    proxy = aggregate(scores, "min")
    fives, lengths = (np.array([f(a) for a in batch.answers]) for f in (lambda a: a.count(5), len))
    gold = 2 * fives - lengths + np.repeat([len(i) for i in ids], 3)
    assert columns.pop("gold_by_prompt") == gold.reshape(5, 3).mean(1).round(4).tolist()
    assert columns.pop("proxy_by_prompt") == proxy.astype(float).reshape(5, 3).mean(1).round(4).tolist()
    assert columns == pytest.approx(
        {
            "proxy": proxy.mean(),
            "gold": gold.mean(),
            "member_0": fives.mean(),
            "member_1": scores[:, 1].mean(),
            "disagreement": scores.std(1).mean(),
            "eval_k1": 0.0,
            "eval_k3": 0.0,
            "eval_length": lengths.mean(),
            "eval_ended": batch.ended.mean(),
            "gold_fives": fives.mean(),
            "gold_length": lengths.mean(),
        },
        abs=1e-5,
    )
    assert all(isinstance(x, float) for x in columns.values())

    earned = proxy - 1.5 * ~batch.ended - 0.7
    advantages = gae(token_rewards(earned, batch, 0.1, SETTINGS), batch.values, batch.mask, 0.95)
    assert [text["prompt"] for text in texts] == [p.text for p in prompts[:3]]
    for i, text in zip((0, 3, 6), texts, strict=True):
        assert text["step"] == 4 and text["answer"] == counting.text(batch.answers[i])
        assert (text["gold"], text["proxy"]) == (gold[i], proxy[i])
        assert (
            len(text["tokens"]) == lengths[i]
            and any(row[0] == "<eos>" for row in text["tokens"]) == batch.ended[i]
        )
        words = [row[0] for row in text["tokens"] if row[0] != "<eos>"]
        assert " ".join(words) == text["answer"]
        for j, (_, log_ratio, value, advantage) in enumerate(text["tokens"]):
            assert abs(log_ratio) < 1e-3 and value == pytest.approx(0.3, abs=1e-3)
            assert advantage == pytest.approx(advantages[i, j], abs=1e-3)


def test_every_answer_is_recorded(policy, counting, goldless, prompts, tmp_path):
    """Another policy than the one it began from, twice; k1 is that of the columns, and gold its mean."""
    run, records = Run(policy, SETTINGS, 0, None), []
    judge = evaluate(counting, prompts, 3, members, "min", 1.0, 11, [], records)
    before = judge(run)
    run.policy.get_output_embeddings().weight.data += 0.3 * torch.randn(
        run.policy.get_output_embeddings().weight.shape, generator=torch.Generator().manual_seed(0)
    )
    run.step = 2
    after = judge(run)
    save_records(tmp_path / "evaluations.npz", records)
    with np.load(tmp_path / "evaluations.npz") as arrays:
        found = {name: arrays[name] for name in arrays.files}
    batch = collect(run, [list(p.ids) for p in prompts], 3, stream_seed(11, 2))
    assert found["step"].tolist() == [0, 2] and found["ids"].shape == (2, 15, 5)
    assert found["ids"].dtype == np.int16 and found["scores"].dtype == np.float32
    answers = [row[:n].tolist() for row, n in zip(found["ids"][1], found["lengths"][1], strict=True)]
    assert answers == batch.answers and (found["ended"][1] == batch.ended).all()
    np.testing.assert_allclose(found["scores"][1], members(batch.prompts, batch.answers))
    np.testing.assert_allclose(found["proxy"][1], found["scores"][1].min(1))
    for at, columns in enumerate((before, after)):
        assert found["gold"][at].mean() == pytest.approx(columns["gold"])
        assert found["k1"][at].mean() == pytest.approx(columns["eval_k1"], abs=1e-5)
    np.testing.assert_allclose(found["k1"], found["logprob"] - found["ref_logprob"], atol=1e-5)
    assert found["k1"][1].mean() > 0.1 and (found["logprob"] < 0).all()
    mask = batch.mask
    for name, own in (("logprob", batch.logprobs), ("ref_logprob", batch.ref_logprobs)):
        np.testing.assert_allclose(
            found[name][1], [x[m].sum() for x, m in zip(own, mask, strict=True)], atol=1e-5
        )
    evaluate(goldless, prompts, 3, members, "min", 1.0, 11, [], records)(run)
    assert "gold" not in records[-1]
    with pytest.raises(ValueError, match="records"):
        save_records(tmp_path / "none.npz", [])


def test_no_column_of_the_run_is_overwritten(policy, counting, prompts):
    """Gold's term is called length, as PPO's column of an answer's tokens is."""
    texts, reward = [], lambda p, a: members(p, a).min(1)
    bare = train(policy, lambda rng, n: [[1, 5, 3]] * n, reward, dataclasses.replace(SETTINGS, lr=1e-30), 0)
    rows = train(
        policy,
        lambda rng, n: [[1, 5, 3]] * n,
        reward,
        dataclasses.replace(SETTINGS, lr=1e-30),
        0,
        evaluate(counting, prompts, 2, members, "min", 1.0, 0, texts),
    )
    assert [("eval_k1" in row) for row in rows] == [True, False, True] and len(texts) == 6
    for row, plain in zip(rows, bare, strict=True):
        assert {name: row[name] for name in plain} == plain
    assert rows[0]["gold_length"] != rows[0]["length"]


def test_a_source_without_gold_or_without_terms_gives_no_such_column(policy, counting, goldless, prompts):
    run = Run(policy, SETTINGS, 0, None)
    texts = []
    full, unexplained, blind = (
        evaluate(source, prompts, 2, members, "mean", 1.0, 0, texts)(run)
        for source in (counting, type(counting)(explained=False), goldless)
    )
    assert set(full) - set(unexplained) == TERMS
    assert set(unexplained) - set(blind) == {"gold", "gold_by_prompt"}
    assert {name: full[name] for name in blind} == blind and len(texts) == 9
    assert "gold" in texts[0] and "gold" not in texts[-1]


@pytest.mark.parametrize("shape", [(10,), (1, 2), (10, 1, 1), ()])
def test_scores_of_another_shape_are_refused(policy, counting, prompts, shape):
    run = Run(policy, SETTINGS, 0, None)
    judge = evaluate(counting, prompts, 2, lambda p, a: np.ones(shape), "mean", 1.0, 0, [])
    with pytest.raises(ValueError, match=r"shape of the scores = .*: give \(10, "):
        judge(run)
