"""Token rules, in one place: the special tokens of a model, masks, padding, the last real token.

PAD is a token of its own, never an EOS; an EOS ends every answer, in training and in scoring; a score is read
at the last real token, which the mask names and never a token id. Which ids these are, a model and its
tokenizer say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rmlab.recipe import require

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that are not text: PAD, every EOS, and what a sampler never draws.

    Parameters
    ----------
    pad : fills rows up; never sampled, never scored
    eos : one or more ids, any of which ends an answer
    never_sampled : ids that the sampler bans, and renormalises away in sampling, training and reference
        alike; PAD is always one of them

    Raises
    ------
    ValueError
        A negative id, no EOS, PAD among the EOS (an answer's end would never be scored), a banned EOS.
    """

    pad: int
    eos: tuple[int, ...]
    never_sampled: tuple[int, ...] = ()

    def __post_init__(self):
        eos, banned = (
            tuple(sorted({int(i) for i in ids})) for ids in (self.eos, (*self.never_sampled, self.pad))
        )
        require(self.pad >= 0 and banned[0] >= 0, "never_sampled", banned, "ids of 0 and more")
        require(
            len(eos) > 0 and eos[0] >= 0,
            "eos",
            eos,
            "at least one id of 0 or more: answers must be able to end",
        )
        require(self.pad not in eos, "pad_token_id", self.pad, f"{PAD_MEND}; it is an EOS now, {list(eos)}")
        require(not set(eos) & set(banned), "never_sampled", banned, f"ids without an EOS, {list(eos)}")
        object.__setattr__(self, "eos", eos)
        object.__setattr__(self, "never_sampled", banned)

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> SpecialTokens:
        """Read them from a Hugging Face model and, where there is one, its tokenizer.

        EOS: every id that the model's config, its generation config or the tokenizer names. PAD: the
        tokenizer's, or the model's. Never sampled: PAD, and the generation config's `suppress_tokens`.

        Raises
        ------
        ValueError
            No PAD, PAD an EOS, no EOS, or a tokenizer whose PAD is not the model's.
        """
        config, generation = model.config.get_text_config(), getattr(model, "generation_config", None)
        holders = [h for h in (config, generation, tokenizer) if h is not None]
        eos = {i for h in holders for i in _listed(getattr(h, "eos_token_id", None))}
        pads = [getattr(h, "pad_token_id", None) for h in (tokenizer, config, generation)]
        pads = [pad for pad in pads if pad is not None]
        require(len(pads) > 0, "pad_token_id", None, PAD_MEND)
        require(
            len(set(pads)) == 1,
            "pad_token_id of tokenizer, config, generation config",
            pads,
            "one and the same PAD",
        )
        banned = _listed(getattr(generation, "suppress_tokens", None))
        return cls(int(pads[0]), tuple(eos), tuple(banned))

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        """Real tokens of right-padded answers, the EOS counted: ids (..., T) -> (...) int64."""
        return (np.asarray(ids) != self.pad).sum(-1)

    def ended(self, ids: np.ndarray) -> np.ndarray:
        """Whether an answer holds an EOS: ids (..., T) -> (...) bool."""
        return np.isin(ids, self.eos).any(-1)

    def drop(self, ids: Iterable[int]) -> list[int]:
        """The ids (T,) of one answer without PAD and EOS: its text."""
        return [int(i) for i in ids if i != self.pad and i not in self.eos]


PAD_MEND = (
    "a PAD token of its own: tokenizer.add_special_tokens({'pad_token': '<pad>'}), resize the model's "
    "embeddings and set model.config.pad_token_id = tokenizer.pad_token_id"
)


def pad_right(
    rows: Sequence[Sequence[int]], pad: int = 0, length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids -> (ids (B, T) int64, mask (B, T) bool), padded on the right to the longest or `length`."""
    width = max((len(r) for r in rows), default=0) if length is None else length
    ids = np.full((len(rows), width), pad, np.int64)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask


def last_index(mask: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Index of the last real token of each row, (B, T) -> (B,); left, right or no padding; NumPy or torch.

    Raises
    ------
    ValueError
        A row has no real token: there is nothing to score.
    """
    if bool((mask.sum(-1) == 0).any()):
        raise ValueError("mask has a row with no real token: drop empty answers before scoring")
    width = mask.shape[-1]
    if isinstance(mask, np.ndarray):
        return width - 1 - np.argmax(mask[:, ::-1] != 0, axis=-1)
    return width - 1 - (mask != 0).flip(-1).int().argmax(-1)


def _listed(ids: int | Sequence[int] | None) -> list[int]:
    if ids is None:
        return []
    return [int(i) for i in ids] if isinstance(ids, list | tuple) else [int(ids)]
