"""What a compact pool holds, words or text: checked, and the answers that are kept.

Letters: P prompts, N answers a prompt, M of them kept, T tokens, C members (columns), F terms of gold's bill.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from rmlab.optimise.thinning import grid, thin
from rmlab.recipe import require

HIGHEST = float(np.finfo(np.float32).max)


def thin_words(
    counts: np.ndarray,
    bill: list[dict],
    scores: np.ndarray,
    columns: list[str],
    ensembles: list[dict],
    tokens: np.ndarray,
    lengths: np.ndarray,
    keep: int,
    seed: int,
    ended: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of a pool of words: M answers a prompt, their scores on a grid.

    Parameters
    ----------
    counts (P, N, F), 0 to 255; scores (P, N, C), finite; tokens (P, N, T), ids below 256; lengths (P, N)
    bill, columns, ensembles : as CompactPool's fields; keep, seed, ended : as `thin`'s
    """
    counts, scores = np.asarray(counts), np.asarray(scores, np.float64)
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    _check_words(counts, scores, tokens, lengths, columns)
    check_ensembles(ensembles, len(columns))
    kept, weight = thin(scores, bill_total(counts, bill), ensembles, keep, seed, ended)
    rows = np.arange(len(kept))[:, None]
    steps, scale, offset = grid(scores[rows, kept], columns)
    lengths = lengths[rows, kept]
    return {
        "tokens": tokens[rows, kept][np.arange(tokens.shape[2]) < lengths[..., None]],
        "lengths": lengths,
        "counts": counts[rows, kept],
        "weight": weight,
        "scores": steps,
        "scale": scale,
        "offset": offset,
    }


def thin_text(
    texts: list[list[bytes]],
    scores: np.ndarray,
    gold: np.ndarray | None,
    ensembles: list[dict],
    keep: int,
    seed: int,
    ended: np.ndarray | None = None,
) -> dict[str, np.ndarray | None]:
    """The arrays of a pool of text: M answers a prompt, their scores as they are.

    Parameters
    ----------
    texts : P lists of N, UTF-8; scores (P, N, C), gold (P, N) or None : float32, finite
    ensembles : as CompactPool's field; keep, seed, ended : as `thin`'s
    """
    kept, weight = thin(scores.astype(np.float64), gold, ensembles, keep, seed, ended)
    rows = np.arange(len(kept))[:, None]
    chosen = [texts[p][i] for p in range(len(kept)) for i in kept[p]]
    return {
        "tokens": np.frombuffer(b"".join(chosen), np.uint8),
        "lengths": np.reshape([len(text) for text in chosen], kept.shape),
        "gold_values": None if gold is None else gold[rows, kept],
        "weight": weight,
        "scores": scores[rows, kept],
        "scale": np.ones(scores.shape[2]),
        "offset": np.zeros(scores.shape[2]),
    }


def checked_text(
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    scores: np.ndarray,
    gold: np.ndarray | None,
    columns: Sequence[str] | None,
) -> tuple[list[list[bytes]], np.ndarray, np.ndarray | None, list[str]]:
    """A pool of text, checked: UTF-8 answers (P lists of N), float32 scores and gold, the members' names.

    Float32 turns no order round, of scores that a model gave in float32 not even a tie.

    Parameters
    ----------
    prompts : P texts; answers : P lists of N texts; scores (P, N, C); gold (P, N) or None
    columns : C names, or None for "member 1" on

    Raises
    ------
    ValueError : what does not fit; a text that is none or that UTF-8 cannot hold; a number that is not finite
        or beyond float32: each named by member, answer and prompt
    """
    texts = _encoded(prompts, answers)
    shape = len(texts), len(texts[0])
    scores = np.asarray(scores, np.float64)
    fit = scores.ndim == 3 and scores.shape[:2] == shape and scores.shape[2] > 0
    require(fit, "shape of member_scores", scores.shape, f"{shape} and one or more members")
    C = scores.shape[2]
    columns = [f"member {c + 1}" for c in range(C)] if columns is None else [str(name) for name in columns]
    require(len(columns) == C, "names in columns", len(columns), f"{C}, one a member of member_scores")
    for p, i, c in _strange(scores):
        where = f"score of {columns[c]!r} for answer {i} to prompt {p}"
        require(False, where, float(scores[p, i, c]), "a finite number that float32 can hold")
    if gold is not None:
        gold = np.asarray(gold, np.float64)
        require(gold.shape == shape, "shape of gold", gold.shape, f"{shape}, a number an answer, or None")
        for p, i in _strange(gold):
            mend = "a finite number that float32 can hold, or gold=None where there is none"
            require(False, f"gold of answer {i} to prompt {p}", float(gold[p, i]), mend)
        gold = gold.astype(np.float32)
    return texts, scores.astype(np.float32), gold, columns


