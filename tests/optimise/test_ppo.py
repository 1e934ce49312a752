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

from rmlab import store
from rmlab.backbone import build, schedule
from rmlab.fast import rows as fastpath
from rmlab.optimise import ppo
from rmlab.optimise.ppo import Batch, Run, gae, improve, roll_out, token_rewards, train
from rmlab.recipe import Ppo, Size
from rmlab.tokens import BOS, EOS, NEVER_SAMPLED, SEP, pad_right

WORDS = (5, 6, 7)
VOCAB = 8
QUICK = Ppo(
    steps=3, batch=8, max_answer=5, epochs=2, minibatches=2, lr=3e-3, beta=0.1, eval_every=2, save_every=2
)


class Killed(BaseException):
    """A kill: nothing in the package catches it."""


@pytest.fixture
def small():
    """An untrained Llama over three words."""
    return build(Size(hidden=16, layers=1, heads=2, ff=32), VOCAB, seed=1).eval()


@pytest.fixture(params=["tiny_lm", "tiny_neox", "tiny_qwen"])
def lm(request):
    return copy.deepcopy(request.getfixturevalue(request.param))


def prompts(rng, count):
    """Prompts of two lengths."""
    return [[BOS, *rng.choice(WORDS, rng.integers(1, 3)), SEP] for _ in range(count)]


def one_prompt(rng, count):
    return [[BOS, 5, SEP]] * count


def fives(asked, answers):
    """Does the answer hold a 5?"""
    return np.array([float(5 in answer) for answer in answers])


def nothing(asked, answers):
    return np.zeros(len(answers))


