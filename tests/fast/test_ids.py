"""Ids at the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.fast.ids import check_block, check_rows, vocabulary
from tests.fast.families import build


def test_rows_become_arrays_of_whole_numbers():
    rows = check_rows("prompts", [[1, 2], np.array([3], np.int32), torch.tensor([4])], 5)
    assert [row.tolist() for row in rows] == [[1, 2], [3], [4]] and {row.dtype for row in rows} == {
        np.dtype("int64")
    }


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "0 rows"),
        ([[1], []], r"empty: \[1\]"),
        ([[1, -100]], r"\[-100\]"),
        ([[5, 6], [4]], r"prompts = \[5, 6\]: give ids from 0 to 4"),
        ([[1.5]], "whole numbers"),
        ([["1"]], "whole numbers"),
    ],
)
def test_what_are_no_rows_of_ids_is_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        check_rows("prompts", rows, 5)


def test_a_vocabulary_is_what_the_embedding_holds():
    assert vocabulary(build("gpt2").transformer) == 110
    with pytest.raises(ValueError, match="embedding of Linear = None: give a transformers model"):
        vocabulary(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_what_stands_in_a_blocks_padding_does_not_matter(dtype):
    ids, lengths = torch.tensor([[1, 2, -100], [3, 999, 7]], dtype=dtype), torch.tensor([2, 1])
    assert check_block("ids", ids, lengths, 5, 3).tolist() == [[1, 2, 0], [3, 0, 0]]


@pytest.mark.parametrize(
    ("lengths", "most", "words"),
    [
        ([3, 1], 3, "-100"),
        ([2, 2], 3, "999"),
        ([0, 1], 3, "lengths"),
        ([4, 1], 3, "lengths"),
        ([2, 1], 2, "at most 2"),
    ],
)
def test_what_is_no_block_is_refused(lengths, most, words):
    ids = torch.tensor([[1, 2, -100], [3, 999, 7]])
    with pytest.raises(ValueError, match=words):
        check_block("ids", ids, torch.tensor(lengths), 5, most)
