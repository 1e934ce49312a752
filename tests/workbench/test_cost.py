"""What a step costs: the formulas by hand, and how they grow."""

from __future__ import annotations

import pytest

from rmlab.workbench.cost import Work, costs, duration

WORK = Work(
    members=3, pairs=10, prompt_tokens=5, answer_tokens=10, pool_prompts=2, pool_answers=4, together=4
)


def test_training_is_six_operations_and_sixteen_bytes_a_parameter():
    table = costs(1e9, WORK).set_index("step")
    heads, models = table.loc["fit, K heads"], table.loc["fit, K models"]
    assert heads.memory == 16e9 and models.memory == 16e9 + 2 * 4e9
    assert heads.seconds == pytest.approx(6 * 1e9 * 10 * 25 / 2e14)
    assert models.seconds == pytest.approx(3 * heads.seconds)


def test_sampling_reads_the_weights_once_a_token_and_batch():
    table = costs(1e9, WORK).set_index("step")
    scored, sampled = table.seconds["score it, K heads"], table.seconds["sample a pool"]
    assert scored == pytest.approx(2 * 1e9 * 2 * (5 + 4 * 10) / 2e14)
    assert sampled - scored == pytest.approx(10 * 2 * 4e9 / 2e12)


def test_ppo_holds_policy_reference_and_judges():
    work = Work(members=4, ppo_steps=1, ppo_batch=1, ppo_epochs=1, prompt_tokens=1, answer_tokens=1)
    table = costs(1.0, work).set_index("step")
    assert table.memory["PPO, K heads judge"] == 16 + 4 + 4
    assert table.memory["PPO, K models judge"] == 16 + 4 + 4 * 4
    reads = 4 / work.bandwidth
    assert table.seconds["PPO, K heads judge"] - reads == pytest.approx((4 + 6 + 2) * 2 / work.operations)


def test_everything_grows_in_proportion_to_the_model():
    small, large = costs(1e8), costs(7e9)
    assert (large.memory / small.memory).tolist() == pytest.approx([70.0] * len(small))
    assert (large.seconds / small.seconds).tolist() == pytest.approx([70.0] * len(small))
    with pytest.raises(ValueError, match="parameters = 0"):
        costs(0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "under 1 s"), (40, "40 s"), (720, "12 min"), (12_600, "3.5 h"), (3e6, "35 days")],
)
def test_a_duration_reads_like_speech(seconds, text):
    assert duration(seconds) == text
