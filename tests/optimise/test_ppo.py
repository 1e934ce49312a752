"""PPO: every numbered detail of the module, an exact optimum, resuming, and what it says when the reward fails."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rmlab.backbone import lr_factor
from rmlab.optimise import ppo
from rmlab.optimise.checkpoint import read_checkpoint
from rmlab.optimise.ppo import Batch, Run, gae, improve, roll_out, token_rewards, train
from rmlab.recipe import Ppo
from rmlab.tokens import pad_right

BOS, EOS, SEP, NEVER_SAMPLED = 1, 2, 3, [0, 1, 3, 4]
WORDS = (5, 6, 7)
VOCAB = 8
QUICK = Ppo(
    steps=3,
    batch=8,
    max_new_tokens=5,
    epochs=2,
    minibatches=2,
    lr=3e-3,
    kl_coef=0.1,
    eval_every=2,
    save_every=2,
)


@pytest.fixture
def small(tiny_policy):
    """An untrained Llama over three words."""
    return tiny_policy(VOCAB)


@pytest.fixture(params=["tiny_lm", "tiny_neox", "tiny_qwen"])
def lm(request):
    return copy.deepcopy(request.getfixturevalue(request.param))


def draw_prompts(rng, count):
    """Prompts of two lengths."""
    return [[BOS, *rng.choice(WORDS, rng.integers(1, 3)), SEP] for _ in range(count)]


def one_prompt(rng, count):
    return [[BOS, 5, SEP]] * count


def fives(prompts, answers):
    """Does the answer hold a 5?"""
    return np.array([float(5 in answer) for answer in answers])


def nothing(prompts, answers):
    return np.zeros(len(answers))


def with_settings(**changes):
    return dataclasses.replace(QUICK, **changes)


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def plain_log_probs(model, prompts, answers):
    """The model's own padded forward under the ban: (B, A) log-probabilities of the answers' tokens, and where they are real."""
    ids, mask = (
        torch.from_numpy(x) for x in pad_right([p + a for p, a in zip(prompts, answers, strict=True)])
    )
    logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    logits[..., NEVER_SAMPLED] = -torch.inf
    every = torch.log_softmax(logits, -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    real = mask[:, 1:] & (
        torch.arange(ids.shape[1] - 1) >= torch.tensor([len(p) - 1 for p in prompts])[:, None]
    )
    return every, real


def started(policy, settings=QUICK, seed=0):
    """A run whose critic is not zero, and its first batch."""
    run = Run(policy, settings, seed, None)
    noise = torch.Generator().manual_seed(9)
    run.critic.head.weight.data = 0.3 * torch.randn(run.critic.head.weight.shape, generator=noise)
    return run, roll_out(run, draw_prompts)


def fake(mask, seed=0):
    """A batch of random numbers: no model."""
    rng = np.random.default_rng(seed)
    mask = np.asarray(mask, bool)
    answers = [[5] * int(m.sum() - 1) + [EOS] for m in mask]
    columns = (rng.normal(size=mask.shape).astype(np.float32) for _ in range(3))
    return Batch([[BOS]] * len(mask), answers, np.ones(len(mask), bool), mask, *columns)


# the update


def test_no_number_beyond_an_answers_end_is_read(small):
    """Rewards, columns and the update, with NaN wherever the mask is false."""
    out = []
    for fill in (0.0, np.nan):
        run, batch = started(copy.deepcopy(small))
        assert not batch.mask.all()
        spoilt = {
            n: np.where(batch.mask, getattr(batch, n), np.float32(fill))
            for n in ("logprobs", "ref_logprobs", "values")
        }
        batch = dataclasses.replace(batch, **spoilt)
        rewards = token_rewards(fives([], batch.answers), batch, 0.3, run.settings)
        assert (rewards[~batch.mask] == 0).all()
        columns = improve(run, batch, np.where(batch.mask, rewards, fill))
        out.append((ppo.describe(batch), columns, weights(run.policy)))
    assert out[0][:2] == out[1][:2] and same(out[0][2], out[1][2])


@pytest.mark.parametrize("value_trunk", ["shared", "own"])
def test_an_updates_gradient_is_that_of_a_plain_padded_implementation(lm, value_trunk):
    """PPO's loss written anew on padded rows, the model's own forward and autograd: only answer tokens count."""
    settings = with_settings(
        epochs=1, minibatches=1, max_grad_norm=1e9, value_trunk=value_trunk, cliprange_value=0.05, vf_coef=0.7
    )
    run, batch = started(lm, settings)
    moved = dataclasses.replace(
        batch, logprobs=batch.logprobs + fake(batch.mask, 3).ref_logprobs * 0.3
    )  # ratios on both sides of 1
    rewards = token_rewards(fives([], batch.answers), moved, 0.3, settings)
    twin = copy.deepcopy((run.policy, run.critic))
    columns = improve(run, moved, rewards)

    policy, critic = twin
    every, real = plain_log_probs(policy, batch.prompts, batch.answers)
    ids, mask = (
        torch.from_numpy(x)
        for x in pad_right([p + a for p, a in zip(batch.prompts, batch.answers, strict=True)])
    )
    body = ppo.trunk(policy) if value_trunk == "shared" else critic.own
    hidden = body(input_ids=ids, attention_mask=mask.long()).last_hidden_state[:, :-1]

    def wide(x):
        """(B, T) of the batch at the places of `every`."""
        out = torch.zeros(every.shape)
        out[real] = torch.from_numpy(x[batch.mask].astype(np.float32))
        return out

    advantages = gae(rewards, batch.values, batch.mask, settings.gae_lambda)
    returns = wide(advantages + batch.values)
    spread = advantages[batch.mask]
    advantages = wide((advantages - spread.mean()) / spread.std())
    ratio = torch.where(real, every - wide(moved.logprobs), 0.0).exp()
    surrogate = torch.where(
        advantages > 0,
        torch.clamp(ratio, max=1 + settings.cliprange),
        torch.clamp(ratio, min=1 - settings.cliprange),
    )
    policy_loss = -(surrogate * advantages * real).sum() / real.sum()
    old = wide(batch.values)
    now = critic(hidden.flatten(0, 1)).view(every.shape)
    near = old + (now - old).clamp(-0.05, 0.05)
    value_loss = 0.5 * (torch.maximum((now - returns) ** 2, (near - returns) ** 2) * real).sum() / real.sum()
    (policy_loss + 0.7 * value_loss).backward()
    assert columns["policy_loss"] == pytest.approx(policy_loss.item(), abs=1e-5)
    assert columns["value_loss"] == pytest.approx(value_loss.item(), rel=1e-4)
    cut = torch.where(advantages > 0, ratio > 1 + settings.cliprange, ratio < 1 - settings.cliprange)
    assert columns["clip_share"] == pytest.approx((cut & real).sum().item() / int(real.sum()), abs=1e-6)
    assert 0.1 < columns["clip_share"] < 0.9
    got = {n: p.grad for m in (run.policy, run.critic) for n, p in m.named_parameters() if p.grad is not None}
    truth = {n: p.grad for m in (policy, critic) for n, p in m.named_parameters() if p.grad is not None}
    assert got.keys() == truth.keys()
    for name in got:
        torch.testing.assert_close(got[name], truth[name], atol=2e-5, rtol=1e-3, msg=name)


def test_the_loss_has_no_slope_where_it_counts_as_clipped():
    ratio = torch.tensor([0.5, 0.5, 0.9, 0.9, 1.0, 1.1, 1.1, 1.5, 1.5], requires_grad=True)
    advantages = torch.tensor([2.0, -2, 2, -2, 1, 1, -1, 2, -2])
    losses = ppo.policy_losses(ratio, advantages, 0.2)
    losses.sum().backward()
    assert torch.equal(losses > -ratio * advantages, ratio.grad == 0)
    assert (ratio.grad == 0).tolist() == [False, True, *[False] * 5, True, False]


# the details, by number


def test_1_dropout_is_off_whatever_an_evaluation_leaves():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=VOCAB,
            intermediate_size=32,
            attention_dropout=0.5,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **size,
        )
        policy = Qwen2ForCausalLM(config).train()
        for weight in policy.parameters():
            weight.data *= 5
        ids = torch.tensor([[1, 5, 6, 7]])
        assert not torch.equal(policy(input_ids=ids).logits, policy(input_ids=ids).logits)

    def eval_fn(run):
        assert not run.policy.training
        run.policy.train()
        return {}

    rows = train(policy, draw_prompts, fives, with_settings(eval_every=1), 0, eval_fn)
    assert max(row["ratio_error"] for row in rows[:-1]) <= 1e-5 and abs(rows[0]["k1"]) <= 1e-5


def test_2_and_3_a_raw_penalty_on_every_answer_token_and_the_score_on_the_last():
    batch = fake([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    score = np.array([1.0, -2.0, 3.0])
    got = token_rewards(score, batch, 0.5, Ppo())
    for i, length in enumerate((3, 1, 4)):
        truth = [
            -0.5 * (batch.logprobs[i, t] - batch.ref_logprobs[i, t]) + (score[i] if t == length - 1 else 0)
            for t in range(length)
        ]
        np.testing.assert_allclose(got[i, :length], truth, atol=1e-6)
        assert (got[i, length:] == 0).all()
    signs = np.sign((batch.logprobs - batch.ref_logprobs)[batch.mask])
    assert {-1, 1} <= set(signs)  # neither sign is cut away


def test_2_the_reward_reads_answers_as_they_end(small):
    seen = []

    def reward(prompts, answers):
        seen.extend(answers)
        return fives(prompts, answers)

    rows = train(small, draw_prompts, reward, with_settings(steps=1, batch=64), 0)
    assert len(seen) == 128 and all(5 >= len(a) >= 1 for a in seen)
    assert all((a[-1] == EOS) == (EOS in a) and (EOS in a or len(a) == 5) for a in seen)
    assert not {t for a in seen for t in a} & set(NEVER_SAMPLED)
    first = seen[:64]
    assert rows[0]["ended"] == np.mean([EOS in a for a in first]) and 0.2 < rows[0]["ended"] < 1
    assert rows[0]["length"] == np.mean([len(a) for a in first])
    assert rows[0]["reward"] == fives([], first).mean()


def test_2_a_reward_may_edit_its_lists(small):
    def rough(prompts, answers):
        out = fives(prompts, answers)
        for side in (prompts, answers):
            while side:
                side.pop().clear()
        return out

    rows = [train(copy.deepcopy(small), draw_prompts, reward, QUICK, 0) for reward in (fives, rough)]
    assert rows[0] == rows[1]


def scores_in(monkeypatch, *args):
    """What each answer of each step of a run is scores, and whether it ended."""
    seen, plain = [], ppo.token_rewards
    with monkeypatch.context() as patch:
        patch.setattr(
            ppo,
            "token_rewards",
            lambda scores, batch, *a: (seen.append((scores, batch.ended)), plain(scores, batch, *a))[1],
        )
        rows = train(*args)
    return rows, seen


def test_4_an_answer_that_never_ends_pays(small, monkeypatch):
    _, seen = scores_in(
        monkeypatch, small, draw_prompts, nothing, with_settings(missing_eos_penalty=2.5, batch=32), 0
    )
    share = 1 - seen[0][1].mean()
    assert 0.1 < share < 0.9 and len(seen) == 3
    for scores, ended in seen:
        np.testing.assert_allclose(scores, np.where(ended, 0, -2.5) + 2.5 * share, atol=1e-12)


def test_4_the_penalty_teaches_a_policy_to_end(small):
    settings = with_settings(
        steps=20, batch=32, max_new_tokens=3, missing_eos_penalty=1.0, kl_coef=0.0, lr=1e-2
    )
    rows = train(small, draw_prompts, nothing, settings, 0)
    assert rows[0]["ended"] < 0.75 and rows[-1]["ended"] > 0.95


def test_4_answers_that_never_end_are_trained_on(tiny_policy):
    policy = tiny_policy(300)
    rows = train(
        policy,
        draw_prompts,
        lambda p, a: np.array([len(set(x)) for x in a], float),
        with_settings(batch=4, max_new_tokens=3),
        0,
    )
    assert [row["ended"] for row in rows] == [0, 0, 0, 0] and rows[0]["length"] == 3
    assert all(row["updates"] == 4 for row in rows[:-1])


@pytest.mark.parametrize("value_trunk", ["shared", "own"])
def test_5_the_values_trunk(small, value_trunk):
    """With a trunk of its own the value loss leaves the policy alone."""
    after = []
    for weight in (0.1, 10.0):
        policy = copy.deepcopy(small)
        train(
            policy,
            draw_prompts,
            fives,
            with_settings(steps=1, value_trunk=value_trunk, vf_coef=weight, max_grad_norm=1e9),
            0,
        )
        after.append(weights(policy))
    assert same(*after) == (value_trunk == "own") and not same(after[0], weights(small))


@pytest.mark.parametrize("value_trunk", ["shared", "own"])
def test_5_values_are_read_from_their_trunk_before_the_update(small, value_trunk):
    run, batch = started(small, with_settings(value_trunk=value_trunk))
    improve(run, batch, token_rewards(fives([], batch.answers), batch, 0.1, run.settings))
    run.step = 1
    got = roll_out(run, draw_prompts)
    ids, mask = (
        torch.from_numpy(x) for x in pad_right([p + a for p, a in zip(got.prompts, got.answers, strict=True)])
    )
    truth = []
    with torch.no_grad():
        for body in (ppo.trunk(small), run.critic.own or ppo.trunk(small)):
            hidden = body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            values = run.critic(hidden.flatten(0, 1)).view(ids.shape).numpy()
            truth.append(
                np.concatenate(
                    [
                        v[len(p) - 1 :][: len(a)]
                        for v, p, a in zip(values, got.prompts, got.answers, strict=True)
                    ]
                )
            )
    np.testing.assert_allclose(got.values[got.mask], truth[1], atol=1e-5)
    assert (np.abs(truth[0] - truth[1]).max() > 1e-3) == (value_trunk == "own")


@pytest.mark.parametrize("value_trunk", ["shared", "own"])
def test_5_the_value_learns(small, value_trunk):
    """Worth that the prompt decides: 1 where it holds a 5."""
    settings = with_settings(steps=25, batch=32, value_trunk=value_trunk, vf_coef=1.0, lr=1e-2)
    rows = train(small, draw_prompts, lambda prompts, a: fives(a, prompts), settings, 0)
    losses = [row["value_loss"] for row in rows[:-1]]
    spread = rows[0]["reward"] * (1 - rows[0]["reward"])
    assert losses[0] == pytest.approx(0.5 * spread, rel=0.5)  # from 0: half the variance of what is scores
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_6_bf16_is_of_the_update_alone_and_its_error_is_reported(small):
    exact, rough = (
        train(copy.deepcopy(small), draw_prompts, fives, with_settings(precision=p), 0)
        for p in ("fp32", "bf16")
    )
    assert max(row["ratio_error"] for row in exact[:-1]) <= 1e-5
    assert 1e-4 < rough[0]["ratio_error"] < 0.05
    for name in ("k1", "k3", "entropy", "reward", "length"):
        assert rough[0][name] == exact[0][name]
    assert abs(rough[0]["k1"]) <= 1e-5
    assert rough[1]["k1"] != exact[1]["k1"]


def test_6_a_policy_in_half_precision_is_refused(small):
    with pytest.raises(ValueError, match=r"policy's dtype = 'torch\.bfloat16': give float32"):
        train(small.bfloat16(), draw_prompts, fives, QUICK, 0)


def test_7_advantages_are_whitened_over_the_steps_answer_tokens(small, monkeypatch):
    seen = []
    plain = ppo.policy_losses
    monkeypatch.setattr(ppo, "policy_losses", lambda r, g, c: (seen.append(g), plain(r, g, c))[1])
    run, batch = started(small, with_settings(epochs=1))
    rewards = token_rewards(10 + 7 * fives([], batch.answers), batch, 0.3, run.settings)
    improve(run, batch, rewards)
    advantages = torch.cat(seen)
    assert len(seen) == 2 and len(advantages) == batch.mask.sum()
    assert abs(advantages.mean()) < 1e-5 and advantages.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert abs(seen[0].mean()) > 1e-3  # over the step, not the minibatch


def test_7_rewards_are_scaled_and_not_shifted():
    batch = fake([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    plain, white = (
        token_rewards(np.array([5.0, 6.0, 9.0]), batch, 0.5, Ppo(whiten_rewards=w)) for w in (False, True)
    )
    assert white[batch.mask].std() == pytest.approx(1, abs=1e-6) and plain[batch.mask].std() > 2
    np.testing.assert_allclose(white * plain[batch.mask].std(), plain, rtol=1e-6)


def test_8_the_ratio_is_clipped_where_it_would_gain_and_only_there():
    ratio = torch.tensor([0.5, 0.5, 1.1, 1.5, 1.5], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
    loss = ppo.policy_losses(ratio, advantages, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-0.5, 0.8, -2.2, -1.2, 1.5]))
    loss.sum().backward()
    torch.testing.assert_close(ratio.grad, torch.tensor([-1.0, 0.0, -2.0, 0.0, 1.0]))


def test_8_the_value_is_clipped_on_request():
    value, old, returns = torch.tensor([3.0, 3.0, 1.1]), torch.ones(3), torch.tensor([3.0, 0.0, 2.0])
    torch.testing.assert_close(ppo.value_losses(value, old, returns, 0.0), torch.tensor([0.0, 4.5, 0.405]))
    value.requires_grad_()
    clipped = ppo.value_losses(value, old, returns, 0.5)
    torch.testing.assert_close(clipped, torch.tensor([1.125, 4.5, 0.405]))
    clipped.sum().backward()
    torch.testing.assert_close(value.grad, torch.tensor([0.0, 3.0, -0.9]))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_9_gae_is_the_naive_double_sum(gae_lambda):
    rng = np.random.default_rng(0)
    lengths = [5, 1, 3, 6]
    mask = np.arange(6)[None] < np.array(lengths)[:, None]
    rewards, values = (np.where(mask, rng.normal(size=mask.shape), np.nan) for _ in range(2))
    got = gae(rewards, values, mask, gae_lambda)
    assert (got[~mask] == 0).all()
    for i, n in enumerate(lengths):
        for t in range(n):
            after = [*values[i, :n], 0.0]
            truth = sum(
                gae_lambda ** (u - t) * (rewards[i, u] + after[u + 1] - after[u]) for u in range(t, n)
            )
            assert got[i, t] == pytest.approx(truth, abs=1e-12)
    if gae_lambda == 1:
        assert got[0, 0] == pytest.approx(rewards[0, :5].sum() - values[0, 0], abs=1e-12)


def test_10_every_answer_once_an_epoch_in_an_order_of_its_own(small, monkeypatch):
    run, batch = started(small, with_settings(batch=9, epochs=3, minibatches=2))
    seen, plain = [], ppo.read_answers
    monkeypatch.setattr(ppo, "read_answers", lambda body, p, a: (seen.append(a), plain(body, p, a))[1])
    got = improve(run, batch, token_rewards(fives([], batch.answers), batch, 0.1, run.settings))
    assert got["updates"] == len(seen) == 6 and [len(a) for a in seen] == [5, 4] * 3
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(e) == sorted(batch.answers) for e in epochs) and epochs[0] != epochs[1] != epochs[2]


def test_10_a_token_weighs_the_same_in_every_minibatch(small):
    """With a rate that moves nothing, the mean loss does not depend on the cut."""
    got = []
    for count in (1, 2, 8):
        run, batch = started(copy.deepcopy(small), with_settings(minibatches=count, epochs=1, lr=1e-30))
        assert len(set(map(len, batch.answers))) > 2
        columns = improve(run, batch, token_rewards(fives([], batch.answers), batch, 0.1, run.settings))
        got.append([columns["policy_loss"], columns["value_loss"]])
    np.testing.assert_allclose(got, got[:1] * 3, atol=1e-6)


def test_11_the_coefficient_adapts_to_the_target():
    assert ppo.adapted_kl_coef(0.5, 99.0, 0.0) == 0.5
    assert ppo.adapted_kl_coef(0.5, 3.3, 3.0) == pytest.approx(0.5 * 1.01)
    assert ppo.adapted_kl_coef(0.5, 99.0, 3.0) == pytest.approx(0.5 * 1.02)
    assert ppo.adapted_kl_coef(0.5, -1.0, 3.0) == pytest.approx(0.5 * 0.98)


def test_11_the_coefficient_in_a_run(small):
    fixed, free = (
        train(copy.deepcopy(small), draw_prompts, fives, with_settings(target_kl=t), 0) for t in (0.0, 50.0)
    )
    assert [row["kl_coef"] for row in fixed] == [0.1] * 4
    np.testing.assert_allclose([row["kl_coef"] for row in free], 0.1 * 0.98 ** np.arange(4), rtol=1e-12)


def test_12_a_steps_updates_end_where_the_policy_has_moved_too_far(small):
    run = functools.partial(train, prompts=draw_prompts, reward=fives, seed=0)
    free, held = (run(copy.deepcopy(small), settings=with_settings(early_stop_kl=k)) for k in (0.0, 1e-9))
    assert [row["updates"] for row in free[:-1]] == [4, 4, 4]
    assert [row["updates"] for row in held[:-1]] == [1, 1, 1]
    assert run(copy.deepcopy(small), settings=with_settings(early_stop_kl=1e3)) == free


def test_13_the_rate_is_that_of_every_schedule_here(small):
    adam = Run(small, QUICK, 0, None).optimiser.param_groups
    assert [(g["eps"], g["weight_decay"]) for g in adam] == [(1e-5, 0.0)]
    rows = train(small, draw_prompts, fives, QUICK, 0)
    assert [row["lr"] for row in rows[:-1]] == [3e-3 * lr_factor(step, 3) for step in range(3)]


def test_13_the_rate_reaches_the_optimiser(small):
    seen = []
    hook = register_optimizer_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    try:
        rows = train(small, draw_prompts, fives, with_settings(steps=40, epochs=1, minibatches=1), 0)
    finally:
        hook.remove()
    assert seen == [row["lr"] for row in rows[:-1]] and seen[0] < seen[2] > seen[-1]


def test_14_entropy_is_that_of_the_policy(small, tiny_policy):
    """Of answers of one token the sampled entropy is the entropy, within four standard errors."""
    rows = train(small, one_prompt, nothing, with_settings(steps=1, batch=512, max_new_tokens=1), 0)
    fresh = tiny_policy(VOCAB)
    logits = fresh(input_ids=torch.tensor([[BOS, 5, SEP]])).logits[0, -1].detach()
    logits[NEVER_SAMPLED] = -torch.inf
    exact = torch.distributions.Categorical(logits=logits)
    surprise = -exact.logits[[EOS, *WORDS]]
    error = float((exact.probs[[EOS, *WORDS]] * (surprise - exact.entropy()) ** 2).sum().sqrt()) / 512**0.5
    assert rows[0]["entropy"] == pytest.approx(float(exact.entropy()), abs=4 * error + 1e-6) and error < 0.02


def test_15_log_probabilities_are_captured_under_the_ban(lm):
    run = Run(lm, with_settings(max_new_tokens=9), 0, None)
    batch = roll_out(run, draw_prompts)
    with torch.no_grad():
        every, real = plain_log_probs(lm, batch.prompts, batch.answers)
    np.testing.assert_allclose(batch.logprobs[batch.mask], every[real].numpy(), atol=1e-5)
    np.testing.assert_allclose(batch.ref_logprobs[batch.mask], every[real].numpy(), atol=1e-5)
    assert len(set(map(len, batch.prompts))) == 2
    free = torch.log_softmax(lm(input_ids=torch.tensor([batch.prompts[0]])).logits[0, -1], -1)
    assert abs(free[batch.answers[0][0]].item() - batch.logprobs[0, 0]) > 1e-3  # the ban is no detail


def test_15_chunks_of_any_size_read_the_same(small, monkeypatch):
    run, whole = started(small)
    calls, plain = [], ppo.read_answers
    monkeypatch.setattr(ppo, "read_answers", lambda body, p, a: (calls.append(len(a)), plain(body, p, a))[1])
    monkeypatch.setattr(ppo, "CHUNK_TOKENS", 15)
    cut = roll_out(run, draw_prompts)
    assert len(calls) > 2 and sum(calls) == 8  # the reference: the critic reads what sampling passes by
    for name in ("logprobs", "ref_logprobs", "values"):
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), atol=1e-6)


def test_15_there_is_no_second_pass(small, monkeypatch):
    """The log-probabilities that the ratio starts from are the sampler's own."""
    plain = ppo.sample

    def shifted(*args, **more):
        samples = plain(*args, **more)
        return dataclasses.replace(samples, logprobs=samples.logprobs - 0.1)

    monkeypatch.setattr(ppo, "sample", shifted)
    run = Run(small, QUICK, 0, None)
    batch = roll_out(run, draw_prompts)
    got = improve(run, batch, token_rewards(fives([], batch.answers), batch, 0.1, QUICK))
    assert got["ratio_error"] == pytest.approx(np.expm1(0.1), abs=1e-4)


