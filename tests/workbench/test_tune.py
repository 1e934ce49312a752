"""PPO on a policy of your own."""

from __future__ import annotations

import numpy as np
import pytest

import rmlab


def test_ppo_goes_on_from_its_folder_and_writes_its_policy(place, tmp_path):
    judges = rmlab.load(place / "my-gold-rm")
    settings = rmlab.Ppo(steps=2, batch=8, max_new_tokens=8, minibatches=2, save_every=1)
    whole = rmlab.ppo(place / "my-policy", ["One?", "Two?"], judges.reward("mean"), settings, out=tmp_path)
    again = rmlab.ppo(place / "my-policy", ["One?", "Two?"], judges.reward("mean"), settings, out=tmp_path)
    assert whole.reward.tolist() == again.reward.tolist() and len(whole) == 3
    moved = rmlab.Pool.sample(tmp_path / "policy", ["One?"], n=2, max_new_tokens=4)
    assert len(moved.answers[0]) == 2


def test_a_reward_may_be_a_function_of_text(place):
    seen = []

    def longer(prompts, answers):
        seen.extend(zip(prompts, answers, strict=True))
        return [len(answer) for answer in answers]

    settings = rmlab.Ppo(steps=1, batch=4, max_new_tokens=6, minibatches=2)
    chat = [{"role": "user", "content": "One?"}]
    rows = rmlab.ppo(place / "my-policy", [chat, "Two?"], longer, settings)
    assert len(rows) == 2 and len(seen) >= 8 and all(prompt in (chat, "Two?") for prompt, _ in seen)
    assert np.isclose(rows.reward[0], np.mean([len(answer) for _, answer in seen[:4]]))
    with pytest.raises(ValueError, match="prompts = 0: give at least one"):
        rmlab.ppo(place / "my-policy", [], longer, settings)


def test_low_rank_changes_are_in_the_policy_that_is_written(place, tmp_path):
    from transformers import AutoModelForCausalLM

    settings = rmlab.Ppo(steps=2, batch=8, max_new_tokens=6, minibatches=2, lr=1e-2)

    def longer(prompts, answers):
        return [len(answer) for answer in answers]

    rows = rmlab.ppo(place / "my-policy", ["One?", "Two?"], longer, settings, out=tmp_path, lora=2)
    assert abs(rows.k1[0]) < 1e-5 and rows.k3[2] > 1e-4
    before, report = AutoModelForCausalLM.from_pretrained(place / "my-policy", output_loading_info=True)
    after, again = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", output_loading_info=True)
    assert not again["unexpected_keys"] and again["missing_keys"] == report["missing_keys"]
    moved = {n for n, w in before.state_dict().items() if not w.equal(after.state_dict()[n])}
    assert moved == {n for n in before.state_dict() if n.endswith("_proj.weight")}
