"""Pairs of ids cut to a length: the prompt keeps its end and never goes whole, the answers keep their difference."""

from __future__ import annotations

from collections.abc import Sequence

from rmlab.recipe import require
from rmlab.tables import BadRow

SHARE = 4  # the prompt keeps at least 1 / SHARE of the length, or all of itself
SHORTEST = 2 * SHARE


def truncate_pair(
    prompt: Sequence[int],
    chosen: Sequence[int],
    rejected: Sequence[int],
    max_length: int,
    head: int = 0,
    where: str = "pair",
) -> tuple[list[int], list[int], list[int]]:
    """Cut a pair of ids so that prompt and answer fit in `max_length` tokens.

    The prompt, the same for both sides, loses its left end, down to a quarter of `max_length`. Only an answer
    longer than the rest is cut: on the right, except for its last token, the EOS where the score is read.

    Parameters
    ----------
    max_length : tokens of prompt and answer together, at least 8
    head : tokens at the prompt's start that stay, such as a <bos>
    where : names the pair in an error

    Returns
    -------
    (prompt, chosen, rejected) lists of ids

    Raises
    ------
    BadRow
        `identical_after_truncation`: nothing would be left to prefer.
    """
    require(max_length >= SHORTEST, "max_length", max_length, f"at least {SHORTEST} tokens")
    room = max_length - min(len(prompt), max_length // SHARE)  # for an answer
    chosen, rejected = _cut_answer(chosen, room), _cut_answer(rejected, room)
    if chosen == rejected:
        fault = f"chosen and rejected become identical; raise max_length = {max_length}, or drop the pair"
        raise BadRow("identical_after_truncation", where, fault)
    prompt, room = list(prompt), max_length - max(len(chosen), len(rejected))
    if len(prompt) > room:
        prompt = [*prompt[:head], *prompt[len(prompt) - room + head :]]
    return prompt, chosen, rejected


def _cut_answer(ids: Sequence[int], most: int) -> list[int]:
    ids = list(ids)
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]