def test_16_at_step_0_the_ratio_is_1_and_the_kl_0(lm):
    rows = train(lm, draw_prompts, fives, with_settings(max_new_tokens=9, steps=2), 0)
    assert rows[0]["ratio_error"] <= 1e-5 and rows[1]["ratio_error"] <= 1e-5
    assert abs(rows[0]["k1"]) <= 1e-5 and 0 <= rows[0]["k3"] <= 1e-9
    assert rows[2]["k3"] > 1e-4


def test_16_a_sampler_that_is_not_the_reference_stops_the_run(small, monkeypatch):
    plain = ppo.sample
    monkeypatch.setattr(
        ppo, "sample", lambda *a, **k: dataclasses.replace(d := plain(*a, **k), logprobs=d.logprobs - 0.01)
    )
    with pytest.raises(ValueError, match=r"step 0 = '0\.01 nats between the sampler and the reference'"):
        train(small, draw_prompts, fives, QUICK, 0)


def test_16_a_head_with_a_bias_is_trained_as_it_is(small):
    head = torch.nn.Linear(16, VOCAB)
    head.weight = small.lm_head.weight
    small.lm_head = head
    before = head.bias.detach().clone()
    rows = train(small, draw_prompts, fives, QUICK, 0)
    assert max(row["ratio_error"] for row in rows[:-1]) <= 1e-5 and abs(rows[0]["k1"]) <= 1e-5
    assert (head.bias != before).sum() >= 4  # what is never sampled has no gradient