def with_settings(**changes):
    return dataclasses.replace(QUICK, **changes)


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def plain_log_probs(model, asked, answers):
    """The model's own padded forward under the ban: (B, A) log-probabilities of the answers' tokens, and where they are real."""
    ids, mask = (torch.from_numpy(x) for x in pad_right([p + a for p, a in zip(asked, answers, strict=True)]))
    logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    logits[..., list(NEVER_SAMPLED)] = -torch.inf
    every = torch.log_softmax(logits, -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    real = mask[:, 1:] & (
        torch.arange(ids.shape[1] - 1) >= torch.tensor([len(p) - 1 for p in asked])[:, None]
    )
    return every, real


def ragged(seed, count=5, vocab=100):
    rng = np.random.default_rng(seed)
    sides = [[rng.integers(5, vocab, n).tolist() for n in rng.integers(1, 9, count)] for _ in range(2)]
    return sides[0], [a + [EOS] for a in sides[1]]


def started(policy, settings=QUICK, seed=0):
    """A run whose critic is not zero, and its first batch."""
    run = Run(policy, settings, seed, None)
    noise = torch.Generator().manual_seed(9)
    run.critic.head.weight.data = 0.3 * torch.randn(run.critic.head.weight.shape, generator=noise)
    return run, roll_out(run, prompts)


def fake(mask, seed=0, **given):
    """A batch of random numbers: no model."""
    rng = np.random.default_rng(seed)
    mask = np.asarray(mask, bool)
    answers = [[5] * int(m.sum() - 1) + [EOS] for m in mask]
    known = {n: rng.normal(size=mask.shape).astype(np.float32) for n in ("logp", "ref", "values")}
    return Batch([[BOS]] * len(mask), answers, mask, **{**known, **given})


# the forward


def test_log_probabilities_are_those_of_the_models_own_forward_with_gradients(lm):
    asked, answers = ragged(0)
    hidden = ppo.read_answers(ppo.trunk(lm), asked, answers)
    got = ppo.log_probs(lm, hidden, answers)
    every, real = plain_log_probs(lm, asked, answers)
    torch.testing.assert_close(got, every[real], atol=1e-5, rtol=0)
    assert len(got) == sum(map(len, answers))
    weight = torch.randn(len(got), generator=torch.Generator().manual_seed(1))
    grads = []
    for loss in (got @ weight, every[real] @ weight):
        lm.zero_grad()
        loss.backward()
        grads.append({n: p.grad.clone() for n, p in lm.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 10
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], atol=2e-5, rtol=1e-4, msg=name)


def test_what_padding_holds_changes_nothing(lm, monkeypatch):
    asked, answers = ragged(1)
    before = ppo.read_answers(ppo.trunk(lm), asked, answers)
    monkeypatch.setattr(fastpath, "pad_right", functools.partial(pad_right, pad=17))
    assert torch.equal(ppo.read_answers(ppo.trunk(lm), asked, answers), before)


def test_no_number_beyond_an_answers_end_is_read(small):
    """Rewards, columns and the update, with NaN wherever the mask is false."""
    out = []
    for fill in (0.0, np.nan):
        run, batch = started(copy.deepcopy(small))
        assert not batch.mask.all()
        spoilt = {
            n: np.where(batch.mask, getattr(batch, n), np.float32(fill)) for n in ("logp", "ref", "values")
        }
        batch = dataclasses.replace(batch, **spoilt)
        rewards = token_rewards(fives([], batch.answers), batch, 0.3, run.settings)
        assert (rewards[~batch.mask] == 0).all()
        columns = improve(run, batch, np.where(batch.mask, rewards, fill))
        out.append((ppo.describe(batch), columns, weights(run.policy)))
    assert out[0][:2] == out[1][:2] and same(out[0][2], out[1][2])


@pytest.mark.parametrize("value", ["shared", "own"])
def test_an_updates_gradient_is_that_of_a_plain_padded_implementation(lm, value):
    """PPO's loss written anew on padded rows, the model's own forward and autograd: only answer tokens count."""
    settings = with_settings(
        epochs=1, minibatches=1, grad_norm=1e9, value=value, value_clip=0.05, value_weight=0.7
    )
    run, batch = started(lm, settings)
    moved = dataclasses.replace(
        batch, logp=batch.logp + fake(batch.mask, 3).ref * 0.3
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
    body = ppo.trunk(policy) if value == "shared" else critic.own
    hidden = body(input_ids=ids, attention_mask=mask.long()).last_hidden_state[:, :-1]

    def wide(x):
        """(B, T) of the batch at the places of `every`."""
        out = torch.zeros(every.shape)
        out[real] = torch.from_numpy(x[batch.mask].astype(np.float32))
        return out

    gain = gae(rewards, batch.values, batch.mask, settings.lam)
    aim = wide(gain + batch.values)
    spread = gain[batch.mask]
    gain = wide((gain - spread.mean()) / spread.std())
    ratio = torch.where(real, every - wide(moved.logp), 0.0).exp()
    surrogate = torch.where(
        gain > 0, torch.clamp(ratio, max=1 + settings.clip), torch.clamp(ratio, min=1 - settings.clip)
    )
    policy_loss = -(surrogate * gain * real).sum() / real.sum()
    old = wide(batch.values)
    now = critic(hidden.flatten(0, 1)).view(every.shape)
    near = old + (now - old).clamp(-0.05, 0.05)
    value_loss = 0.5 * (torch.maximum((now - aim) ** 2, (near - aim) ** 2) * real).sum() / real.sum()
    (policy_loss + 0.7 * value_loss).backward()
    assert columns["policy_loss"] == pytest.approx(policy_loss.item(), abs=1e-5)
    assert columns["value_loss"] == pytest.approx(value_loss.item(), rel=1e-4)
    assert 0.1 < columns["clip_share"] < 0.9
    got = {n: p.grad for m in (run.policy, run.critic) for n, p in m.named_parameters() if p.grad is not None}
    want = {n: p.grad for m in (policy, critic) for n, p in m.named_parameters() if p.grad is not None}
    assert got.keys() == want.keys()
    for name in got:
        torch.testing.assert_close(got[name], want[name], atol=2e-5, rtol=1e-3, msg=name)


# the details, by number


def test_1_dropout_is_off_whatever_watch_leaves():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Qwen2Config(vocab_size=VOCAB, intermediate_size=32, attention_dropout=0.5, pad_token_id=0,
                             bos_token_id=1, eos_token_id=2, **size)  # fmt: skip
        policy = Qwen2ForCausalLM(config).train()
        for weight in policy.parameters():
            weight.data *= 5
        ids = torch.tensor([[1, 5, 6, 7]])
        assert not torch.equal(policy(input_ids=ids).logits, policy(input_ids=ids).logits)

    def watch(run):
        assert not run.policy.training
        run.policy.train()
        return {}

    rows = train(policy, prompts, fives, with_settings(eval_every=1), 0, watch)
    assert max(row["ratio_error"] for row in rows[:-1]) <= 1e-5 and abs(rows[0]["k1"]) <= 1e-5


def test_2_and_3_a_raw_penalty_on_every_answer_token_and_the_score_on_the_last():
    batch = fake([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    score = np.array([1.0, -2.0, 3.0])
    got = token_rewards(score, batch, 0.5, Ppo())
    for i, length in enumerate((3, 1, 4)):
        want = [
            -0.5 * (batch.logp[i, t] - batch.ref[i, t]) + (score[i] if t == length - 1 else 0)
            for t in range(length)
        ]
        np.testing.assert_allclose(got[i, :length], want, atol=1e-6)
        assert (got[i, length:] == 0).all()
    signs = np.sign((batch.logp - batch.ref)[batch.mask])
    assert {-1, 1} <= set(signs)  # neither sign is cut away


def test_2_the_reward_reads_answers_as_they_end(small):
    seen = []

    def reward(asked, answers):
        seen.extend(answers)
        return fives(asked, answers)

    rows = train(small, prompts, reward, with_settings(steps=1, batch=64), 0)
    assert len(seen) == 128 and all(5 >= len(a) >= 1 for a in seen)
    assert all((a[-1] == EOS) == (EOS in a) and (EOS in a or len(a) == 5) for a in seen)
    assert not {t for a in seen for t in a} & set(NEVER_SAMPLED)
    first = seen[:64]
    assert rows[0]["ended"] == np.mean([EOS in a for a in first]) and 0.2 < rows[0]["ended"] < 1
    assert rows[0]["length"] == np.mean([len(a) for a in first])
    assert rows[0]["reward"] == fives([], first).mean()


def test_2_a_reward_may_edit_its_lists(small):
    def rough(asked, answers):
        out = fives(asked, answers)
        for side in (asked, answers):
            while side:
                side.pop().clear()
        return out

    rows = [train(copy.deepcopy(small), prompts, reward, QUICK, 0) for reward in (fives, rough)]
    assert rows[0] == rows[1]


def paid_in(monkeypatch, *args):
    """What each answer of each step of a run is paid, and whether it ended."""
    seen, plain = [], ppo.token_rewards
    with monkeypatch.context() as patch:
        patch.setattr(ppo, "token_rewards", lambda paid, batch, *a: (seen.append((paid, batch.ended)), plain(paid, batch, *a))[1])  # fmt: skip
        rows = train(*args)
    return rows, seen


def test_4_an_answer_that_never_ends_pays(small, monkeypatch):
    _, seen = paid_in(monkeypatch, small, prompts, nothing, with_settings(missing_eos=2.5, batch=32), 0)
    share = 1 - seen[0][1].mean()
    assert 0.1 < share < 0.9 and len(seen) == 3
    for paid, ended in seen:
        np.testing.assert_allclose(paid, np.where(ended, 0, -2.5) + 2.5 * share, atol=1e-12)


def test_4_the_price_teaches_a_policy_to_end(small):
    settings = with_settings(steps=30, batch=32, max_answer=3, missing_eos=1.0, beta=0.0, lr=1e-2)
    rows = train(small, prompts, nothing, settings, 0)
    assert rows[0]["ended"] < 0.75 and rows[-1]["ended"] > 0.95


def test_4_answers_that_never_end_are_trained_on():
    policy = build(Size(hidden=16, layers=1, heads=2, ff=32), 300, seed=1)
    rows = train(policy, prompts, lambda p, a: np.array([len(set(x)) for x in a], float), with_settings(batch=4, max_answer=3), 0)  # fmt: skip
    assert [row["ended"] for row in rows] == [0, 0, 0, 0] and rows[0]["length"] == 3
    assert all(row["updates"] == 4 for row in rows[:-1])


@pytest.mark.parametrize("value", ["shared", "own"])
def test_5_the_values_trunk(small, value):
    """With a trunk of its own the value loss leaves the policy alone."""
    after = []
    for weight in (0.1, 10.0):
        policy = copy.deepcopy(small)
        train(policy, prompts, fives, with_settings(steps=1, value=value, value_weight=weight, grad_norm=1e9), 0)  # fmt: skip
        after.append(weights(policy))
    assert same(*after) == (value == "own") and not same(after[0], weights(small))


@pytest.mark.parametrize("value", ["shared", "own"])
def test_5_values_are_read_from_their_trunk_before_the_update(small, value):
    run, batch = started(small, with_settings(value=value))
    improve(run, batch, token_rewards(fives([], batch.answers), batch, 0.1, run.settings))
    run.step = 1
    got = roll_out(run, prompts)
    ids, mask = (torch.from_numpy(x) for x in pad_right([p + a for p, a in zip(got.prompts, got.answers, strict=True)]))  # fmt: skip
    want = []
    with torch.no_grad():
        for body in (ppo.trunk(small), run.critic.own or ppo.trunk(small)):
            hidden = body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            values = run.critic(hidden.flatten(0, 1)).view(ids.shape).numpy()
            want.append(np.concatenate([v[len(p) - 1 :][: len(a)] for v, p, a in zip(values, got.prompts, got.answers, strict=True)]))  # fmt: skip
    np.testing.assert_allclose(got.values[got.mask], want[1], atol=1e-5)
    assert (np.abs(want[0] - want[1]).max() > 1e-3) == (value == "own")


@pytest.mark.parametrize("value", ["shared", "own"])
def test_5_the_value_learns(small, value):
    """Worth that the prompt decides: 1 where it holds a 5."""
    settings = with_settings(steps=40, batch=32, value=value, value_weight=1.0, lr=1e-2)
    rows = train(small, prompts, lambda asked, a: fives(a, asked), settings, 0)
    losses = [row["value_loss"] for row in rows[:-1]]
    spread = rows[0]["reward"] * (1 - rows[0]["reward"])
    assert losses[0] == pytest.approx(0.5 * spread, rel=0.5)  # from 0: half the variance of what is paid
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_6_bf16_is_of_the_update_alone_and_its_error_is_reported(small):
    exact, rough = (train(copy.deepcopy(small), prompts, fives, with_settings(precision=p), 0) for p in ("fp32", "bf16"))  # fmt: skip
    assert max(row["ratio_error"] for row in exact[:-1]) <= 1e-5
    assert 1e-4 < rough[0]["ratio_error"] < 0.05
    for name in ("k1", "k3", "entropy", "reward", "length"):
        assert rough[0][name] == exact[0][name]
    assert abs(rough[0]["k1"]) <= 1e-5
    assert rough[1]["k1"] != exact[1]["k1"]


def test_6_a_policy_in_half_precision_is_refused(small):
    with pytest.raises(ValueError, match=r"policy's dtype = 'torch\.bfloat16': give float32"):
        train(small.bfloat16(), prompts, fives, QUICK, 0)


def test_7_advantages_are_whitened_over_the_steps_answer_tokens(small, monkeypatch):
    seen = []
    plain = ppo.policy_terms
    monkeypatch.setattr(ppo, "policy_terms", lambda r, g, c: (seen.append(g), plain(r, g, c))[1])
    run, batch = started(small, with_settings(epochs=1))
    rewards = token_rewards(10 + 7 * fives([], batch.answers), batch, 0.3, run.settings)
    improve(run, batch, rewards)
    gains = torch.cat(seen)
    assert len(seen) == 2 and len(gains) == batch.mask.sum()
    assert abs(gains.mean()) < 1e-5 and gains.std(correction=0) == pytest.approx(1, abs=1e-4)
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
    gain = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
    loss = ppo.policy_terms(ratio, gain, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-0.5, 0.8, -2.2, -1.2, 1.5]))
    loss.sum().backward()
    torch.testing.assert_close(ratio.grad, torch.tensor([-1.0, 0.0, -2.0, 0.0, 1.0]))


def test_8_the_value_is_clipped_on_request():
    value, old, aim = torch.tensor([3.0, 3.0, 1.1]), torch.ones(3), torch.tensor([3.0, 0.0, 2.0])
    torch.testing.assert_close(ppo.value_terms(value, old, aim, 0.0), torch.tensor([0.0, 4.5, 0.405]))
    value.requires_grad_()
    clipped = ppo.value_terms(value, old, aim, 0.5)
    torch.testing.assert_close(clipped, torch.tensor([1.125, 4.5, 0.405]))
    clipped.sum().backward()
    torch.testing.assert_close(value.grad, torch.tensor([0.0, 3.0, -0.9]))


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_9_gae_is_the_naive_double_sum(lam):
    rng = np.random.default_rng(0)
    lengths = [5, 1, 3, 6]
    mask = np.arange(6)[None] < np.array(lengths)[:, None]
    rewards, values = (np.where(mask, rng.normal(size=mask.shape), np.nan) for _ in range(2))
    got = gae(rewards, values, mask, lam)
    assert (got[~mask] == 0).all()
    for i, n in enumerate(lengths):
        for t in range(n):
            after = [*values[i, :n], 0.0]
            want = sum(lam ** (u - t) * (rewards[i, u] + after[u + 1] - after[u]) for u in range(t, n))
            assert got[i, t] == pytest.approx(want, abs=1e-12)
    if lam == 1:
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


def test_11_beta_adapts_to_the_target():
    assert ppo.adapted(0.5, 99.0, 0.0) == 0.5
    assert ppo.adapted(0.5, 3.3, 3.0) == pytest.approx(0.5 * 1.01)
    assert ppo.adapted(0.5, 99.0, 3.0) == pytest.approx(0.5 * 1.02)
    assert ppo.adapted(0.5, -1.0, 3.0) == pytest.approx(0.5 * 0.98)


def test_11_beta_in_a_run(small):
    fixed, free = (
        train(copy.deepcopy(small), prompts, fives, with_settings(target=t), 0) for t in (0.0, 50.0)
    )
    assert [row["beta"] for row in fixed] == [0.1] * 4
    np.testing.assert_allclose([row["beta"] for row in free], 0.1 * 0.98 ** np.arange(4), rtol=1e-12)


def test_12_a_steps_updates_end_where_the_policy_has_moved_too_far(small):
    run = functools.partial(train, prompts=prompts, reward=fives, seed=0)
    free, held = (run(copy.deepcopy(small), settings=with_settings(stop_kl=k)) for k in (0.0, 1e-9))
    assert [row["updates"] for row in free[:-1]] == [4, 4, 4]
    assert [row["updates"] for row in held[:-1]] == [1, 1, 1]
    assert run(copy.deepcopy(small), settings=with_settings(stop_kl=1e3)) == free


def test_13_the_rate_is_that_of_every_schedule_here(small):
    for steps in (3, 40, 150):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        plan = schedule(optimiser, steps)
        for step in range(steps):
            assert ppo.pace(step, steps) == pytest.approx(plan.get_last_lr()[0], rel=1e-9)
            optimiser.step()
            plan.step()
    adam = Run(small, QUICK, 0, None).optimiser.param_groups
    assert [(g["eps"], g["weight_decay"]) for g in adam] == [(1e-5, 0.0)]
    rows = train(small, prompts, fives, QUICK, 0)
    assert [row["lr"] for row in rows[:-1]] == [3e-3 * ppo.pace(s, 3) for s in range(3)]


def test_13_the_rate_reaches_the_optimiser(small):
    seen = []
    hook = register_optimizer_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    try:
        rows = train(small, prompts, fives, with_settings(steps=40, epochs=1, minibatches=1), 0)
    finally:
        hook.remove()
    assert seen == [row["lr"] for row in rows[:-1]] and seen[0] < seen[2] > seen[-1]


def test_14_entropy_is_that_of_the_policy(small):
    """Of answers of one token the sampled entropy is the entropy, within four standard errors."""
    rows = train(small, one_prompt, nothing, with_settings(steps=1, batch=512, max_answer=1), 0)
    fresh = build(Size(hidden=16, layers=1, heads=2, ff=32), VOCAB, seed=1)
    logits = fresh(input_ids=torch.tensor([[BOS, 5, SEP]])).logits[0, -1].detach()
    logits[list(NEVER_SAMPLED)] = -torch.inf
    exact = torch.distributions.Categorical(logits=logits)
    surprise = -exact.logits[[EOS, *WORDS]]
    error = float((exact.probs[[EOS, *WORDS]] * (surprise - exact.entropy()) ** 2).sum().sqrt()) / 512**0.5
    assert rows[0]["entropy"] == pytest.approx(float(exact.entropy()), abs=4 * error + 1e-6) and error < 0.02


def test_15_log_probabilities_are_captured_under_the_ban(lm):
    run = Run(lm, with_settings(max_answer=9), 0, None)
    batch = roll_out(run, prompts)
    with torch.no_grad():
        every, real = plain_log_probs(lm, batch.prompts, batch.answers)
    np.testing.assert_allclose(batch.logp[batch.mask], every[real].numpy(), atol=1e-5)
    np.testing.assert_allclose(batch.ref[batch.mask], every[real].numpy(), atol=1e-5)
    assert len(set(map(len, batch.prompts))) == 2
    free = torch.log_softmax(lm(input_ids=torch.tensor([batch.prompts[0]])).logits[0, -1], -1)
    assert abs(free[batch.answers[0][0]].item() - batch.logp[0, 0]) > 1e-3  # the ban is no detail


def test_15_chunks_of_any_size_read_the_same(small, monkeypatch):
    run, whole = started(small)
    calls, plain = [], ppo.read_answers
    monkeypatch.setattr(ppo, "read_answers", lambda body, p, a: (calls.append(len(a)), plain(body, p, a))[1])
    monkeypatch.setattr(ppo, "CHUNK_TOKENS", 15)
    cut = roll_out(run, prompts)
    assert len(calls) > 2 and sum(calls) == 8  # the reference: the critic reads what sampling passes by
    for name in ("logp", "ref", "values"):
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), atol=1e-6)


