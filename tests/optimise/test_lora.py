"""Low-rank changes of a policy: what PEFT computes, a reference that is the policy itself, nothing left behind."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rmlab.fast.packed import packed
from rmlab.optimise.head import Head, trunk
from rmlab.optimise.lora import NAME, changes_of, low_rank, switched_off
from rmlab.optimise.ppo import Run, improve, roll_out, token_rewards, train
from rmlab.recipe import Ppo
from tests.cases.tiny import ROW, close, policy

QUICK = Ppo(steps=4, batch=16, max_new_tokens=5, epochs=2, minibatches=2, lr=2e-2, kl_coef=0.01, save_every=1)
IDS = torch.tensor([ROW])


def draw_prompts(rng, count):
    """Prompts of two lengths."""
    return [[1, *rng.choice((5, 6, 7), rng.integers(1, 3)), 3] for _ in range(count)]


def fives(prompts, answers):
    """Does the answer hold a 5?"""
    return np.array([float(5 in answer) for answer in answers])


def noisy(model):
    """Changes far from zero."""
    noise = torch.Generator().manual_seed(0)
    for b in changes_of(model).adapter.second:
        b.data = 0.3 * torch.randn(b.shape, generator=noise)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def log_probs(model, batch):
    """Of a batch's answer tokens, each answer alone by the model's own forward, end to end."""
    head, out = Head(model), []
    for prompt, answer in zip(batch.prompts, batch.answers, strict=True):
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([[*prompt, *answer[:-1]]]), use_cache=False).logits[0]
        out.append(head.pick(whole[len(prompt) - 1 :].float(), [answer]))
    return torch.cat(out).numpy()


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "GPT-NeoX", "Gemma 2", "Phi"])
def test_changes_off_on_and_merged(name):
    model = policy(name)
    start, keys, form = logits(model), list(model.state_dict()), packed(trunk(model), 8)
    learns = [weight.requires_grad for weight in model.parameters()]
    with low_rank(model, 3):
        close(logits(model), start)  # B is zero
        noisy(model)
        on = logits(model)
        assert (on - start).abs().max() > 0.05
        with switched_off(model):
            close(logits(model), start)
        close(logits(model), on)
        assert {n for n, w in model.named_parameters() if w.requires_grad} == {
            n for n, _ in model.named_parameters() if n.startswith(NAME)
        }
        assert packed(trunk(model), 8) is None  # it would read the weights alone
    close(logits(model), on, size=float(on.abs().max()))
    assert list(model.state_dict()) == keys and (packed(trunk(model), 8) is None) == (form is None)
    assert [weight.requires_grad for weight in model.parameters()] == learns
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_computes_the_same():
    peft = pytest.importorskip("peft")
    model = policy("Llama")
    names = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    theirs = peft.get_peft_model(
        copy.deepcopy(model),
        peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=names),
    ).eval()
    with low_rank(model, 3, alpha=5.0):
        noisy(model)
        for name, pair in changes_of(model).adapter.pairs.items():
            layer = theirs.base_model.model.model.get_submodule(name.removesuffix(".weight"))
            for part, matrix in zip((layer.lora_A, layer.lora_B), pair, strict=True):
                part["default"].weight.data.copy_(matrix)
        close(logits(model), logits(theirs))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ppo_starts_at_a_ratio_of_one_and_learns(tiny_policy, precision):
    model, moved = tiny_policy(8), []
    start = {n: w.clone() for n, w in model.state_dict().items()}
    settings = dataclasses.replace(QUICK, steps=12, batch=32, precision=precision)
    with low_rank(model, 2):
        rows = train(model, draw_prompts, fives, settings, 0)
        moved += [n for n, w in start.items() if not torch.equal(model.state_dict()[n], w)]
    assert not moved  # the weights are as they were, until the end
    assert any(not torch.equal(model.state_dict()[n], w) for n, w in start.items())
    assert abs(rows[0]["k1"]) < 1e-5 and abs(rows[0]["k3"]) < 1e-5
    assert rows[0]["ratio_error"] < (1e-5 if precision == "fp32" else 0.05)
    assert rows[-1]["k3"] > 0.05 and np.mean([r["reward"] for r in rows[-3:]]) > rows[0]["reward"] + 0.15


def test_the_reference_is_the_policy_itself_as_it_was(tiny_policy):
    """Its log-probabilities are those of a copy from before, the policy's those of the merged weights: no copy is held."""
    model = tiny_policy(8)
    before, steps = copy.deepcopy(model), []
    with low_rank(model, 2):
        run = Run(model, QUICK, 0, None)
        assert run.reference is run.policy and run.critic.own is None
        count = sum(w.numel() for w in changes_of(model).parameters()) + 16 + 1  # the value head's
        hook = register_optimizer_step_pre_hook(lambda *rest: steps.append(1))
        for run.step in range(3):
            batch = roll_out(run, draw_prompts)
            improve(run, batch, token_rewards(fives([], batch.answers), batch, 0.1, QUICK))
        hook.remove()
        batch = roll_out(run, draw_prompts)
        state = run.optimiser.state_dict()["state"].values()
        assert sum(s["exp_avg"].numel() for s in state) == count and len(steps) == 12
    close(batch.ref_logprobs[batch.mask], log_probs(before, batch))
    close(batch.logprobs[batch.mask], log_probs(model, batch))
    assert np.abs(batch.logprobs - batch.ref_logprobs)[batch.mask].max() > 0.05


def test_a_run_goes_on_from_its_folder(tiny_policy, tmp_path):
    def stop(step):
        if step == 2:
            raise KeyboardInterrupt

    out = []
    for folder, on_step in ((None, None), (tmp_path, stop), (tmp_path, None)):
        model = tiny_policy(8)
        try:
            with low_rank(model, 2):
                rows = train(model, draw_prompts, fives, QUICK, 0, folder=folder, on_step=on_step)
            out.append((rows, model.state_dict()))
        except KeyboardInterrupt:
            assert changes_of(model) is None
    (whole, weights), (parts, again) = out
    assert whole == parts and all(torch.equal(weights[n], again[n]) for n in weights)
    model = tiny_policy(8)
    with low_rank(model, 3), pytest.raises(ValueError, match=r"policy of the run in .*ppo\.pt"):
        train(model, draw_prompts, fives, QUICK, 0, folder=tmp_path)
    with pytest.raises(ValueError, match=r"policy of the run in .*ppo\.pt"):
        train(tiny_policy(8), draw_prompts, fives, QUICK, 0, folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "rank", "message"),
    [
        ("Llama", -1, "rank = -1: give at least 1"),
        ("GPT-2", 2, "model = 'GPT2Model': give a decoder family whose blocks"),
    ],
)
def test_what_cannot_be_changed_is_named_and_left_alone(name, rank, message):
    model = policy(name)
    with pytest.raises(ValueError, match=message), low_rank(model, rank):
        pass
    assert changes_of(model) is None and all(weight.requires_grad for weight in model.parameters())


def test_a_critic_with_a_trunk_of_its_own_would_be_a_copy(tiny_policy):
    model = tiny_policy(8)
    settings = dataclasses.replace(QUICK, value_trunk="own")
    with low_rank(model, 2), pytest.raises(ValueError, match=r"ppo\.value_trunk = 'own': give shared"):
        train(model, draw_prompts, fives, settings, 0)
    with low_rank(model, 0):
        assert changes_of(model) is None