def test_16_a_policy_that_is_more_than_its_parts_stops_the_run(small):
    hook = small.register_forward_hook(lambda module, args, out: out.__setitem__("logits", 2 * out.logits))
    with pytest.raises(ValueError, match=r"policy's logits = .* away from its linear layer's"):
        train(small, draw_prompts, fives, QUICK, 0)
    hook.remove()
    train(small, draw_prompts, fives, QUICK, 0)


def test_17_the_gradient_is_clipped_policy_and_value_together(small):
    seen = []

    def norm(optimiser, *_):
        grads = [p.grad for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
        seen.append(float(torch.stack([g.square().sum() for g in grads]).sum().sqrt()))

    hook = register_optimizer_step_pre_hook(norm)
    try:
        rows = train(
            small, draw_prompts, lambda p, a: 100 * fives(p, a), with_settings(max_grad_norm=0.01), 0
        )
    finally:
        hook.remove()
    assert len(seen) == 12 and max(seen) <= 0.01 * (1 + 1e-4)
    assert all(row["grad_norm"] > 0.1 for row in rows[:-1])  # as it was


@pytest.mark.parametrize("value_trunk", ["shared", "own"])
def test_18_the_first_values_are_0_and_their_gradient_leaves_the_trunk(small, value_trunk):
    run = Run(small, with_settings(value_trunk=value_trunk), 0, None)
    batch = roll_out(run, draw_prompts)
    assert (batch.values == 0).all()
    body = ppo.trunk(small) if value_trunk == "shared" else run.critic.own
    loss = (run.critic(ppo.read_answers(body, batch.prompts, batch.answers)) - 1).square().sum()
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in body.parameters())
    assert run.critic.head.weight.grad.any() and run.critic.head.bias.grad.any()
    assert roll_out(started(small)[0], draw_prompts).values.any()


