"""Scorer, then aggregator: the reward function that an optimiser sees. It never knows where members come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch

from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, aggregate
from rmlab.reward.model import CHUNK_TOKENS, Scorer
from rmlab.tokens import pad_right

Ids = Sequence[Sequence[int]]


def reward_function(scorer: Scorer, how: str = "mean", lam: float | None = None) -> Callable[[Ids, Ids], np.ndarray]:  # fmt: skip
    """(prompts, answers) -> (B,) aggregated scores; `lam` is the aggregator's usual one unless said."""
    if lam is None:
        require(how in AGGREGATORS, "aggregator", how, f"one of {', '.join(AGGREGATORS)}")
        lam = AGGREGATORS[how].lam[2] if AGGREGATORS[how].lam else 1.0

    def reward(prompts: Ids, answers: Ids) -> np.ndarray:
        return aggregate(member_scores(scorer, prompts, answers), how, lam)

    return reward


@torch.no_grad()
def member_scores(scorer: Scorer, prompts: Ids, answers: Ids) -> np.ndarray:
    """Aligned member scores of an answer to each prompt, B lists of ids each -> (B, K) float32.

    Prompts of one length are read together, each once, without padding; answers in order of their length.
    """
    require(len(prompts) == len(answers) > 0, "answers", len(answers), f"one for each of the {len(prompts)} prompts")  # fmt: skip
    empty = [i for i, a in enumerate(answers) if not len(a)]
    require(not empty, "answers", f"no token in {empty[:3]}", "at least one token each, such as <eos>")
    place = scorer.centre.device
    out = np.empty((len(prompts), scorer.members), np.float32)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), len(answers[i])))
    for _, group in groupby(order, key=lambda i: len(prompts[i])):
        rows = list(group)
        while rows:
            step = max(1, CHUNK_TOKENS // len(answers[rows[min(len(rows), 64) - 1]]))
            some, rows = rows[:step], rows[step:]
            ids, _ = pad_right([list(answers[i]) for i in some])
            asked = torch.tensor([list(prompts[i]) for i in some], device=place)
            lengths = torch.tensor([len(answers[i]) for i in some], device=place)
            raw = scorer.reader(asked, ids.shape[1])(torch.from_numpy(ids).to(place), lengths)
            out[some] = ((raw - scorer.centre) / scorer.scale).cpu().numpy()
    return out
