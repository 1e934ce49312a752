"""The reference: any model's own forward, for everything that the packed one does.

Every entry point of `rmlab.fast` runs on these functions where a model has no packed form (`allowed.py`), and tests
hold the packed forward equal to them. A row's hidden states never depend on the rows beside it: rows are padded on the
right under a mask, and where a model's rotations depend on the longest row of a batch (dynamic and longrope scaling),
rows of one length run alone.

Letters: B rows, T tokens, D hidden, P prompts, R rows of answers, V edited copies, N slots of a decoder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig

from rmlab.recipe import require
from rmlab.tokens import pad_right

Edits = Mapping[str, torch.Tensor]  # a trunk's parameters by name, edited
Rows = Sequence[Sequence[int]]  # lists of ids, of any lengths
PLACES = {"wpe", "embed_positions", "position_embeddings"}  # what families call a table of learned positions
ALIBI = {"bloom"}  # families whose attention goes by distance, and takes no positions


def trunk_of(model: nn.Module) -> nn.Module:
    """The transformer under a model's head.

    Raises
    ------
    ValueError
        It has none: the model is wrapped (by PEFT, for instance), or it is none of transformers'.
    """
    trunk = getattr(model, getattr(model, "base_model_prefix", ""), None)
    plain = trunk is not None and getattr(trunk, "base_model", None) is trunk
    require(
        plain,
        "model",
        type(model).__name__,
        "a transformers model as it is; of a PEFT model, its `merge_and_unload()`",
    )
    return trunk


def device_of(trunk: nn.Module) -> torch.device:
    """Where a trunk's ids go; weights that are not in memory (offloaded ones) are refused."""
    device = next(trunk.parameters()).device
    require(
        device.type != "meta", "device", str(device), "a model whose weights are in memory, not offloaded"
    )
    return device


def check_edits(trunk: nn.Module, edits: Edits | None) -> None:
    """Refuse edits of parameters that the trunk does not have."""
    unknown = sorted(set(edits or {}) - {name for name, _ in trunk.named_parameters()})
    require(not unknown, "edits", unknown, "names of the trunk's own parameters")


def read_rows(
    trunk: nn.Module, rows: Sequence[np.ndarray], starts: np.ndarray, edits: Edits | None = None
) -> torch.Tensor:
    """Hidden states of each row from its token starts[b] on, row after row, (N, D); gradients flow.

    Parameters
    ----------
    rows : B arrays of ids (T,), none empty
    starts : (B,) where reading begins in each
    edits : parameters of the trunk to run with, in the place of its own
    """
    lengths, device = np.array([len(row) for row in rows]), device_of(trunk)
    require_places(trunk, int(lengths.max()))
    reach, groups = rope_reach(trunk.config), [np.arange(len(rows))]
    if reach is not None and lengths.max() > reach:
        groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
    parts = []
    for group in groups:
        if reach is not None:
            _forget(trunk)
        ids, mask = (torch.from_numpy(x).to(device) for x in pad_right([rows[b] for b in group], pad=0))
        kept = mask & (torch.arange(ids.shape[1]) >= torch.from_numpy(starts[group])[:, None]).to(device)
        call = {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}
        parts.append(torch.func.functional_call(trunk, dict(edits or {}), (), call).last_hidden_state[kept])
    if len(parts) == 1:
        return parts[0]
    counts = lengths - starts
    place = np.split(np.arange(counts.sum()), counts.cumsum()[:-1])  # of each row's tokens in the result
    order = np.argsort(np.concatenate([place[b] for group in groups for b in group]))
    return torch.cat(parts)[torch.from_numpy(order).to(device)]


def require_places(trunk: nn.Module, longest: int) -> None:
    """Raise a `ValueError` where learned positions have no place for a row of `longest` tokens."""
    for name, table in trunk.named_modules():
        if name.rpartition(".")[2] in PLACES and isinstance(table, nn.Embedding):
            unused = getattr(table, "offset", 0) if table.padding_idx is None else table.padding_idx + 1
            places = table.num_embeddings - unused
            mend = f"rows of at most {places}: {type(trunk).__name__} has learned no more positions"
            require(longest <= places, "tokens of the longest row", longest, mend)


