"""Ensembles, then an aggregator: the reward that an optimiser sees. It never knows where members come from.

Letters: B prompts with an answer each, T tokens, K members.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch

from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, aggregate, usual_strength
from rmlab.reward.ensemble import RewardEnsemble, require_scores
from rmlab.tokens import pad_right

Ids = Sequence[Sequence[int]]
CHUNK_TOKENS = 3072  # answers are scored in chunks of about this many tokens: larger ones are slower on a CPU


def reward_function(
    ensembles: RewardEnsemble | Sequence[RewardEnsemble],
    aggregator: str = "mean",
    strength: float | None = None,
) -> Callable[[Ids, Ids], np.ndarray]:
    """A reward for `rmlab.optimise.ppo.train`: (prompts, answers), B lists of ids each -> (B,) float32.

    Parameters
    ----------
    ensembles : one or several, whose members stand side by side; the rewards are in their aligned unit,
        standard deviations of each member's reference set
    aggregator, strength : see `rmlab.reward.aggregate`; strength None is the aggregator's usual one

    Raises
    ------
    ValueError
        An unknown aggregator, a strength out of range, anything but the mean of an unaligned ensemble.
    """
    ensembles = [ensembles] if isinstance(ensembles, RewardEnsemble) else list(ensembles)
    require(len(ensembles) > 0, "ensembles", [], "at least one")
    for ensemble in ensembles:
        strength = check_aggregator(ensemble, aggregator, strength)

    def reward(prompts: Ids, answers: Ids) -> np.ndarray:
        scores = np.concatenate([member_scores(e, prompts, answers) for e in ensembles], 1)
        return aggregate(scores, aggregator, strength)

    return reward


def check_aggregator(ensemble: RewardEnsemble, aggregator: str, strength: float | None) -> float:
    """The strength to aggregate this ensemble with; a `ValueError` where it cannot be."""
    require(aggregator in AGGREGATORS, "aggregator", aggregator, f"one of {', '.join(AGGREGATORS)}")
    strength = usual_strength(aggregator) if strength is None else strength
    aggregate(np.zeros((1, ensemble.members)), aggregator, strength)  # refuses a strength out of range
    mend = "mean, or align the ensemble first: ensemble.align(raw scores of a reference set)"
    ready = ensemble.aligned or aggregator == "mean"
    require(ready, "aggregator of an ensemble that was never aligned", aggregator, mend)
    return strength


@torch.no_grad()
def member_scores(ensemble: RewardEnsemble, prompts: Ids, answers: Ids) -> np.ndarray:
    """Aligned member scores of an answer to each prompt, B lists of ids each -> (B, K) float32.

    Prompts of one length are read together, each once, without padding; answers in order of their length.

    Raises
    ------
    ValueError
        Empty prompts or answers, ids that the members do not embed, scores of another shape than (B, K).
    """
    require(
        len(prompts) == len(answers) > 0,
        "answers",
        len(answers),
        f"one for each of the {len(prompts)} prompts",
    )
    vocabulary = vocabulary_size(ensemble)
    for name, side in (("prompts", prompts), ("answers", answers)):
        empty = [i for i, ids in enumerate(side) if not len(ids)]
        require(not empty, name, f"no token in {empty[:3]}", "at least one token each, such as an EOS")
        check_ids(name, side, vocabulary)
    device = ensemble.centre.device
    out = np.empty((len(prompts), ensemble.members), np.float32)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), len(answers[i])))
    for _, group in groupby(order, key=lambda i: len(prompts[i])):
        rows = list(group)
        while rows:
            step = max(1, CHUNK_TOKENS // len(answers[rows[min(len(rows), 64) - 1]]))
            chunk, rows = rows[:step], rows[step:]
            ids, _ = pad_right([list(answers[i]) for i in chunk])
            lengths = torch.tensor([len(answers[i]) for i in chunk], device=device)
            scorer = ensemble.prompt_scorer(
                torch.tensor([list(prompts[i]) for i in chunk], device=device), ids.shape[1]
            )
            raw = scorer(torch.from_numpy(ids).to(device), lengths)
            require_scores(raw, len(chunk), ensemble.members)
            out[chunk] = ensemble.align_raw(raw).cpu().numpy()
    return out


def vocabulary_size(ensemble: RewardEnsemble) -> int:
    """Tokens that every transformer of an ensemble embeds.

    Raises
    ------
    ValueError
        An ensemble without a transformer.
    """
    models = [m for m in ensemble.modules() if hasattr(m, "get_input_embeddings")]
    require(len(models) > 0, "ensemble", type(ensemble).__name__, "one whose members are transformers")
    return min(m.get_input_embeddings().num_embeddings for m in models)


def check_ids(name: str, rows: Ids, vocabulary: int) -> None:
    """Raise a `ValueError` where a list holds an id outside a vocabulary."""
    ids = np.concatenate([np.asarray(row) for row in rows])
    strange = np.unique(ids[(ids < 0) | (ids >= vocabulary)]).tolist()
    mend = f"ids of the ensemble's vocabulary, 0 to {vocabulary - 1}: the policy's tokenizer must be its own"
    require(not strange, f"token ids of the {name}", strange[:3], mend)