def test_19_an_offset_of_the_reward_changes_nothing(small, monkeypatch):
    """Reward models leave it free; a value head that starts at zero would need a while to learn it."""
    settings, runs = with_settings(steps=8, batch=32), {}
    for offset in (0.0, -3.0, 50.0):
        reward = lambda p, a: fives(p, a) + offset  # noqa: E731, B023
        runs[offset] = scores_in(monkeypatch, copy.deepcopy(small), draw_prompts, reward, settings, 0)
    rows, scores = runs[0.0]
    assert abs(scores[0][0].mean()) < 1e-12 and abs(scores[7][0].mean()) > 0.02  # one origin, that of step 0
    for offset in (-3.0, 50.0):
        others, again = runs[offset]
        np.testing.assert_allclose([p for p, _ in scores], [p for p, _ in again], atol=1e-9)
        for row, other in zip(rows, others, strict=True):
            assert {**other, "reward": other["reward"] - offset} == pytest.approx(row, rel=1e-3, abs=1e-5)


def test_kl_columns_are_those_of_the_estimators():
    """Schulman's k1 and k3, summed over an answer's tokens, by a loop."""
    batch = fake([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    sums = np.zeros(2)
    for i, t in zip(*np.nonzero(batch.mask), strict=True):
        r = float(batch.logprobs[i, t] - batch.ref_logprobs[i, t])
        sums += [r, np.exp(-r) - 1 + r]
    got = ppo.describe(batch)
    assert [got["k1"], got["k3"]] == pytest.approx(sums / 3, rel=1e-5)


# another vocabulary


def test_special_tokens_are_the_policys(vocabulary):
    """Whatever its EOS, PAD and bans: answers end, and sampling, reference and training agree."""
    special, model = vocabulary
    policy, seen = copy.deepcopy(model), []
    with torch.no_grad():
        policy.get_output_embeddings().weight[list(special.eos)] *= 6

    def reward(prompts, answers):
        seen.extend(answers)
        return np.array([len(set(answer)) for answer in answers], float)

    settings = with_settings(batch=32, max_new_tokens=8, missing_eos_penalty=1.0)
    rows = train(policy, lambda rng, n: rng.integers(20, 40, (n, 3)).tolist(), reward, settings, 0)
    assert 0.1 < rows[0]["ended"] < 1 and rows[0]["ratio_error"] <= 1e-5 and abs(rows[0]["k1"]) <= 1e-5
    assert rows[0]["ended"] == np.mean([answer[-1] in special.eos for answer in seen[:32]])
    for answer in seen:
        assert not set(answer[:-1]) & set(special.eos) and not set(answer) & set(special.never_sampled)
        assert answer[-1] in special.eos or len(answer) == 8


# what it learns


def test_it_raises_a_trivial_reward_to_its_ceiling(small):
    settings = Ppo(steps=20, batch=32, max_new_tokens=5, lr=1e-2, kl_coef=0.0, minibatches=2)
    rows = train(small, draw_prompts, fives, settings, 0)
    assert rows[0]["reward"] < 0.75 and rows[-1]["reward"] > 0.97
    assert rows[-1]["k1"] > 0.3


def test_without_a_reward_the_penalty_holds_it(small):
    """Whitening makes steps of rounding, so it trembles; a reward moves it a hundred times as far."""
    settings = Ppo(steps=20, batch=32, max_new_tokens=5, lr=1e-3, kl_coef=0.1, minibatches=2)
    rows, moved = (train(copy.deepcopy(small), draw_prompts, r, settings, 0) for r in (nothing, fives))
    assert max(row["k3"] for row in rows) < 0.05 and rows[-1]["k3"] < 0.003
    assert moved[-1]["k3"] > 100 * rows[-1]["k3"]


def test_the_penalty_brings_back_a_policy_that_has_left(small):
    """From KL far above 0, with no reward: the penalty alone, of the right sign, undoes it."""
    settings = Ppo(steps=20, batch=32, max_new_tokens=3, lr=1e-2, kl_coef=1.0, minibatches=2)
    run = Run(small, settings, 0, None)
    start = weights(run.policy)
    train(small, draw_prompts, fives, dataclasses.replace(settings, kl_coef=0.0), 0)
    assert not same(weights(small), start)
    far = []
    for step in range(20):
        run.step = step
        batch = roll_out(run, draw_prompts)
        far.append(ppo.describe(batch)["k3"])
        improve(run, batch, token_rewards(nothing([], batch.answers), batch, 1.0, settings))
    assert far[0] > 0.5 and far[-1] < 0.1


def answers_of_two():
    """All answers of at most two tokens."""
    return [[EOS], *([w, e] for w in WORDS for e in (EOS, *WORDS))]


@torch.no_grad()
def probabilities(policy):
    every = answers_of_two()
    logprobs, real = plain_log_probs(policy, [[BOS, 5, SEP]] * len(every), every)
    return (torch.where(real, logprobs, 0.0).sum(1)).exp().double().numpy()


@pytest.mark.parametrize("options", [{}, {"value_trunk": "own"}, {"whiten_rewards": True}], ids=str)
def test_it_finds_the_exact_optimum_of_an_enumerable_world(small, options):
    """max E[r] - beta KL over all policies is pi0 exp(r / beta) / Z; its gap is beta KL(pi || optimum)."""
    every, beta = answers_of_two(), 0.5
    worth = dict(zip(map(tuple, every), np.random.default_rng(2).normal(size=len(every)), strict=True))
    r = np.array(list(worth.values()))
    start = probabilities(small)
    assert start.sum() == pytest.approx(1, abs=1e-5)
    best = start * np.exp(r / beta)
    best /= best.sum()

    def kl(p, q):
        return float((p * np.log(p / q)).sum())

    settings = Ppo(
        steps=60, batch=128, max_new_tokens=2, lr=1e-2, kl_coef=beta, epochs=2, minibatches=2, **options
    )
    reward = lambda prompts, answers: np.array([worth[tuple(a)] for a in answers])  # noqa: E731
    rows = train(small, one_prompt, reward, settings, 0)
    end = probabilities(small)
    assert kl(start, best) > 0.5 and kl(best, start) > 0.4
    assert kl(end, best) < 0.01 * kl(start, best)
    assert end @ r == pytest.approx(best @ r, abs=0.03) and best @ r > start @ r + 0.5
    assert kl(end, start) == pytest.approx(kl(best, start), abs=0.05)
    assert np.mean([row["k1"] for row in rows[-5:]]) == pytest.approx(kl(end, start), abs=0.15)


# rows


def test_a_row_is_the_policy_after_as_many_updates_and_the_evaluation_sees_that_policy(small):
    seen = {}

    def eval_fn(run):
        seen[run.step] = weights(run.policy)
        return {"gold": np.float32(run.step), "far": torch.tensor(1.5)}

    start = weights(small)
    rows = train(small, draw_prompts, fives, with_settings(steps=5), 0, eval_fn)
    assert [row["step"] for row in rows] == list(range(6))
    assert [row["step"] for row in rows if "gold" in row] == [0, 2, 4, 5]
    assert same(seen[0], start) and same(seen[5], weights(small)) and not same(seen[2], seen[4])
    assert "updates" in rows[4] and "updates" not in rows[5] and rows[4]["far"] == 1.5
    assert json.loads(json.dumps(rows)) == rows


def test_seeds_and_steps_have_streams_of_their_own(small):
    rows = [
        train(copy.deepcopy(small), draw_prompts, fives, with_settings(batch=32, lr=1e-30), s)
        for s in (0, 0, 1)
    ]
    assert rows[0] == rows[1] != rows[2]
    assert len({row["entropy"] for row in rows[0] + rows[2]}) == 8


# errors


def no(prompts, answers):
    raise RuntimeError("the scorer is gone")


FAULTS = {
    "nan": (lambda p, a: np.where(np.arange(8) == 6, np.nan, 1.0), r"gave nan: give finite floats; prompt 6"),
    "inf": (lambda p, a: np.where(np.arange(8) == 2, np.inf, 1.0), r"gave inf: give finite floats; prompt 2"),
    "shape": (
        lambda p, a: np.ones((8, 1)),
        r"gave an array \(8, 1\) for 8 answers: give one float an answer; prompt 0",
    ),
    "count": (lambda p, a: [1.0] * 7, r"gave an array \(7,\) for 8 answers"),
    "text": (lambda p, a: ["good"] * 8, "raised ValueError: could not convert string to float"),
    "none": (lambda p, a: None, r"gave an array \(\) for 8 answers"),
    "raises": (no, "raised RuntimeError: the scorer is gone; prompt 0"),
}


@pytest.fixture(scope="module")
def whole(tiny_policy):
    """The rows of an uninterrupted run."""
    return train(tiny_policy(VOCAB), draw_prompts, fives, QUICK, 0)


@pytest.mark.parametrize("name", FAULTS)
def test_a_reward_that_fails_is_named_and_the_state_kept(small, whole, tmp_path, name):
    fault, message = FAULTS[name]
    calls, batch = itertools.count(), []

    def reward(prompts, answers):
        batch[:] = prompts
        return fives(prompts, answers) if next(calls) < 1 else fault(prompts, answers)

    with pytest.raises(ValueError, match=f"^reward at step 1 {message}") as caught:
        train(copy.deepcopy(small), draw_prompts, reward, QUICK, 0, folder=tmp_path)
    text = str(caught.value)
    i = int(text.split("prompt ")[1].split()[0])
    assert f"prompt {i} of the batch is {batch[i]}, its answer [" in text
    assert text.endswith(f"the state before the step is in {tmp_path / 'ppo.pt'}")
    kept = read_checkpoint(tmp_path / "ppo.pt")
    assert kept["step"] == 1 and len(kept["rows"]) == 1
    assert train(copy.deepcopy(small), draw_prompts, fives, QUICK, 0, folder=tmp_path) == whole


def test_a_rewards_error_is_not_lost_with_the_checkpoint(small, tmp_path, monkeypatch):
    def full(run):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ppo, "save_run", full)
    message = "raised RuntimeError: the scorer is gone; .*the state could not be written: .*No space left"
    with pytest.raises(ValueError, match=message) as caught:
        train(small, draw_prompts, no, QUICK, 0, folder=tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert isinstance(caught.value.__cause__.__cause__, RuntimeError)


def test_without_a_folder_the_error_says_so(small):
    with pytest.raises(ValueError, match="the state was not kept: give a folder") as caught:
        train(small, draw_prompts, no, QUICK, 0)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_loss_that_is_not_finite_stops_before_its_step(small):
    before = weights(small)
    with pytest.raises(
        ValueError, match=r"loss = .* inf \(value\).* step 0, update 0.*: lower ppo\.lr = 0\.003"
    ):
        train(small, draw_prompts, lambda p, a: 1e30 * fives(p, a), QUICK, 0)
    assert same(weights(small), before)


@pytest.mark.parametrize(
    "faulty", [lambda rng, n: [[BOS, 5]] * (n - 1), lambda rng, n: [[BOS, 5]] * (n - 1) + [[]]]
)
def test_prompts_that_cannot_be_answered_are_named(small, faulty):
    with pytest.raises(ValueError, match=r"prompts of step 0 = .*: give 8 lists of ids, none empty"):
        train(small, faulty, fives, QUICK, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"max_new_tokens": 0},
        {"missing_eos_penalty": -1.0},
        {"kl_coef": -0.1},
        {"kl_coef": np.inf},
        {"kl_coef": np.nan},
        {"target_kl": -1.0},
        {"value_trunk": "none"},
        {"vf_coef": -1.0},
        {"precision": "fp16"},
        {"cliprange": 0.0},
        {"cliprange_value": -0.1},
        {"gae_lambda": 1.1},
        {"epochs": 0},
        {"minibatches": 9},
        {"minibatches": 0},
        {"early_stop_kl": -1.0},
        {"lr": 0.0},
        {"lr": np.nan},
        {"max_grad_norm": 0.0},
        {"eval_every": 0},
        {"save_every": 0},
    ],
    ids=str,
)
def test_settings_are_checked_before_anything_runs(small, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"ppo\.{name} = {value!r}: give "):
        train(small, None, None, with_settings(**wrong), 0)


def test_an_adaptive_coefficient_needs_a_start():
    with pytest.raises(ValueError, match=r"ppo\.kl_coef = 0\.0: give a number above 0"):
        with_settings(kl_coef=0.0, target_kl=1.0).validate()