def rope_reach(config: PretrainedConfig) -> int | None:
    """The longest row whose rotations do not depend on the rows beside it; None: of any length."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [
        rope,
        *(kind for kind in rope.values() if isinstance(kind, dict)),
    ]  # some have one a kind of layer
    reaches = [config.max_position_embeddings for kind in kinds if "dynamic" in kind.get("rope_type", "")]
    long = [kind for kind in kinds if kind.get("rope_type") == "longrope"]
    return min([*reaches, *(kind["original_max_position_embeddings"] for kind in long)], default=None)


@torch.no_grad()
def _forget(trunk: nn.Module) -> None:
    """Dynamic rotations stay as the longest batch so far left them, until a short one comes: one of one token."""
    trunk(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device_of(trunk)), use_cache=False)


def read_pairs(
    trunk: nn.Module, prompts: Rows, chosen: Rows, rejected: Rows, edits: Edits | None = None
) -> torch.Tensor:
    """Hidden state at the last token of B chosen, then of B rejected answers, (2B, D): two rows a pair."""
    rows = [np.concatenate([p, a]) for side in (chosen, rejected) for p, a in zip(prompts, side, strict=True)]
    return read_rows(trunk, rows, np.array([len(row) - 1 for row in rows]), edits)


def read_answers(trunk: nn.Module, prompts: Rows, answers: Rows) -> torch.Tensor:
    """Hidden states that predict the answers' tokens, answer after answer, (N, D)."""
    rows = [np.concatenate([p, a[:-1]]).astype(np.int64) for p, a in zip(prompts, answers, strict=True)]
    return read_rows(trunk, rows, np.array([len(p) - 1 for p in prompts]))


def read_ends(
    trunk: nn.Module, ids: torch.Tensor, mask: torch.Tensor, edits: Edits | None = None
) -> torch.Tensor:
    """Hidden states at the rows' last real tokens: ids and mask (B, T), padded on any side -> (B, D)."""
    rows = [row[real] for row, real in zip(ids.cpu().numpy(), (mask != 0).cpu().numpy(), strict=True)]
    return read_rows(trunk, rows, np.array([len(row) - 1 for row in rows]), edits)


