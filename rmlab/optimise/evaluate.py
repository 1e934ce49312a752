"""What a policy does, seen from its own sampler: judges, gold, KL, styles, and a few answers as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rmlab.optimise.ppo import Run, draw, gae, token_rewards
from rmlab.recipe import stream_seed
from rmlab.reward.aggregate import aggregate
from rmlab.sources.sandbox import gold
from rmlab.sources.sandbox.world import VOCAB, Request
from rmlab.tokens import EOS, pad_right

SHOWN = 3  # answers kept as text, each to another request


def watch(requests: Sequence[Request], answers: int, members: Callable, how: str, lam: float, seed: int, texts: list) -> Callable[[Run], dict]:  # fmt: skip
    """For `ppo.train`: a function from a run to numbers about `answers` sampled answers to each of P requests.

    Parameters
    ----------
    members : (prompts, answers) -> (B, K) aligned scores
    how, lam : the aggregator that the policy is trained against
    texts : a list that gains a few answers at each look, with their scores and, token by token, the KL that the token adds,
        the critic's value and the advantage

    Returns
    -------
    The function. Its numbers are means over answers: `proxy` and `gold`; `member_0`, ...; `disagreement`, the members' standard
    deviation; `watched_k1` and `watched_k3`, nats an answer; `watched_length`, `watched_ended`; every term of gold's
    bill by its name, counts an answer; `gold_by_request` and `proxy_by_request`, lists of P.
    """
    prompts = [r.ids() for r in requests]
    truth = gold.Truth.of(list(requests)).rows(np.repeat(np.arange(len(prompts)), answers))
    names = [VOCAB[t] for t in range(len(VOCAB))]

    def look(run: Run) -> dict:
        batch = draw(run, prompts, answers, stream_seed(seed, run.step))
        ids, _ = pad_right(batch.answers, length=run.settings.max_answer)
        scores = members(batch.prompts, batch.answers)
        proxy = aggregate(scores, how, lam)
        counts = gold.count(ids, truth)
        worth, lr = gold.total(counts), batch.logp - batch.ref
        paid = proxy - run.settings.missing_eos * ~batch.ended - run.origin
        gains = gae(
            token_rewards(paid, batch, run.beta, run.settings), batch.values, batch.mask, run.settings.lam
        )
        for i in range(0, min(SHOWN, len(prompts)) * answers, answers):
            tokens = [[names[t], *(round(float(x[i, j]), 3) for x in (lr, batch.values, gains))] for j, t in enumerate(batch.answers[i])]  # fmt: skip
            words = " ".join(names[t] for t in batch.answers[i] if t != EOS)
            texts.append({"step": run.step, "request": requests[i // answers].text, "answer": words, "gold": float(worth[i]), "proxy": float(proxy[i]), "tokens": tokens})  # fmt: skip
        by_request = (len(prompts), answers)
        return {
            "proxy": float(proxy.mean()), "gold": float(worth.mean()),
            **{f"member_{k}": float(m) for k, m in enumerate(scores.mean(0))},
            "disagreement": float(scores.std(1).mean()),
            "watched_k1": float(lr.sum(1).mean()), "watched_k3": float((np.expm1(-lr) + lr).sum(1).mean()),
            "watched_length": float(batch.mask.sum(1).mean()), "watched_ended": float(batch.ended.mean()),
            **{name: float(c) for name, c in zip(gold.TERMS, counts.mean(0), strict=True)},
            "gold_by_request": worth.reshape(by_request).mean(1).round(4).tolist(),
            "proxy_by_request": proxy.reshape(by_request).mean(1).astype(float).round(4).tolist(),
        }  # fmt: skip

    return look
