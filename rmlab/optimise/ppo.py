"""PPO for language models: sample, score, improve. One file, read from the top; the reward is a function you give.

`train` is the loop; what it calls follows in the order of the calls. The algorithm: Schulman et al. 1707.06347, on tokens
as in Ziegler et al. 1909.08593 and Stiennon et al. 2009.01325; Huang et al. 2403.17031 tell which details matter.
These are ours, each with a test of its number:

1. Dropout is off throughout (eval mode), else the ratio is not 1 where nothing has changed.
2. Rewards fall on answer tokens only, the score on the answer's last token, `<eos>` where there is one.
3. The KL penalty is `beta (log pi - log ref)` a token, raw: clamped or made absolute it is another objective.
4. An answer that never ends has `missing_eos` taken from its score.
5. The value head sits on the policy's own trunk, or on a trunk of its own (`value`).
6. float32 by default; `bf16` is for the update's products alone, and its error stands in every row, `ratio_error`.
7. Advantages are whitened over the step's answer tokens. Rewards may be: divided by their spread and not shifted, so
   that score and penalty keep their rate of exchange.
8. The ratio is clipped; so is the value, on request.
9. GAE (Schulman et al. 1506.02438) with discount 1: a penalty is worth the same wherever it falls.
10. Epochs in minibatches of whole answers; every token weighs the same, whichever its minibatch.
11. `beta` is fixed, or adapts to a KL `target` (Ziegler et al., section 2.2).
12. A step's updates end when a minibatch shows the policy `stop_kl` nats a token from its sampler.
13. The learning rate warms up over 5% of the steps and falls as a cosine to a tenth; Adam's epsilon is 1e-5.
14. Entropy is logged, from the sampled log-probabilities: `-log pi`, nats a token.
15. Log-probabilities are captured while sampling, of the distribution that is drawn from: what is never sampled is
    banned and the rest renormalised, in sampling, training and reference alike. No second pass; a value head on the
    policy's trunk reads the same hidden states on the way.
16. At step 0 the ratio is 1 and the KL 0, or `train` stops: each sampled log-probability is held against the reference's,
    and one answer's against the model's plain forward.
17. The gradient's norm is clipped, policy and value together.
18. The value head starts at zero: the first advantages are what was received, without an untrained head's noise, and its
    first gradient into the trunk is zero.
19. Step 0's mean score is taken from every score, so that zero is right on average. The optimum stays where it is; but
    with `lam` < 1 and an offset that the head has yet to learn, ending early would look good (or bad) by itself.

Letters: B answers, T tokens (`max_answer`), N answer tokens of a batch end to end (no padding), D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rmlab.fast.prefix import read_answers
from rmlab.optimise.sampling import sample
from rmlab.recipe import Ppo, require, stream, stream_seed
from rmlab.store import write_atomic
from rmlab.tokens import EOS, NEVER_SAMPLED, PAD

Ids = list[list[int]]
EXACT = 1e-3  # nats between log-probabilities at step 0: a mistake shows as 1e-2 and more, float32 as 1e-6
CHUNK_TOKENS = 3072  # passes without gradients go in chunks of about this many tokens


def train(
    policy: nn.Module, prompts: Callable[[np.random.Generator, int], Ids], reward: Callable[[Ids, Ids], np.ndarray],
    settings: Ppo, seed: int, watch: Callable[[Run], dict] | None = None,
    folder: str | Path | None = None, tick: Callable[[int], None] | None = None,
) -> list[dict]:  # fmt: skip
    """Train `policy` in place against `reward`, at a price of `beta` a nat of KL from where it starts.

    Parameters
    ----------
    policy : a Hugging Face causal language model in float32; a copy of it as it comes is the reference
    prompts : (generator, B) -> B prompts as token ids
    reward : (prompts, answers) -> (B,) floats; an answer's ids end in `<eos>`, or it has `max_answer` tokens and none
    watch : run -> more columns, numbers, every `eval_every` steps and at the end; `run.policy`, `run.critic`, `run.step` are as they are then
    folder : where the state is kept every `save_every` steps; the same call again goes on from there, on a CPU bit for bit
    tick : called with the step when it is done

    Returns
    -------
    `steps + 1` rows. Row s is the policy after s steps, on answers of its own: `step`; `reward` as given; `k1`, `k3`, KL
    in nats an answer; `entropy`, nats a token; `length`, tokens; `ended`, share; `beta`. Then, but for the last row, of
    the update that learns from these answers: `lr`, `policy_loss`, `value_loss`, `clip_share` of tokens, `grad_norm` before
    clipping, `ratio_error` (the first minibatch's largest distance of a ratio from 1), `updates` (optimiser steps taken).

    Raises
    ------
    ValueError
        A reward that raises or is not (B,) finite floats (the state before the step is written to `folder` first);
        a loss that is not finite; a folder of another run; log-probabilities that differ at step 0.
    """
    settings.validate()
    run = Run(policy, settings, seed, folder)
    while run.step <= settings.steps:
        batch = roll_out(run, prompts)
        if run.step == 0:
            check_start(run, batch)
        score = scores(run, reward, batch)
        paid = score - settings.missing_eos * ~batch.ended  # detail 4
        run.origin = float(paid.mean()) if run.step == 0 else run.origin  # detail 19
        row = {"step": run.step, "reward": score.mean(), **describe(batch), "beta": run.beta}
        if watch and (run.step % settings.eval_every == 0 or run.step == settings.steps):
            row |= watch(run)
            policy.eval()  # detail 1, whatever it left
        if run.step < settings.steps:
            row |= improve(run, batch, token_rewards(paid - run.origin, batch, run.beta, settings))
            run.beta = adapted(run.beta, row["k1"], settings.target)
        run.rows.append({k: v.item() if hasattr(v, "item") else v for k, v in row.items()})
        run.step += 1
        if run.step % settings.save_every == 0 or run.step > settings.steps:
            run.save()
        if tick:
            tick(run.step - 1)
    return run.rows


class Run:
    """All that changes from step to step, and its checkpoint. Random streams are named by (seed, step): none is kept."""

    def __init__(self, policy: nn.Module, settings: Ppo, seed: int, folder: str | Path | None):
        kind = str(next(policy.parameters()).dtype)
        require(
            kind == "torch.float32", "policy's dtype", kind, "float32 weights; ppo.precision is for speed"
        )
        self.policy, self.settings, self.seed = policy.eval(), settings, seed
        self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.critic = Critic(policy, settings.value)
        self.weights = [p for m in (policy, self.critic) for p in m.parameters() if p.requires_grad]
        adam = {"betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.0, "fused": True}
        self.optimiser = torch.optim.AdamW(self.weights, lr=settings.lr, **adam)
        self.device, self.step, self.rows = self.weights[0].device, 0, []
        self.beta, self.origin = settings.beta, 0.0
        self.path = None if folder is None else Path(folder) / "ppo.pt"
        if self.path is not None:
            start = hashlib.sha256(b"".join(w.cpu().numpy().tobytes() for w in policy.state_dict().values()))
            self.whose = {**dataclasses.asdict(settings), "seed": seed, "policy": start.hexdigest()}
            if self.path.is_file():
                self.load()

    def save(self) -> str:
        """Write the checkpoint, whole or not at all; say where."""
        if self.path is None:
            return "the state was not kept: give a folder"
        plain = {n: getattr(self, n) for n in ("whose", "beta", "origin", "step", "rows")}
        state = {n: getattr(self, n).state_dict() for n in ("policy", "critic", "optimiser")}
        buffer = io.BytesIO()
        torch.save({**plain, "state": state}, buffer)
        write_atomic(self.path, buffer.getvalue())
        return f"the state before the step is in {self.path}"

    def load(self) -> None:
        kept = torch.load(self.path, map_location=self.device, weights_only=True)
        for name, value in self.whose.items():
            then = kept["whose"].get(name)
            require(then == value, f"{name} of the run in {self.path}", then, f"it again, not {value!r}, or another folder")  # fmt: skip
        for name, state in kept["state"].items():
            getattr(self, name).load_state_dict(state)
        self.beta, self.origin, self.step, self.rows = (kept[n] for n in ("beta", "origin", "step", "rows"))


class Critic(nn.Module):
    """What is still to come, from the hidden state that predicts an answer's next token: (N, D) -> (N,), reward units."""

    def __init__(self, policy: nn.Module, value: str):
        super().__init__()
        self.own = copy.deepcopy(trunk(policy)) if value == "own" else None  # detail 5
        like = policy.get_output_embeddings().weight
        self.head = nn.Linear(like.shape[1], 1, device=like.device)
        nn.init.zeros_(self.head.weight)  # detail 18
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden.float())[:, 0]


