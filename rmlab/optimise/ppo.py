"""PPO for language models: sample, score, improve. One file, read from the top; the reward is a function.

`train` is the loop; what it calls follows in the order of the calls. The algorithm: Schulman et al.
1707.06347, on tokens as in Ziegler et al. 1909.08593 and Stiennon et al. 2009.01325; Huang et al. 2403.17031
tell which details matter. These are ours, each with a test of its number:

1. Dropout is off throughout (eval mode), else the ratio is not 1 where nothing has changed.
2. Rewards fall on answer tokens only, the score on the answer's last token, the EOS where there is one.
3. The KL penalty is `kl_coef (log pi - log ref)` a token, raw: clamped or absolute it is another objective.
4. An answer that never ends has `missing_eos_penalty` taken from its score.
5. The value head sits on the policy's own trunk, or on a trunk of its own (`value_trunk`).
6. float32 by default; `bf16` is for the update's products alone, its error is every row's `ratio_error`.
7. Advantages are whitened over the step's answer tokens. Rewards may be: divided by their spread and not
   shifted, so that score and penalty keep their rate of exchange.
8. The ratio is clipped; so is the value, on request.
9. GAE (Schulman et al. 1506.02438) with discount 1: a penalty is worth the same wherever it falls.
10. Epochs in minibatches of whole answers; every token weighs the same, whichever its minibatch.
11. `kl_coef` is fixed, or adapts to a `target_kl` (Ziegler et al., section 2.2).
12. A step's updates end when a minibatch shows the policy `early_stop_kl` nats a token from its sampler.
13. The learning rate warms up over 5% of the steps and falls as a cosine to a tenth; Adam's epsilon is 1e-5.
14. Entropy is logged, from the sampled log-probabilities: `-log pi`, nats a token.
15. Log-probabilities are captured while sampling, of the distribution that is drawn from: what is never
    sampled is banned and the rest renormalised, in sampling, training and reference alike. No second pass; a
    value head on the policy's trunk reads the same hidden states on the way.
16. At step 0 the ratio is 1 and the KL 0, or `train` stops: each sampled log-probability is held against the
    reference's, and one answer's against the model's plain forward.
17. The gradient's norm is clipped, policy and value together.
18. The value head starts at zero: the first advantages are what was received, without an untrained head's
    noise, and its first gradient into the trunk is zero.
19. Step 0's mean score is taken from every score, so that zero is right on average. The optimum stays where
    it is; but with `gae_lambda` < 1 and an offset that the head has yet to learn, ending early would look
    good (or bad) by itself.

Letters: B answers, T tokens (`max_new_tokens`), M answer tokens of a batch end to end (no padding), D hidden,
V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rmlab.backbone import lr_factor
from rmlab.fast.rows import read_answers
from rmlab.optimise.checkpoint import identity_of, load_run, save_run
from rmlab.optimise.head import Head, trunk
from rmlab.optimise.lora import changes_of, switched_off
from rmlab.optimise.sampling import sample
from rmlab.recipe import Ppo, require, stream, stream_seed
from rmlab.tokens import SpecialTokens

Ids = list[list[int]]
Prompts = Callable[[np.random.Generator, int], Ids]
Reward = Callable[[Ids, Ids], np.ndarray]
EXACT = 1e-3  # nats between log-probabilities at step 0: a mistake shows as 1e-2 and more, float32 as 1e-6
CHUNK_TOKENS = 3072  # passes without gradients go in chunks of about this many tokens


def train(
    policy: nn.Module,
    prompts: Prompts,
    reward: Reward,
    settings: Ppo,
    seed: int,
    eval_fn: Callable[[Run], dict] | None = None,
    folder: str | Path | None = None,
    on_step: Callable[[int], None] | None = None,
    special: SpecialTokens | None = None,
) -> list[dict]:
    """Train `policy` in place against `reward`, at a penalty of `kl_coef` a nat of KL from where it starts.

    Parameters
    ----------
    policy : a transformers causal language model in float32; as it comes (see `lora.py`) it is the reference too
    prompts : (generator, B) -> B prompts as token ids
    reward : (prompts, answers) -> (B,) floats; an answer ends in an EOS, or has `max_new_tokens` ids and none
    eval_fn : run -> more columns, every `eval_every` steps and at the end
    folder : where the state is kept every `save_every` steps; the same call again goes on from there, on a
        CPU bit for bit, once prompts and reward have given again what they gave at step 0
    on_step : called with the step when it is done
    special : what ends, pads and is never sampled; None reads it from the policy

    Returns
    -------
    `steps + 1` rows. Row s is the policy after s steps, on answers of its own: `step`; `reward`; `k1`, `k3`,
    KL in nats an answer; `entropy`, nats a token; `length`, tokens; `ended`, share; `kl_coef`. But for the
    last row, of the update on these answers: `lr`, `policy_loss`, `value_loss`, `clip_share` of tokens without a
    slope, `grad_norm` before clipping, `ratio_error` (the first minibatch's largest, from 1), `updates` taken.

    Raises
    ------
    ValueError
        A reward that raises or is not (B,) finite floats (the state is written to `folder` first); a loss
        that is not finite; a folder that is damaged or another run's; log-probabilities that differ at step 0.
    """
    settings.validate()
    run = Run(policy, settings, seed, folder, special)
    check_first_step(run, prompts, reward)
    while run.step <= settings.steps:
        batch = roll_out(run, prompts)
        if run.step == 0:
            check_start(run, batch)
        rewards = call_reward(run, reward, batch.prompts, batch.answers, run.step)
        scores = rewards - settings.missing_eos_penalty * ~batch.ended  # detail 4
        if run.step == 0:
            run.origin = float(scores.mean())  # detail 19
            run.first = {"prompts": batch.prompts, "answers": batch.answers, "rewards": rewards.tolist()}
        row = {"step": run.step, "reward": rewards.mean(), **describe(batch), "kl_coef": run.kl_coef}
        if eval_fn and (run.step % settings.eval_every == 0 or run.step == settings.steps):
            row |= eval_fn(run)
            policy.eval()  # detail 1, whatever it left
        if run.step < settings.steps:
            row |= improve(run, batch, token_rewards(scores - run.origin, batch, run.kl_coef, settings))
            run.kl_coef = adapted_kl_coef(run.kl_coef, row["k1"], settings.target_kl)
        run.finish_step(row)
        if on_step:
            on_step(run.step - 1)
    return run.rows


class Run:
    """All that changes from step to step, and its checkpoint. Random streams are named by (seed, step)."""

    def __init__(
        self,
        policy: nn.Module,
        settings: Ppo,
        seed: int,
        folder: str | Path | None,
        special: SpecialTokens | None = None,
    ):
        dtype = str(next(policy.parameters()).dtype)
        require(
            dtype == "torch.float32", "policy's dtype", dtype, "float32 weights; ppo.precision is for speed"
        )
        self.policy, self.settings, self.seed = policy.eval(), settings, seed
        self.head = Head(policy, special)
        alone = changes_of(policy) is None
        shared = settings.value_trunk == "shared"
        require(alone or shared, "ppo.value_trunk", "own", "shared, for low-rank changes: no second copy")
        self.reference = copy.deepcopy(policy).requires_grad_(False) if alone else policy
        self.reference_head = Head(self.reference, self.head.special)
        self.critic = Critic(policy, settings.value_trunk)
        self.weights = [p for m in (policy, self.critic) for p in m.parameters() if p.requires_grad]
        adam = {"betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.0, "fused": True}
        self.optimiser = torch.optim.AdamW(self.weights, lr=settings.lr, **adam)
        self.device, self.step, self.rows = self.weights[0].device, 0, []
        self.kl_coef, self.origin = settings.kl_coef, 0.0
        self.first = None  # step 0's prompts, answers and rewards: by them a folder knows its run
        self.path = None if folder is None else Path(folder) / "ppo.pt"
        self.identity = None if folder is None else identity_of(self)
        if folder is not None and self.path.is_file():
            load_run(self)

    def finish_step(self, row: dict) -> None:
        """Keep a step's row, go on to the next one, and write the checkpoint when it is due."""
        self.rows.append({name: x.item() if hasattr(x, "item") else x for name, x in row.items()})
        self.step += 1
        if self.step % self.settings.save_every == 0 or self.step > self.settings.steps:
            self.save()

    def save(self) -> str:
        """Write the checkpoint, whole or not at all; say where."""
        if self.path is None:
            return "the state was not kept: give a folder"
        save_run(self)
        return f"the state before the step is in {self.path}"


class Critic(nn.Module):
    """What is still to come, in reward units, from the hidden state that predicts an answer's next token."""

    def __init__(self, policy: nn.Module, value_trunk: str):
        super().__init__()
        self.own = copy.deepcopy(trunk(policy)) if value_trunk == "own" else None  # detail 5
        like = policy.get_output_embeddings().weight
        self.head = nn.Linear(like.shape[1], 1, device=like.device)
        nn.init.zeros_(self.head.weight)  # detail 18
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (M, D) -> values (M,) float32."""
        return self.head(hidden.float())[:, 0]


@dataclass(frozen=True)
class Batch:
    """A step's answers. Arrays are (B, T); beyond an answer's end, where `mask` is false, they are not read."""

    prompts: Ids
    answers: Ids
    ended: np.ndarray  # (B,) bool: the answer ends in an EOS
    mask: np.ndarray  # bool: answer tokens
    logprobs: np.ndarray  # float32, of the sampled tokens, captured in sampling
    ref_logprobs: np.ndarray  # float32, the same tokens under the reference
    values: np.ndarray  # float32, of the critic before the update


def check_first_step(run: Run, prompts: Prompts, reward: Reward) -> None:
    """Where a folder kept step 0, have its prompts and rewards again: a run goes on with its own alone."""
    if run.first is None:
        return
    mend = "that run's again, or another folder"
    same = step_prompts(run, prompts, 0) == run.first["prompts"]
    require(same, f"prompts of step 0 of the run in {run.path}", "others than then", mend)
    then = np.array(run.first["rewards"])
    now = call_reward(run, reward, run.first["prompts"], run.first["answers"], 0)
    i = int(np.abs(now - then).argmax())
    same = abs(now[i] - then[i]) <= 1e-3 * max(1.0, np.abs(then).max())
    state = f"{now[i]:.5g} for answer {i}, then {then[i]:.5g}"
    require(same, f"reward of step 0 of the run in {run.path}", state, mend)


def step_prompts(run: Run, prompts: Prompts, step: int) -> Ids:
    """The B prompts of a step, from a stream of its own."""
    count, rng = run.settings.batch, stream(run.seed, "ppo", step, "prompts")
    batch = [[int(t) for t in prompt] for prompt in prompts(rng, count)]
    lengths = [len(prompt) for prompt in batch]
    right = len(batch) == count and all(lengths)
    require(right, f"prompts of step {step}", lengths, f"{count} lists of ids, none empty")
    return batch


def roll_out(run: Run, prompts: Prompts) -> Batch:
    """Sample an answer to each prompt of this step; read it with the reference and the critic."""
    seed = stream_seed(run.seed, "ppo", run.step, "answers")
    return collect(run, step_prompts(run, prompts, run.step), 1, seed)


def collect(run: Run, prompts: Ids, answers_per_prompt: int, seed: int) -> Batch:
    """Sampled answers to each prompt, prompt-major, with what the reference and the critic say of them."""
    own, longest = run.critic.own, run.settings.max_new_tokens
    read = None if own else run.critic
    samples = sample(run.policy, prompts, answers_per_prompt, longest, seed, run.head.special, read=read)
    mask = np.arange(longest) < samples.lengths[:, None]
    prompts = [p for p in prompts for _ in range(answers_per_prompt)]
    answers = [ids[real].tolist() for ids, real in zip(samples.ids, mask, strict=True)]
    ref_logprobs = np.zeros_like(samples.logprobs)
    values = np.zeros_like(ref_logprobs) if own else samples.values
    tokens = sum(map(len, prompts)) + int(mask.sum())
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(prompts)), min(len(prompts), 1 + tokens // CHUNK_TOKENS)):
            chunk = [prompts[i] for i in rows], [answers[i] for i in rows]
            there = mask & np.isin(np.arange(len(mask)), rows)[:, None]  # the chunk's tokens, row after row
            with switched_off(run.reference):
                hidden = read_answers(trunk(run.reference), *chunk)
            ref_logprobs[there] = run.reference_head.log_probs(hidden, chunk[1]).cpu().numpy()
            if own:
                values[there] = run.critic(read_answers(own, *chunk)).cpu().numpy()
    return Batch(prompts, answers, samples.ended, mask, samples.logprobs, ref_logprobs, values)


@torch.no_grad()
def check_start(run: Run, batch: Batch) -> None:
    """Detail 16: before the first update, sampler, reference and the model's own forward agree."""
    prompt, answer = batch.prompts[0], batch.answers[0]
    whole = torch.tensor([prompt + answer[:-1]], device=run.device)
    logits = run.policy(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 :]  # (T, V)
    own = run.head.pick(logits.float(), [answer]).cpu().numpy()
    for name, other in (("the reference", batch.ref_logprobs[batch.mask]), ("the model's own forward", own)):
        error = np.abs(other - batch.logprobs[batch.mask][: len(other)]).max()
        text = f"{error:.2g} nats between the sampler and {name}"
        mend = "a policy without hooks or dropout"
        require(error <= EXACT, "difference of log-probabilities at step 0", text, mend)


def call_reward(run: Run, reward: Reward, prompts: Ids, answers: Ids, step: int) -> np.ndarray:
    """What the reward gives, (B,) float64; on anything else the state is written and one error says all."""
    i, count, cause = 0, len(answers), None
    try:
        copies = ([ids[:] for ids in side] for side in (prompts, answers))  # a reward may edit its own
        rewards = np.asarray(reward(*copies), np.float64)
        if rewards.shape != (count,):
            wrong = f"gave an array {rewards.shape} for {count} answers: give one float an answer"
        elif np.isfinite(rewards).all():
            return rewards
        else:
            i = int(np.argmin(np.isfinite(rewards)))
            wrong = f"gave {rewards[i]}: give finite floats"
    except Exception as error:
        wrong, cause = f"raised {type(error).__name__}: {error}", error
    try:
        where = run.save()
    except OSError as failure:  # two errors, and both are told
        where = f"the state could not be written: {failure}"
        failure.__cause__, cause = cause, failure
    about = f"prompt {i} of the batch is {prompts[i]}, its answer {answers[i]}"
    raise ValueError(f"reward at step {step} {wrong}; {about}; {where}") from cause


def describe(batch: Batch) -> dict:
    """The rollout's columns of a row. KL by Schulman's estimators, summed over tokens.

    With r = log pi - log ref: k1 = r, k3 = exp(-r) - 1 + r.
    """
    log_ratio = np.where(batch.mask, batch.logprobs - batch.ref_logprobs, 0.0)  # (B, T)
    kl = {"k1": log_ratio.sum(1).mean(), "k3": (np.expm1(-log_ratio) + log_ratio).sum(1).mean()}
    entropy, length = -batch.logprobs[batch.mask].mean(), batch.mask.sum(1).mean()
    return {**kl, "entropy": entropy, "length": length, "ended": batch.ended.mean()}


def token_rewards(scores: np.ndarray, batch: Batch, kl_coef: float, s: Ppo) -> np.ndarray:
    """Details 2, 3 and 7: what each answer earns (B,) -> rewards (B, T), 0 beyond the ends."""
    rewards = np.where(batch.mask, -kl_coef * (batch.logprobs - batch.ref_logprobs), 0.0)
    rewards[np.arange(len(scores)), batch.mask.sum(1) - 1] += scores
    return rewards / np.sqrt(rewards[batch.mask].var() + 1e-8) if s.whiten_rewards else rewards


def gae(rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gae_lambda: float) -> np.ndarray:
    """Detail 9: advantages (B, T) with discount 1, 0 where the mask is false; what stands there is not read.

    A_t = sum_i gae_lambda^i d_{t+i}, with d_t = r_t + V_{t+1} - V_t and V = 0 after an answer's last token.
    """
    advantages = np.zeros(mask.shape)
    later = value = np.zeros(len(mask))  # A and V of the next token
    for t in reversed(range(mask.shape[1])):
        later = np.where(mask[:, t], rewards[:, t] + value - values[:, t] + gae_lambda * later, 0.0)
        value = np.where(mask[:, t], values[:, t], 0.0)
        advantages[:, t] = later
    return advantages


def improve(run: Run, batch: Batch, rewards: np.ndarray) -> dict:
    """One step's updates on its answers, rewards (B, T); returns the update's columns of a row."""
    s, mask = run.settings, batch.mask
    advantages = gae(rewards, batch.values, mask, s.gae_lambda)
    returns, real = advantages + batch.values, advantages[mask]
    advantages = (advantages - real.mean()) / np.sqrt(real.var() + 1e-8)  # detail 7
    columns = batch.logprobs, batch.values, advantages, returns
    lr = run.optimiser.param_groups[0]["lr"] = float(s.lr * lr_factor(run.step, s.steps))  # detail 13
    order = stream(run.seed, "ppo", run.step, "order")
    parts = [p for _ in range(s.epochs) for p in np.array_split(order.permutation(len(mask)), s.minibatches)]
    updates, ratio_error = [], 0.0
    for rows in parts:  # detail 10
        prompts, answers = [batch.prompts[i] for i in rows], [batch.answers[i] for i in rows]
        flat = np.stack([x[rows][mask[rows]] for x in columns]).astype(np.float32)
        old_logprobs, old_values, advantage, target = torch.from_numpy(flat).to(run.device)  # (M,) each
        hidden, critic_hidden = read_minibatch(run, prompts, answers)
        log_ratio = run.head.log_probs(hidden, answers) - old_logprobs
        ratio = log_ratio.exp()
        ratio_error = ratio_error if updates else (ratio - 1).abs().max().item()
        moved = (torch.expm1(log_ratio) - log_ratio).mean()
        if s.early_stop_kl and updates and moved > s.early_stop_kl:  # detail 12
            break
        share = s.minibatches / int(mask.sum())  # tokens weigh the same in minibatches of more and of fewer
        losses = policy_losses(ratio, advantage, s.cliprange)
        policy_loss = share * losses.sum()
        values = run.critic(critic_hidden)
        value_loss = share * value_losses(values, old_values, target, s.cliprange_value).sum()
        run.optimiser.zero_grad(set_to_none=True)
        (policy_loss + s.vf_coef * value_loss).backward()
        norm = nn.utils.clip_grad_norm_(run.weights, s.max_grad_norm)  # detail 17
        if not torch.isfinite(norm + policy_loss + value_loss):
            found = f"{policy_loss:.3g} (policy), {value_loss:.3g} (value), gradient norm = {norm:.3g}"
            place = f"at step {run.step}, update {len(updates)}, which is not taken"
            mend = f"lower ppo.lr = {s.lr} or scale the reward; the last checkpoint, if any, is {run.path}"
            raise ValueError(f"loss = {found} {place}: {mend}")
        run.optimiser.step()
        clip_share = (losses > -ratio * advantage).float().mean()  # the clipped term is the smaller: no slope
        updates.append([x.item() for x in (policy_loss, value_loss, clip_share, norm)])
    means = zip(("policy_loss", "value_loss", "clip_share", "grad_norm"), np.mean(updates, 0), strict=True)
    return {"lr": lr, **dict(means), "ratio_error": ratio_error, "updates": len(updates)}


def read_minibatch(run: Run, prompts: Ids, answers: Ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (M, D) before the answers' tokens, the policy's and the critic's; gradients flow."""
    with torch.autocast(
        run.device.type, torch.bfloat16, enabled=run.settings.precision == "bf16"
    ):  # detail 6
        hidden = read_answers(trunk(run.policy), prompts, answers)
        own = run.critic.own
        return hidden, hidden if own is None else read_answers(own, prompts, answers)


def policy_losses(ratio: torch.Tensor, advantages: torch.Tensor, cliprange: float) -> torch.Tensor:
    """Detail 8: PPO's loss of each token, ratios and advantages (M,) -> (M,)."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - cliprange, 1 + cliprange) * advantages)


def value_losses(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange_value: float
) -> torch.Tensor:
    """Detail 8: half the squared error of each value (M,); of one moved by the range at most, if it is larger."""
    losses = (values - returns).square()
    if cliprange_value:
        near = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
        losses = torch.maximum(losses, (near - returns).square())
    return 0.5 * losses


def adapted_kl_coef(kl_coef: float, kl: float, target_kl: float) -> float:
    """Detail 11: the next step's coefficient from this one's KL, nats an answer; the error is cut at 20%."""
    return kl_coef * (1 + 0.1 * min(max(float(kl) / target_kl - 1, -0.2), 0.2)) if target_kl else kl_coef