def test_15_there_is_no_second_pass(small, monkeypatch):
    """The log-probabilities that the ratio starts from are the sampler's own."""
    plain = ppo.sample

    def shifted(*args, **more):
        drawn = plain(*args, **more)
        return dataclasses.replace(drawn, logp=drawn.logp - 0.1)

    monkeypatch.setattr(ppo, "sample", shifted)
    run = Run(small, QUICK, 0, None)
    batch = roll_out(run, prompts)
    got = improve(run, batch, token_rewards(fives([], batch.answers), batch, 0.1, QUICK))
    assert got["ratio_error"] == pytest.approx(np.expm1(0.1), abs=1e-4)


def test_16_at_step_0_the_ratio_is_1_and_the_kl_0(lm):
    rows = train(lm, prompts, fives, with_settings(max_answer=9, steps=2), 0)
    assert rows[0]["ratio_error"] <= 1e-5 and rows[1]["ratio_error"] <= 1e-5
    assert abs(rows[0]["k1"]) <= 1e-5 and 0 <= rows[0]["k3"] <= 1e-9
    assert rows[2]["k3"] > 1e-4


def test_16_a_sampler_that_is_not_the_reference_stops_the_run(small, monkeypatch):
    plain = ppo.sample
    monkeypatch.setattr(
        ppo, "sample", lambda *a, **k: dataclasses.replace(d := plain(*a, **k), logp=d.logp - 0.01)
    )
    with pytest.raises(ValueError, match=r"step 0 differ by 0\.01 between the sampler and the reference"):
        train(small, prompts, fives, QUICK, 0)


