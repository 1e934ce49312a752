"""What a policy does, seen from its own sampler: reward models, gold and its terms, KL, a few answers as text.

Letters: P prompts, N answers a prompt, B = P x N answers, T tokens, K members, F terms of gold's bill, L evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rmlab.optimise.ppo import Batch, Run, collect, describe, gae, token_rewards
from rmlab.recipe import require, stream_seed
from rmlab.reward.aggregate import aggregate
from rmlab.reward.ensemble import require_scores
from rmlab.sources.base import Prompt, Source
from rmlab.tokens import pad_right

SHOWN = 6  # answers kept as text, each to another prompt


def evaluate(
    source: Source,
    prompts: Sequence[Prompt],
    answers: int,
    members: Callable[[list, list], np.ndarray],
    aggregator: str,
    strength: float,
    seed: int,
    texts: list[dict],
    records: list[dict[str, np.ndarray]] | None = None,
) -> Callable[[Run], dict]:
    """For `rmlab.optimise.ppo.train`: from a run to numbers about N sampled answers to each of P prompts.

    Parameters
    ----------
    source : gives gold and its terms, where it has them, and writes ids as text
    answers : N
    members : (prompts, answers), B lists of ids each -> (B, K) aligned scores
    aggregator, strength : what the policy is trained against
    seed : of the evaluations; each step's answers have a stream of their own
    texts : a list that gains a few answers at each evaluation: `step`, `prompt` and `answer` as text, `gold`,
        `proxy`, and `tokens`: of each its text, the KL it adds (nats), the critic's value and the advantage
    records : a list that gains the arrays of every answer at each evaluation, see `save_records`

    Returns
    -------
    The function. Its numbers are means over answers: `proxy` and `gold`; `member_0`, ...; `disagreement`, the
    members' standard deviation; `eval_k1` and `eval_k3`, nats an answer; `eval_length`, tokens; `eval_ended`;
    `gold_<term>`, how often a term of gold's bill occurs in an answer; `gold_by_prompt` and
    `proxy_by_prompt`, lists of P. A source without gold gives no column of it.
    """
    ids = [list(prompt.ids) for prompt in prompts]
    rows = [prompt for prompt in prompts for _ in range(answers)]  # (B,)

    def evaluate_run(run: Run) -> dict:
        batch = collect(run, ids, answers, stream_seed(seed, run.step))
        scores = np.asarray(members(batch.prompts, batch.answers))
        require_scores(scores, len(rows), scores.shape[1] if scores.ndim > 1 else 1)
        proxy = aggregate(scores, aggregator, strength)
        padded, _ = pad_right(batch.answers, source.special.pad, run.settings.max_new_tokens)
        gold = source.gold(rows, padded)
        shown = range(0, min(SHOWN, len(prompts)) * answers, answers)
        advantages = _advantages(run, batch, proxy)
        for i in shown:
            entry = {"step": run.step, "prompt": rows[i].text, "answer": source.text(batch.answers[i])}
            entry |= {} if gold is None else {"gold": float(gold[i])}
            tokens = _token_rows(source, batch, advantages, i)
            texts.append(entry | {"proxy": float(proxy[i]), "tokens": tokens})
        if records is not None:
            records.append(_record(run.step, batch, padded, scores, proxy, gold))
        columns = {"proxy": float(proxy.mean()), **_spread(scores), **_shape(batch)}
        columns["proxy_by_prompt"] = _by_prompt(proxy, answers)
        if gold is not None:
            columns |= {"gold": float(gold.mean()), "gold_by_prompt": _by_prompt(gold, answers)}
            columns |= _terms(source, rows, padded)
        return columns

    return evaluate_run


def save_records(path: str | Path, records: Sequence[dict[str, np.ndarray]]) -> None:
    """Write the answers of L evaluations as one compressed npz.

    Its arrays: `step` (L,); `ids` (L, B, T) int16 or int32, padded behind `lengths` (L, B); `ended` (L, B) bool; `scores`
    (L, B, K) float32, the members' aligned scores; `proxy` (L, B), what they are aggregated to; `gold` (L, B) float64, where
    the source has it; `logprob` and `ref_logprob` (L, B) float32, nats: the answer under the policy that sampled it and under
    the one that training began from; `k1` (L, B), their difference. Answers are prompt-major. Minus `logprob` over tokens is
    the sampled entropy a token.
    """
    require(len(records) > 0, "records", len(records), "at least one evaluation")
    np.savez_compressed(path, **{name: np.stack([r[name] for r in records]) for name in records[0]})


def _record(
    step: int,
    batch: Batch,
    padded: np.ndarray,
    scores: np.ndarray,
    proxy: np.ndarray,
    gold: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """One evaluation of `save_records`, padded ids (B, T) and scores (B, K) given."""
    sums = [np.where(batch.mask, x, 0.0).sum(1) for x in (batch.logprobs, batch.ref_logprobs)]  # (B,)
    arrays = {
        "step": np.int64(step),
        "ids": padded.astype(np.int16 if padded.max() < 2**15 else np.int32),
        "lengths": batch.mask.sum(1).astype(np.int32),
        "ended": batch.ended,
        "scores": scores.astype(np.float32),
        "proxy": proxy.astype(np.float32),
        "logprob": sums[0].astype(np.float32),
        "ref_logprob": sums[1].astype(np.float32),
        "k1": (sums[0] - sums[1]).astype(np.float32),
    }
    return arrays if gold is None else arrays | {"gold": np.asarray(gold, np.float64)}


def _advantages(run: Run, batch: Batch, proxy: np.ndarray) -> np.ndarray:
    """Advantages (B, T) as an update would have them, from the proxy (B,), before they are whitened."""
    scores = proxy - run.settings.missing_eos_penalty * ~batch.ended - run.origin
    rewards = token_rewards(scores, batch, run.kl_coef, run.settings)
    return gae(rewards, batch.values, batch.mask, run.settings.gae_lambda)


def _token_rows(source: Source, batch: Batch, advantages: np.ndarray, i: int) -> list[list]:
    """A list a token of answer i: its text, the KL it adds, the critic's value, the advantage."""
    words = ["<eos>" if t in source.special.eos else source.text([t]) for t in batch.answers[i]]
    columns = batch.logprobs[i] - batch.ref_logprobs[i], batch.values[i], advantages[i]
    return [[word, *(round(float(x[j]), 3) for x in columns)] for j, word in enumerate(words)]


def _spread(scores: np.ndarray) -> dict:
    """The members' means and their standard deviation over an answer, on average, from scores (B, K)."""
    means = {f"member_{k}": float(mean) for k, mean in enumerate(scores.mean(0))}
    return {**means, "disagreement": float(scores.std(1).mean())}


def _shape(batch: Batch) -> dict:
    """KL, length and share that ended, under names that a rollout's own columns leave free."""
    names = "k1", "k3", "length", "ended"
    columns = describe(batch)
    return {f"eval_{name}": float(columns[name]) for name in names}


def _terms(source: Source, rows: Sequence[Prompt], padded: np.ndarray) -> dict:
    """How often each term of gold's bill occurs in an answer, on average."""
    counts = source.gold_terms(rows, padded)
    if counts is None:
        return {}
    names = [f"gold_{term['name']}" for term in source.bill]
    return {name: float(mean) for name, mean in zip(names, counts.mean(0), strict=True)}


def _by_prompt(values: np.ndarray, answers: int) -> list[float]:
    """Each prompt's mean (P,) of the values of its N answers (B,), to four digits."""
    return np.asarray(values, np.float64).reshape(-1, answers).mean(1).round(4).tolist()
