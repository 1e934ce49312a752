"""Cutting a pair to length: the answers keep their difference, the prompt its end, and never goes whole."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from rmlab.tables import BadRow
from rmlab.truncation import truncate_pair

ids = st.lists(st.integers(5, 8), max_size=30)


@settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(ids, ids, ids, st.integers(8, 40), st.integers(0, 1))
def test_truncation_keeps_the_difference_and_a_part_of_each(prompt, chosen, rejected, most, head):
    chosen, rejected = [*chosen, 2], [*rejected, 2]
    floor = min(len(prompt), most // 4)
    try:
        p, c, r = truncate_pair(prompt, chosen, rejected, most, head)
    except BadRow as bad:
        assert bad.reason == "identical_after_truncation"
        assert chosen[: most - floor - 1] == rejected[: most - floor - 1]
        return
    assert c != r and len(p) + max(len(c), len(r)) <= most
    assert len(p) >= floor
    assert p[:head] == prompt[:head] and p[head:] == prompt[len(prompt) - len(p) + head :]
    for cut, whole in ((c, chosen), (r, rejected)):
        assert cut == whole if len(whole) <= most - floor else cut == [*whole[: most - floor - 1], 2]
    if len(prompt) + max(len(chosen), len(rejected)) <= most:
        assert (p, c, r) == (prompt, chosen, rejected)
    elif len(p) < len(prompt):
        assert len(p) + max(len(c), len(r)) == most  # no more than needed


def test_naive_truncation_would_have_made_pairs_identical():
    """The trap: prompt + answer cut on the right leaves the prompt alone, twice."""
    prompt, chosen, rejected = list(range(5, 105)), [7, 8, 2], [9, 8, 2]
    assert (prompt + chosen)[:64] == (prompt + rejected)[:64]
    p, c, r = truncate_pair(prompt, chosen, rejected, 64)
    assert p == prompt[-61:] and (c, r) == (chosen, rejected)


def test_long_answers_leave_a_quarter_to_the_prompt():
    p, c, r = truncate_pair(range(100), [*range(50), 2], [*range(9, 59), 2], 40, head=1)
    assert p == [0, *range(91, 100)] and len(c) == len(r) == 30 and c[-1] == r[-1] == 2


def test_what_cannot_be_cut_is_named():
    with pytest.raises(BadRow, match=r"pair 'x': chosen and rejected become identical; raise max_length = 8"):
        truncate_pair([5], [6] * 20 + [7, 2], [6] * 20 + [8, 2], 8, where="pair 'x'")
    with pytest.raises(ValueError, match="max_length = 7: give at least 8"):
        truncate_pair([5], [6], [7], 7)
