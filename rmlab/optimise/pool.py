"""The pool: P prompts x N answers, sampled once and judged once; every aggregator and n is arithmetic on it.

Letters: P prompts, N answers a prompt, T tokens, F terms of gold's bill.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmlab.recipe import require
from rmlab.sources.base import Prompt, Source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Pool:
    """Answers and, where the source has it, what gold says of them.

    Parameters
    ----------
    ids : (P, N, T) int32, right-padded, the EOS included
    lengths : (P, N) int32 real tokens, the EOS counted
    ended : (P, N) bool: the answer ends by itself. One that does not is disqualified in best-of-n.
    gold : (P, N) float64, gold units, or None
    terms : (P, N, F) uint8 counts in the order of the source's bill, or None
    """

    ids: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray
    gold: np.ndarray | None = None
    terms: np.ndarray | None = None

    def save(self, path: str | Path) -> None:
        """Write one compressed npz of the arrays that are there."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        np.savez_compressed(path, **{name: x for name, x in arrays.items() if x is not None})

    @classmethod
    def load(cls, paths: Sequence[str | Path]) -> Pool:
        """Read parts and join them along the prompts.

        Raises
        ------
        ValueError
            A file that is no pool, or parts that are not alike: some with gold, or of another N or T.
        """
        parts = []
        for path in paths:
            with np.load(path) as arrays:
                part = {name: arrays[name] for name in arrays.files}
            missing = sorted({"ids", "lengths", "ended"} - set(part))
            require(
                not missing, str(path), f"a file without {', '.join(missing)}", "one that Pool.save wrote"
            )
            parts.append(part)
        layouts = [{name: x.shape[1:] for name, x in part.items()} for part in parts]
        for path, layout in zip(paths, layouts, strict=True):
            require(layout == layouts[0], str(path), layout, f"arrays like those of {paths[0]}, {layouts[0]}")
        return cls(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def with_gold(self, source: Source, prompts: Sequence[Prompt]) -> Pool:
        """The same answers with the source's gold and its terms: prompts are the P that were answered.

        Raises
        ------
        ValueError
            Another number of prompts, or a source without gold.
        """
        count, answers = self.lengths.shape
        require(len(prompts) == count, "prompts", len(prompts), f"the pool's {count}")
        gold, terms = [], []
        for prompt, ids in zip(prompts, self.ids, strict=True):
            rows = [prompt] * answers
            gold.append(source.gold(rows, ids))
            require(gold[-1] is not None, "source", type(source).__name__, "a source that has gold")
            terms.append(source.gold_terms(rows, ids))
        counts = None if terms[0] is None else np.stack(terms)
        return dataclasses.replace(self, gold=np.stack(gold), terms=counts)


def sample_pool(
    policy: nn.Module, prompts: Sequence[Prompt], answers: int, max_new_tokens: int, seed: int
) -> Pool:
    """Sample N answers to each of P prompts from a policy: a pool without gold.

    Parameters
    ----------
    policy : causal language model in eval mode
    answers : N
    max_new_tokens : most tokens an answer may have, the EOS included
    seed : the samples' seed, such as `rmlab.recipe.stream_seed` gives for a purpose
    """
    from rmlab.optimise.sampling import sample

    samples = sample(policy, [prompt.ids for prompt in prompts], answers, max_new_tokens, seed)
    shape = (len(prompts), answers)
    return Pool(samples.ids.reshape(*shape, -1), samples.lengths.reshape(shape), samples.ended.reshape(shape))