def test_16_a_head_that_the_fast_path_does_not_know_stops_the_run(small):
    head = torch.nn.Linear(16, VOCAB)
    head.weight = small.lm_head.weight
    small.lm_head = head
    with pytest.raises(ValueError, match="between the sampler and the model's own forward"):
        train(small, prompts, fives, QUICK, 0)


def test_17_the_gradient_is_clipped_policy_and_value_together(small):
    seen = []

    def norm(optimiser, *_):
        grads = [p.grad for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
        seen.append(float(torch.stack([g.square().sum() for g in grads]).sum().sqrt()))

    hook = register_optimizer_step_pre_hook(norm)
    try:
        rows = train(small, prompts, lambda p, a: 100 * fives(p, a), with_settings(grad_norm=0.01), 0)
    finally:
        hook.remove()
    assert len(seen) == 12 and max(seen) <= 0.01 * (1 + 1e-4)
    assert all(row["grad_norm"] > 0.1 for row in rows[:-1])  # as it was


@pytest.mark.parametrize("value", ["shared", "own"])
def test_18_the_first_values_are_0_and_their_gradient_leaves_the_trunk(small, value):
    run = Run(small, with_settings(value=value), 0, None)
    batch = roll_out(run, prompts)
    assert (batch.values == 0).all()
    body = ppo.trunk(small) if value == "shared" else run.critic.own
    loss = (run.critic(ppo.read_answers(body, batch.prompts, batch.answers)) - 1).square().sum()
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in body.parameters())
    assert run.critic.head.weight.grad.any() and run.critic.head.bias.grad.any()
    assert roll_out(started(small)[0], prompts).values.any()