def check_finite(name: str, values: np.ndarray) -> None:
    """Raise a ValueError that names the first place whose value is not finite."""
    values = np.asarray(values)
    for place in np.argwhere(~np.isfinite(values))[:1].tolist():
        require(False, f"{name}{place}", float(values[tuple(place)]), "a finite number")


def check_ensembles(ensembles: Sequence[dict], C: int) -> None:
    """Raise a ValueError unless every ensemble has its own plain name, a label, and members among C columns."""
    for ensemble in ensembles:
        missing = sorted({"name", "label", "members"} - set(ensemble))
        require(not missing, "ensemble", ensemble, f"one with {', '.join(missing)}")
        name, members = ensemble["name"], ensemble["members"]
        plain = re.fullmatch(r"[\w-]+", name) is not None  # it goes into the page's address
        require(plain, "name of an ensemble", name, "letters, digits, _ and - only")
        within = bool(members) and set(members) <= set(range(C))
        require(within, f"members of ensemble {name!r}", members, f"columns below {C}")
    names = [e["name"] for e in ensembles]
    sizes = [(e["series"], len(e["members"])) for e in ensembles if e.get("series")]
    require(len(set(sizes)) == len(sizes), "sizes of ensembles", sizes, "each size of a series once")
    require(len(set(names)) == len(names), "names of ensembles", names, "each name once")


def bill_total(counts: np.ndarray, bill: Sequence[dict]) -> np.ndarray:
    """Counts (..., F) to gold (...), gold units."""
    counts = np.asarray(counts, np.int64)
    total = np.zeros(counts.shape[:-1])
    for f, term in enumerate(bill):
        c, last = counts[..., f], len(term["values"]) - 1
        total += np.asarray(term["values"], np.float64)[np.minimum(c, last)]
        total += term["slope"] * np.maximum(c - last, 0)
    return total


def _check_words(counts, scores, tokens, lengths, columns: list[str]) -> None:
    """That the arrays of a full pool fit each other and the bytes that keep them."""
    shapes = [counts.shape, scores.shape, tokens.shape, lengths.shape]
    fit = counts.ndim == scores.ndim == tokens.ndim == 3 and len({shape[:2] for shape in shapes}) == 1
    mend = "(P, N, F), (P, N, C), (P, N, T) and (P, N)"
    require(fit, "shapes of gold_counts, scores, tokens, lengths", shapes, mend)
    C = scores.shape[2]
    require(C == len(columns), "labels in columns", len(columns), f"{C}, one a member of scores")
    check_finite("scores", scores)
    for name, values, most in (("gold_counts", counts, 255), ("lengths", lengths, min(255, tokens.shape[2]))):
        off = next((int(x) for x in (values.min(initial=0), values.max(initial=0)) if not 0 <= x <= most), 0)
        require(off == 0, name, off, f"numbers from 0 to {most}: they must fit a byte, and lengths tokens")


def _encoded(prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[list[bytes]]:
    """The answers as UTF-8: P lists of N."""
    require(not isinstance(prompts, str), "prompts", prompts, "a list of texts")
    require(len(prompts) > 0, "prompts", prompts, "at least one")
    require(len(answers) == len(prompts), "lists of answers", len(answers), f"{len(prompts)}, one a prompt")
    for p, prompt in enumerate(prompts):
        _utf8(prompt, f"prompt {p}")
    N = len(answers[0])
    for p, row in enumerate(answers):
        fit = not isinstance(row, str) and len(row) == N > 0
        mend = f"a list of {max(N, 1)} texts, as many as to every prompt"
        require(fit, f"number of answers to prompt {p}", len(row), mend)
    return [
        [_utf8(x, f"answer {i} to prompt {p}") for i, x in enumerate(row)] for p, row in enumerate(answers)
    ]


def _utf8(text: str, where: str) -> bytes:
    require(isinstance(text, str), where, text, "text")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        part, at = text[error.start : error.end], f"{where}, from character {error.start}"
        raise ValueError(
            f"{at} = {part!r}: give text without lone surrogates, which UTF-8 cannot hold"
        ) from None


def _strange(values: np.ndarray) -> list[list[int]]:
    """The place of the first value that float32 cannot hold: a list of one place, or of none."""
    return np.argwhere(~(np.abs(values) <= HIGHEST))[:1].tolist()
