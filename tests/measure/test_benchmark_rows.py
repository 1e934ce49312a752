"""Rows of AlpacaEval and MT-Bench, read back as those benchmarks read them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rmlab.measure.benchmark_rows import alpaca_eval_annotations, alpaca_eval_rows, mt_bench_rows

INSTRUCTIONS = ["Name a fruit.", "Say hello.", "Count."]


def rows(name):
    return alpaca_eval_rows(INSTRUCTIONS, [f"{name} {i}" for i in range(3)], name, "own")


def test_outputs_of_alpaca_eval():
    assert rows("policy")[0] == {
        "instruction": "Name a fruit.",
        "output": "policy 0",
        "generator": "policy",
        "dataset": "own",
    }
    with pytest.raises(ValueError, match="outputs"):
        alpaca_eval_rows(INSTRUCTIONS, ["one"], "policy")


def test_annotations_of_alpaca_eval_have_the_reference_first():
    table = alpaca_eval_annotations(rows("policy"), rows("base"), [1.0, 0.25, np.nan], "judge")
    assert [row["preference"] for row in table] == [2.0, 1.25, None]
    assert table[1]["output_1"] == "base 1" and table[1]["generator_1"] == "base"
    assert table[1]["output_2"] == "policy 1" and table[1]["generator_2"] == "policy"
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    read = [row["preference"] - 1 for row in table if row["preference"] is not None]
    assert np.mean(read) == 0.625  # AlpacaEval's win rate of generator_2


def test_annotations_of_other_prompts_are_refused():
    with pytest.raises(ValueError, match="reference"):
        alpaca_eval_annotations(rows("policy"), rows("base")[::-1], [1, 1, 1], "judge")
    with pytest.raises(ValueError, match="wins"):
        alpaca_eval_annotations(rows("policy"), rows("base"), [1, 1, 2], "judge")


def test_answers_of_mt_bench():
    table = mt_bench_rows([81, 82], [["one", "two"], ["three", "four"]], "policy", 1.5)
    assert table[0]["question_id"] == 81 and table[0]["model_id"] == "policy" and table[0]["tstamp"] == 1.5
    assert table[1]["choices"] == [{"index": 0, "turns": ["three", "four"]}]
    assert len({row["answer_id"] for row in table}) == 2
    assert table == mt_bench_rows([81, 82], [("one", "two"), ("three", "four")], "policy", 1.5)
    assert json.loads(json.dumps(table)) == table


@pytest.mark.parametrize(
    "questions, turns", [([1, 1], [["a"], ["b"]]), ([1, 2], ["a", ["b"]]), ([1, 2], [["a"], []])]
)
def test_answers_that_are_none(questions, turns):
    with pytest.raises(ValueError, match=r"questions|turns"):
        mt_bench_rows(questions, turns, "policy")