@pytest.mark.parametrize("offset", [-3.0, 50.0])
def test_19_an_offset_of_the_reward_changes_nothing(small, monkeypatch, offset):
    """Reward models leave it free; a value head that starts at zero would need a while to learn it."""
    runs = []
    for extra in (0.0, offset):
        reward = lambda p, a: fives(p, a) + extra  # noqa: E731, B023
        runs.append(
            paid_in(monkeypatch, copy.deepcopy(small), prompts, reward, with_settings(steps=8, batch=32), 0)
        )
    (rows, paid), (others, again) = runs
    assert abs(paid[0][0].mean()) < 1e-12 and abs(paid[7][0].mean()) > 0.02  # one origin, that of step 0
    np.testing.assert_allclose([p for p, _ in paid], [p for p, _ in again], atol=1e-9)
    for row, other in zip(rows, others, strict=True):
        assert {**other, "reward": other["reward"] - offset} == pytest.approx(row, rel=1e-3, abs=1e-5)


def test_kl_columns_are_those_of_the_estimators():
    from rmlab.measure.kl import kl_estimates

    batch = fake([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    want, got = kl_estimates(batch.logp, batch.ref, batch.mask), ppo.describe(batch)
    assert [got[n] for n in ("k1", "k3")] == pytest.approx([want[n].mean() for n in ("k1", "k3")], rel=1e-6)


# what it learns


def test_it_raises_a_trivial_reward_to_its_ceiling(small):
    settings = Ppo(steps=30, batch=32, max_answer=5, lr=1e-2, beta=0.0)
    rows = train(small, prompts, fives, settings, 0)
    assert rows[0]["reward"] < 0.75 and rows[-1]["reward"] > 0.97
    assert rows[-1]["k1"] > 0.3


def test_without_a_reward_the_penalty_holds_it(small):
    """Whitening makes steps of rounding, so it trembles; a reward moves it a hundred times as far."""
    settings = Ppo(steps=30, batch=32, max_answer=5, lr=1e-3, beta=0.1)
    rows, moved = (train(copy.deepcopy(small), prompts, r, settings, 0) for r in (nothing, fives))
    assert max(row["k3"] for row in rows) < 0.05 and rows[-1]["k3"] < 0.003
    assert moved[-1]["k3"] > 100 * rows[-1]["k3"]


def test_the_penalty_brings_back_a_policy_that_has_left(small):
    """From KL far above 0, with no reward: the penalty alone, of the right sign, undoes it."""
    settings = Ppo(steps=30, batch=32, max_answer=3, lr=1e-2, beta=1.0)
    run = Run(small, settings, 0, None)
    start = weights(run.policy)
    train(small, prompts, fives, dataclasses.replace(settings, beta=0.0), 0)
    assert not same(weights(small), start)
    far, batches = [], 0
    while batches < 30:
        batch = roll_out(run, prompts)
        far.append(ppo.describe(batch)["k3"])
        improve(run, batch, token_rewards(nothing([], batch.answers), batch, 1.0, settings))
        run.step, batches = run.step + 1, batches + 1
    assert far[0] > 0.5 and far[-1] < 0.1


def answers_of_two():
    """All answers of at most two tokens."""
    return [[EOS], *([w, e] for w in WORDS for e in (EOS, *WORDS))]


@torch.no_grad()
def probabilities(policy):
    every = answers_of_two()
    logp, real = plain_log_probs(policy, [[BOS, 5, SEP]] * len(every), every)
    return (torch.where(real, logp, 0.0).sum(1)).exp().double().numpy()


@pytest.mark.parametrize("options", [{}, {"value": "own"}, {"whiten_rewards": True}], ids=str)
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

    settings = Ppo(steps=60, batch=128, max_answer=2, lr=1e-2, beta=beta, epochs=2, minibatches=2, **options)
    reward = lambda asked, answers: np.array([worth[tuple(a)] for a in answers])  # noqa: E731
    rows = train(small, one_prompt, reward, settings, 0)
    end = probabilities(small)
    assert kl(start, best) > 0.5 and kl(best, start) > 0.4
    assert kl(end, best) < 0.01 * kl(start, best)
    assert end @ r == pytest.approx(best @ r, abs=0.03) and best @ r > start @ r + 0.5
    assert kl(end, start) == pytest.approx(kl(best, start), abs=0.05)
    assert np.mean([row["k1"] for row in rows[-5:]]) == pytest.approx(kl(end, start), abs=0.15)


# rows, resuming


def test_a_row_is_the_policy_after_as_many_updates_and_watch_sees_that_policy(small):
    seen = {}

    def watch(run):
        seen[run.step] = weights(run.policy)
        return {"gold": np.float32(run.step), "far": torch.tensor(1.5)}

    start = weights(small)
    rows = train(small, prompts, fives, with_settings(steps=5), 0, watch)
    assert [row["step"] for row in rows] == list(range(6))
    assert [row["step"] for row in rows if "gold" in row] == [0, 2, 4, 5]
    assert same(seen[0], start) and same(seen[5], weights(small)) and not same(seen[2], seen[4])
    assert "updates" in rows[4] and "updates" not in rows[5] and rows[4]["far"] == 1.5
    assert json.loads(json.dumps(rows)) == rows


HARD = with_settings(steps=5, target=0.05, batch=6)


@pytest.fixture(params=["shared", "own"])
def whole(small, request):
    """An uninterrupted run: settings, its rows and its weights."""
    settings = dataclasses.replace(HARD, value=request.param)
    policy = copy.deepcopy(small)
    return (
        settings,
        train(policy, prompts, fives, settings, 3, lambda run: {"gold": np.float64(run.step)}),
        weights(policy),
    )


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("where", ["tick", "reward", "write"])
def test_a_killed_run_goes_on_to_the_same_bits(small, whole, tmp_path, monkeypatch, step, where):
    settings, rows, after = whole
    watch = lambda run: {"gold": np.float64(run.step)}  # noqa: E731
    calls = itertools.count()

    def die(*args):
        if next(calls) == step:
            raise Killed
        return fives(*args) if where == "reward" else None

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if (
            where == "write"
        ):  # at the first checkpoint that ends the step or comes after it, before it is in place
            move = store.os.replace
            last = min(s for s in (1, 3, 5) if s >= step)
            writes = {1: 0, 3: 1, 5: 2}[last]
            patch.setattr(store.os, "replace", lambda *a: die_at(calls, writes, move, a))
        train(copy.deepcopy(small), prompts, die if where == "reward" else fives, settings, 3, watch, tmp_path, die if where == "tick" else None)  # fmt: skip
    policy = copy.deepcopy(small)
    assert train(policy, prompts, fives, settings, 3, watch, tmp_path) == rows
    assert same(weights(policy), after)


def die_at(calls, which, move, args):
    if next(calls) == which:
        raise Killed
    move(*args)


def test_a_finished_run_is_read_and_not_run_again(small, tmp_path):
    policy, rare = copy.deepcopy(small), with_settings(save_every=9)
    rows = train(policy, prompts, fives, rare, 0, folder=tmp_path)
    again = copy.deepcopy(small)
    assert train(again, None, None, rare, 0, folder=tmp_path) == rows
    assert same(weights(again), weights(policy)) and [f.name for f in tmp_path.iterdir()] == ["ppo.pt"]


def test_a_folder_of_another_run_is_refused(small, tmp_path):
    train(copy.deepcopy(small), prompts, fives, QUICK, 0, folder=tmp_path)
    other = build(Size(hidden=16, layers=1, heads=2, ff=32), VOCAB, seed=2)
    for policy, settings, seed, wrong in (
        (small, with_settings(lr=0.5), 0, r"^lr of the run in .*ppo\.pt = 0\.003: give it again, not 0\.5"),
        (small, QUICK, 1, "^seed of the run in .* = 0: give it again, not 1"),
        (other, QUICK, 0, "^policy of the run in "),
    ):
        with pytest.raises(ValueError, match=wrong):
            train(policy, prompts, fives, settings, seed, folder=tmp_path)


def test_seeds_and_steps_have_streams_of_their_own(small):
    rows = [
        train(copy.deepcopy(small), prompts, fives, with_settings(batch=32, lr=1e-30), s) for s in (0, 0, 1)
    ]
    assert rows[0] == rows[1] != rows[2]
    assert len({row["entropy"] for row in rows[0] + rows[2]}) == 8


# errors


def no(asked, answers):
    raise RuntimeError("the scorer is gone")


FAULTS = {
    "nan": (lambda p, a: np.where(np.arange(8) == 6, np.nan, 1.0), r"gave nan: give finite floats; prompt 6"),
    "inf": (lambda p, a: np.where(np.arange(8) == 2, np.inf, 1.0), r"gave inf: give finite floats; prompt 2"),
    "shape": (lambda p, a: np.ones((8, 1)), r"gave an array \(8, 1\) for 8 answers: give one float an answer; prompt 0"),
    "count": (lambda p, a: [1.0] * 7, r"gave an array \(7,\) for 8 answers"),
    "text": (lambda p, a: ["good"] * 8, "raised ValueError: could not convert string to float"),
    "none": (lambda p, a: None, r"gave an array \(\) for 8 answers"),
    "raises": (no, "raised RuntimeError: the scorer is gone; prompt 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_reward_that_fails_is_named_and_the_state_kept(small, tmp_path, name):
    fault, message = FAULTS[name]
    calls, asked = itertools.count(), []

    def reward(prompts, answers):
        asked[:] = prompts
        return fives(prompts, answers) if next(calls) < 1 else fault(prompts, answers)

    with pytest.raises(ValueError, match=f"^reward at step 1 {message}") as caught:
        train(copy.deepcopy(small), prompts, reward, QUICK, 0, folder=tmp_path)
    text = str(caught.value)
    i = int(text.split("prompt ")[1].split()[0])
    assert f"prompt {i} of the batch is {asked[i]}, its answer [" in text
    assert text.endswith(f"the state before the step is in {tmp_path / 'ppo.pt'}")
    kept = torch.load(tmp_path / "ppo.pt", weights_only=True)
    assert kept["step"] == 1 and len(kept["rows"]) == 1
    whole = train(copy.deepcopy(small), prompts, fives, QUICK, 0)
    assert train(copy.deepcopy(small), prompts, fives, QUICK, 0, folder=tmp_path) == whole


def test_without_a_folder_the_error_says_so(small):
    with pytest.raises(ValueError, match="the state was not kept: give a folder") as caught:
        train(small, prompts, no, QUICK, 0)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_loss_that_is_not_finite_stops_before_its_step(small):
    before = weights(small)
    with pytest.raises(
        ValueError, match=r"loss = .* inf \(value\).* step 0, update 0.*: lower ppo\.lr = 0\.003"
    ):
        train(small, prompts, lambda p, a: 1e30 * fives(p, a), QUICK, 0)
    assert same(weights(small), before)


@pytest.mark.parametrize(
    "given", [lambda rng, n: [[BOS, 5]] * (n - 1), lambda rng, n: [[BOS, 5]] * (n - 1) + [[]]]
)
def test_prompts_that_cannot_be_answered_are_named(small, given):
    with pytest.raises(ValueError, match=r"prompts of step 0 = .*: give 8 lists of ids, none empty"):
        train(small, given, fives, QUICK, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch": 0}, {"max_answer": 0}, {"missing_eos": -1.0}, {"beta": -0.1}, {"beta": np.inf},
        {"beta": np.nan}, {"target": -1.0}, {"value": "none"}, {"value_weight": -1.0}, {"precision": "fp16"},
        {"clip": 0.0}, {"value_clip": -0.1}, {"lam": 1.1}, {"epochs": 0}, {"minibatches": 9}, {"minibatches": 0},
        {"stop_kl": -1.0}, {"lr": 0.0}, {"lr": np.nan}, {"grad_norm": 0.0}, {"eval_every": 0}, {"save_every": 0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_are_checked_before_anything_runs(small, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"ppo\.{name} = {value!r}: give "):
        train(small, None, None, with_settings(**wrong), 0)


def test_an_adaptive_beta_needs_a_start():
    with pytest.raises(ValueError, match=r"ppo\.beta = 0\.0: give a number above 0"):
        with_settings(beta=0.0, target=1.0).validate()