@dataclass(frozen=True)
class Batch:
    """A step's answers. Arrays are (B, T); what they hold beyond an answer's end, where `mask` is false, is not read."""

    prompts: Ids
    answers: Ids
    mask: np.ndarray  # bool: answer tokens
    logp: np.ndarray  # float32, of the sampled tokens, captured in sampling
    ref: np.ndarray  # float32, the same tokens under the reference
    values: np.ndarray  # float32, of the critic before the update

    @property
    def ended(self) -> np.ndarray:
        return np.array([answer[-1] == EOS for answer in self.answers])


def roll_out(run: Run, prompts: Callable) -> Batch:
    """Sample an answer to each prompt of this step; read it with the reference and the critic."""
    s, name = run.settings, ("ppo", run.step)
    asked = [[int(t) for t in p] for p in prompts(stream(run.seed, *name, "prompts"), s.batch)]
    require(len(asked) == s.batch and all(map(len, asked)), f"prompts of step {run.step}", [len(p) for p in asked], f"{s.batch} lists of ids, none empty")  # fmt: skip
    return draw(run, asked, 1, stream_seed(run.seed, *name, "answers"))


def draw(run: Run, prompts: Ids, answers: int, seed: int) -> Batch:
    """`answers` sampled answers to each prompt, prompt-major, with what the reference and the critic say of them."""
    body = run.critic.own
    drawn = sample(
        run.policy, prompts, answers, run.settings.max_answer, seed, read=None if body else run.critic
    )
    mask = drawn.ids != PAD  # PAD is never sampled
    asked = [p for p in prompts for _ in range(answers)]
    given = [row[real].tolist() for row, real in zip(drawn.ids, mask, strict=True)]
    ref, values = np.zeros_like(drawn.logp), np.zeros_like(drawn.logp) if body else drawn.values
    tokens = sum(map(len, asked)) + int(mask.sum())
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(asked)), min(len(asked), 1 + tokens // CHUNK_TOKENS)):
            some = [asked[i] for i in rows], [given[i] for i in rows]
            known = log_probs(run.reference, read_answers(trunk(run.reference), *some), some[1])
            _fill(ref, rows, mask, known)
            if body:
                _fill(values, rows, mask, run.critic(read_answers(body, *some)))
    return Batch(asked, given, mask, drawn.logp, ref, values)


def _fill(table: np.ndarray, rows: np.ndarray, mask: np.ndarray, found: torch.Tensor) -> None:
    """Write found (N,), token after token of some rows, where they are in table (B, T)."""
    there = np.zeros_like(mask)
    there[rows] = mask[rows]
    table[there] = found.cpu().numpy()


@torch.no_grad()
def check_start(run: Run, batch: Batch) -> None:
    """Detail 16: before the first update, sampler, reference and the model's own forward agree."""
    prompt, answer = batch.prompts[0], batch.answers[0]
    whole = torch.tensor([prompt + answer[:-1]], device=run.device)
    logits = run.policy(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 :]  # (T, V)
    plain = picked(logits.float(), [answer]).cpu().numpy()
    for name, other in (("the reference", batch.ref[batch.mask]), ("the model's own forward", plain)):
        error = np.abs(other - batch.logp[batch.mask][: len(other)]).max()
        if not error <= EXACT:
            raise ValueError(f"log-probabilities at step 0 differ by {error:.2g} between the sampler and {name}: give a policy whose head is one matrix, without bias, scaled logits, hooks or dropout")  # fmt: skip


def scores(run: Run, reward: Callable, batch: Batch) -> np.ndarray:
    """What the reward gives, (B,) float64; on anything else the state is written and one error says all."""
    cause, i, count = None, 0, len(batch.answers)
    try:
        lists = (
            [ids[:] for ids in side] for side in (batch.prompts, batch.answers)
        )  # a reward may edit its own
        given = np.asarray(reward(*lists), np.float64)
        if given.shape != (count,):
            wrong = f"gave an array {given.shape} for {count} answers: give one float an answer"
        elif np.isfinite(given).all():
            return given
        else:
            i = int(np.argmin(np.isfinite(given)))
            wrong = f"gave {given[i]}: give finite floats"
    except Exception as error:
        wrong, cause = f"raised {type(error).__name__}: {error}", error
    about = f"prompt {i} of the batch is {batch.prompts[i]}, its answer {batch.answers[i]}"
    raise ValueError(f"reward at step {run.step} {wrong}; {about}; {run.save()}") from cause


def describe(batch: Batch) -> dict:
    """The rollout's columns of a row. KL by Schulman's estimators: k1 = lr, k3 = exp(-lr) - 1 + lr, summed over tokens."""
    lr = np.where(batch.mask, batch.logp - batch.ref, 0.0)  # (B, T)
    kl = {"k1": lr.sum(1).mean(), "k3": (np.expm1(-lr) + lr).sum(1).mean()}
    entropy, length = -batch.logp[batch.mask].mean(), batch.mask.sum(1).mean()
    return {**kl, "entropy": entropy, "length": length, "ended": batch.ended.mean()}


def token_rewards(paid: np.ndarray, batch: Batch, beta: float, s: Ppo) -> np.ndarray:
    """Details 2, 3 and 7: what each answer is paid (B,) -> rewards (B, T), 0 beyond the ends."""
    rewards = np.where(batch.mask, -beta * (batch.logp - batch.ref), 0.0)
    rewards[np.arange(len(paid)), batch.mask.sum(1) - 1] += paid
    return rewards / np.sqrt(rewards[batch.mask].var() + 1e-8) if s.whiten_rewards else rewards


def gae(rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, lam: float) -> np.ndarray:
    """Detail 9: advantages (B, T) with discount 1, 0 where the mask is false; what stands there is not read.

    A_t = sum_i lam^i d_{t+i}, with d_t = r_t + V_{t+1} - V_t and V = 0 after an answer's last token.
    """
    out = np.zeros(mask.shape)
    later = value = np.zeros(len(mask))  # A and V of the next token
    for t in reversed(range(mask.shape[1])):
        later = np.where(mask[:, t], rewards[:, t] + value - values[:, t] + lam * later, 0.0)
        value = np.where(mask[:, t], values[:, t], 0.0)
        out[:, t] = later
    return out


def improve(run: Run, batch: Batch, rewards: np.ndarray) -> dict:
    """One step's updates on its answers, rewards (B, T); returns the update's columns of a row."""
    s, mask = run.settings, batch.mask
    advantages = gae(rewards, batch.values, mask, s.lam)
    returns, real = advantages + batch.values, advantages[mask]
    advantages = (advantages - real.mean()) / np.sqrt(real.var() + 1e-8)  # detail 7
    rate = run.optimiser.param_groups[0]["lr"] = s.lr * pace(run.step, s.steps)
    order = stream(run.seed, "ppo", run.step, "order")
    parts = [p for _ in range(s.epochs) for p in np.array_split(order.permutation(len(mask)), s.minibatches)]
    seen, ratio_error = [], 0.0
    for rows in parts:  # detail 10
        asked, answers = [batch.prompts[i] for i in rows], [batch.answers[i] for i in rows]
        flat = np.stack([x[rows][mask[rows]] for x in (batch.logp, batch.values, advantages, returns)])
        old, old_value, gain, aim = torch.from_numpy(flat.astype(np.float32)).to(run.device)  # (N,) each
        with torch.autocast(run.device.type, torch.bfloat16, enabled=s.precision == "bf16"):  # detail 6
            hidden = read_answers(trunk(run.policy), asked, answers)
            viewed = hidden if run.critic.own is None else read_answers(run.critic.own, asked, answers)
        log_ratio = log_probs(run.policy, hidden, answers) - old
        ratio = log_ratio.exp()
        if not seen:
            ratio_error = (ratio - 1).abs().max().item()
        if s.stop_kl and seen and (torch.expm1(log_ratio) - log_ratio).mean() > s.stop_kl:  # detail 12
            break
        share = s.minibatches / int(mask.sum())  # tokens weigh the same in minibatches of more and of fewer
        policy_loss = share * policy_terms(ratio, gain, s.clip).sum()
        value_loss = share * value_terms(run.critic(viewed), old_value, aim, s.value_clip).sum()
        run.optimiser.zero_grad(set_to_none=True)
        (policy_loss + s.value_weight * value_loss).backward()
        norm = nn.utils.clip_grad_norm_(run.weights, s.grad_norm)  # detail 17
        if not torch.isfinite(norm + policy_loss + value_loss):
            raise ValueError(f"loss = {policy_loss:.3g} (policy), {value_loss:.3g} (value), gradient norm = {norm:.3g} at step {run.step}, update {len(seen)}, which is not taken: lower ppo.lr = {s.lr} or scale the reward; the last checkpoint, if any, is {run.path}")  # fmt: skip
        run.optimiser.step()
        clipped = ((ratio - 1).abs() > s.clip).float().mean()
        seen.append([x.item() for x in (policy_loss, value_loss, clipped, norm)])
    means = zip(("policy_loss", "value_loss", "clip_share", "grad_norm"), np.mean(seen, 0), strict=True)
    return {"lr": rate, **dict(means), "ratio_error": ratio_error, "updates": len(seen)}


def policy_terms(ratio: torch.Tensor, gain: torch.Tensor, clip: float) -> torch.Tensor:
    """Detail 8: PPO's loss of each token, ratios and advantages (N,) -> (N,)."""
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def value_terms(value: torch.Tensor, old: torch.Tensor, aim: torch.Tensor, clip: float) -> torch.Tensor:
    """Detail 8: half the squared error of each value, or of the value moved by `clip` at most, whichever is worse; (N,)."""
    loss = (value - aim).square()
    if clip:
        loss = torch.maximum(loss, (old + (value - old).clamp(-clip, clip) - aim).square())
    return 0.5 * loss


def pace(step: int, steps: int) -> float:
    """Detail 13: the share of the learning rate at a step, as in `backbone.schedule`."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def adapted(beta: float, kl: float, target: float) -> float:
    """Detail 11: beta of the next step, from the KL of this one, nats an answer; the error is cut at 20%."""
    return beta * (1 + 0.1 * min(max(float(kl) / target - 1, -0.2), 0.2)) if target else beta


def log_probs(model: nn.Module, hidden: torch.Tensor, answers: Ids) -> torch.Tensor:
    """Log-probabilities of the answers' tokens, in float32: hidden (N, D) -> (N,)."""
    return picked(hidden.float() @ model.get_output_embeddings().weight.float().T, answers)


def picked(logits: torch.Tensor, answers: Ids) -> torch.Tensor:
    """Detail 15: logits (N, V) -> log-probabilities of the answers' tokens (N,), under the sampler's ban; logits are used up."""
    logits[:, list(NEVER_SAMPLED)] = -torch.inf
    tokens = torch.tensor([t for answer in answers for t in answer], device=logits.device)
    return -F.cross_entropy(logits, tokens, reduction="none")


def trunk(model: nn.Module) -> nn.Module:
    return getattr(model, model.base_model_prefix)
