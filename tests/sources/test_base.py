"""What every source shares: prompts on disk, a bill's arithmetic, the door for answers, plain refusals."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.sources.base import Prompt, Source, check_answers, load_prompts, save_prompts, term_worth
from rmlab.tokens import SpecialTokens


class Bare(Source):
    """The least that a source can be."""

    special = SpecialTokens(0, (2,))
    vocab_size = 10
    max_new_tokens = 8

    def prompts(self, count, rng):
        return [Prompt(str(i), (1, 5 + i % 5)) for i in range(count)]


@pytest.mark.parametrize("prompts", [[], [Prompt('a \u2028 \n "b" é', (1, 5)), Prompt("", ())]])
def test_prompts_come_back_as_they_were(tmp_path, prompts):
    save_prompts(tmp_path, prompts)
    assert load_prompts(tmp_path) == prompts
    assert len((tmp_path / "prompts.jsonl").read_bytes().splitlines()) == len(prompts)


def test_a_source_must_have_prompts_and_says_what_else_it_has_not():
    with pytest.raises(TypeError, match="prompts"):
        Source()
    source, rng = Bare(), np.random.default_rng(0)
    ids = np.array([[5, 2]])
    assert source.documents("answers", 3, rng) is None and source.probes(source.prompts(1, rng)) is None
    assert source.gold(source.prompts(1, rng), ids) is None and source.gold_terms([], ids) is None
    assert source.bill == [] and source.probe_labels == {}
    assert source.for_evaluation is source and source.for_training is source
    for refused in (lambda: source.text([5]), lambda: source.ids("a"), lambda: source.prompt("a")):
        with pytest.raises(ValueError, match="source = Bare: cannot"):
            refused()


def test_a_term_is_worth_its_table_and_then_its_slope():
    counts = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
    worth = term_worth(counts, (0.0, 0.5, -1.0), -2.0)
    np.testing.assert_allclose(worth, [[0.0, 0.5, -1.0], [-3.0, -5.0, -1.0 - 2.0 * 253]])
    assert term_worth(3, (0.0,), 0.25) == 0.75


def test_answers_at_the_door():
    ids = check_answers(np.array([[5, 2, 0], [9, 0, 0]], np.uint8), 10, 0)
    assert ids.dtype == np.int32 and ids.tolist() == [[5, 2, 0], [9, 0, 0]]
    assert check_answers(np.zeros((0, 3), int), 10, 0).shape == (0, 3)
    assert check_answers(np.array([[0, 9]]), 10, 9).tolist() == [[0, 9]]  # id 0 is a token like any other
    for bad, words in (
        ([[5, 10]], r"ids in answers = \[10\]: give ids from 0 to 9"),
        ([[5, 2], [0, 0]], r"empty rows of answers = \[1\]: give at least one token"),
        ([[0.5]], "give integer ids"),
        ([[True]], "give integer ids"),
        ([[2**40]], r"ids in answers = \[1099511627776\]"),
    ):
        with pytest.raises(ValueError, match=words):
            check_answers(np.array(bad), 10, 0)