def open_variants(trunk: nn.Module, variants: Sequence[Edits], prompts: np.ndarray) -> Callable:
    """Prompts (P, T): a function (ids (R, S), lengths (R,)) -> hidden (R, V, D) at each last token, V edited copies."""

    @torch.no_grad()
    def read(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        starts = np.repeat(prompts, len(ids) // len(prompts), 0)
        answers = zip(starts, ids.cpu().numpy(), lengths.tolist(), strict=True)
        rows = [np.concatenate([start, row[:length]]) for start, row, length in answers]
        ends = np.array([len(row) - 1 for row in rows])
        return torch.stack([read_rows(trunk, rows, ends, edits) for edits in variants], 1)

    return read


class Decoder:
    """Answers that grow, a token a slot a step, on the model's own forward and cache.

    Slots are (G, C): C columns, each with prompts of its own, G slots a column. Hidden states are after the final
    norm, one a slot, (N, D) with N = G x C.
    """

    slots: np.ndarray  # (G, C) which answer, prompt-major, is in a slot
    last: torch.Tensor  # (N, D) hidden state of the prompt's last token, slot by slot
    look: int = 1  # after how many steps it is worth a look which answers go on

    def __init__(
        self, trunk: nn.Module, ids, gaps, which: np.ndarray, answers_per_prompt: int, max_new_tokens: int
    ):
        """Distinct prompts, ids (P', T) padded on the left by gaps (P',), `which` (P,) of them each prompt is."""
        from transformers import DynamicCache

        longest, reach = ids.shape[1] + max_new_tokens, rope_reach(trunk.config)
        _require_causal(trunk)
        require_places(trunk, longest)
        require(
            reach is None or longest <= reach,
            "rope_parameters",
            trunk.config.rope_parameters if reach else None,
            f"prompts and answers of at most {reach} tokens: beyond, a cache's keys are rotated otherwise than a row's",
        )
        if reach is not None:
            _forget(trunk)
        self.trunk, self.cache = trunk, DynamicCache(config=trunk.config)
        self.slots = np.arange(len(which) * answers_per_prompt)[:, None]
        position_ids = torch.arange(longest, device=ids.device)[None] - gaps[:, None]
        mask, position_ids = (position_ids >= 0).long(), position_ids.clamp_min(0)
        self.time = ids.shape[1]
        hidden = self._run(ids, mask[:, : self.time], position_ids[:, : self.time])
        order = torch.from_numpy(which.repeat(answers_per_prompt)).to(ids.device)
        self.last, self.mask, self.position_ids = hidden[order, -1], mask[order], position_ids[order]
        if len(order) > len(ids):
            self.cache.batch_select_indices(order)

    @torch.no_grad()
    def _run(self, ids, mask, position_ids) -> torch.Tensor:
        call = {"input_ids": ids, "attention_mask": mask, "position_ids": position_ids}
        return self.trunk(**call, past_key_values=self.cache, use_cache=True).last_hidden_state

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token to every slot, (N,) -> hidden (N, D), which the next step may write over."""
        t, self.time = self.time, self.time + 1
        return self._run(tokens[:, None], self.mask[:, : t + 1], self.position_ids[:, t : t + 1])[:, 0]

    def shrink(self, going: np.ndarray) -> torch.Tensor | None:
        """Drop slots whose answer is done, where it pays; going (G, C) bool.

        The last answers move into the places of those that ended. Returns the slots (N',) of before that are there
        after, in their new order, or None where nothing changed. A column keeps as many slots as the longest one needs;
        what is kept beyond `going` is to be ignored.
        """
        count, columns = going.shape
        longest = int(going.sum(0).max())
        if longest > 15 * count // 16:
            return None
        kept = np.arange(longest)[:, None].repeat(columns, 1)
        for column in range(columns):
            tail = longest + np.flatnonzero(going[longest:, column])
            kept[np.flatnonzero(~going[:longest, column])[: len(tail)], column] = tail
        kept = (kept * columns + np.arange(columns)).reshape(-1)
        to = np.flatnonzero(kept != np.arange(len(kept)))
        self.slots = self.slots.reshape(-1)[kept].reshape(longest, columns)
        self._move(torch.from_numpy(to), torch.from_numpy(kept))
        return torch.from_numpy(kept)

    def _move(self, to: torch.Tensor, kept: torch.Tensor) -> None:
        """Slots `kept` of before are there after, in this order; `to` are the places at which that is another one."""
        kept = kept.to(self.mask.device)
        self.cache.batch_select_indices(kept)
        self.mask, self.position_ids = self.mask[kept], self.position_ids[kept]


class RowDecoder(Decoder):
    """Answers that grow on a model whose cache is more than keys and values: every step reads its rows whole."""

    def __init__(
        self, trunk: nn.Module, ids, gaps, which: np.ndarray, answers_per_prompt: int, max_new_tokens: int
    ):
        _require_causal(trunk)
        order = which.repeat(answers_per_prompt)
        prompts = [row[gap:] for row, gap in zip(ids.cpu().numpy(), gaps.tolist(), strict=True)]
        self.trunk, self.slots = trunk, np.arange(len(order))[:, None]
        self.last = self._read_ends(prompts)[torch.from_numpy(order).to(ids.device)]
        self.rows = [prompts[i] for i in order]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `Decoder.step`."""
        self.rows = [np.append(row, token) for row, token in zip(self.rows, tokens.tolist(), strict=True)]
        return self._read_ends(self.rows)

    @torch.no_grad()
    def _read_ends(self, rows: Sequence[np.ndarray]) -> torch.Tensor:
        return read_rows(self.trunk, rows, np.array([len(row) - 1 for row in rows]))

    def _move(self, to: torch.Tensor, kept: torch.Tensor) -> None:
        self.rows = [self.rows[i] for i in kept.tolist()]


def has_plain_cache(trunk: nn.Module) -> bool:
    """Whether keys and values, each at its place, are all that a model keeps of what it has read.

    Recurrent states (Mamba) are more; and a forward that is not told positions may count the padding before a prompt,
    unless its biases go by distance alone (ALiBi).
    """
    arguments = inspect.signature(trunk.forward).parameters
    placed = "position_ids" in arguments or trunk.config.model_type in ALIBI
    return "past_key_values" in arguments and placed and not getattr(trunk, "_is_stateful", False)


def _require_causal(trunk: nn.Module) -> None:
    require(
        getattr(trunk.config, "is_causal", True),
        "is_causal",
        False,
        "a causal model: it samples token by token",
    )
