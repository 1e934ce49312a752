"""Answers and judgements as the rows that two public benchmarks of chat models read and write.

AlpacaEval (Dubois et al. 2404.04475; its README): a JSON list of dicts. Outputs of a model have
`instruction`, `output`, `generator` and `dataset`; annotations have both outputs, with the reference as 1 and the model
as 2, and a `preference` from 1 (the first is better) by 1.5 (a draw) to 2 (the second is better), so that the model's
win rate is the mean of preference - 1. MT-Bench (Zheng et al. 2306.05685; FastChat's llm_judge): a JSON line a
question, its answers under `choices`, each with a string a turn, two turns in MT-Bench itself.

Letters: R prompts, with an answer each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from rmlab.recipe import require


def alpaca_eval_rows(
    instructions: Sequence[str], outputs: Sequence[str], generator: str, dataset: str = "rmlab"
) -> list[dict[str, str]]:
    """A model's outputs as AlpacaEval's `model_outputs` and `reference_outputs` have them, R dicts.

    Parameters
    ----------
    instructions, outputs : R strings each
    generator : the model's name
    dataset : where the instructions come from
    """
    _same_length(instructions, outputs=outputs)
    return [
        {"instruction": instruction, "output": output, "generator": generator, "dataset": dataset}
        for instruction, output in zip(instructions, outputs, strict=True)
    ]


def alpaca_eval_annotations(
    outputs: Sequence[dict[str, str]],
    reference: Sequence[dict[str, str]],
    wins: Sequence[float],
    annotator: str,
) -> list[dict[str, object]]:
    """Judgements as AlpacaEval's `annotations.json` has them, R dicts: the reference is 1, the model 2.

    Parameters
    ----------
    outputs, reference : rows of `alpaca_eval_rows`, of the same instructions in the same order
    wins : R numbers from 0 to 1, what the model wins against the reference; NaN for none, a preference of None
    annotator : the judge's name
    """
    _same_length(outputs, reference=reference, wins=wins)
    apart = [
        i
        for i, (x, y) in enumerate(zip(outputs, reference, strict=True))
        if x["instruction"] != y["instruction"]
    ]
    require(not apart, "rows of reference", apart[:5], "the instructions of outputs, in their order")
    wins = np.asarray(wins, np.float64)
    require(
        not ((wins < 0) | (wins > 1)).any(),
        "wins",
        list(wins[(wins < 0) | (wins > 1)]),
        "numbers from 0 to 1",
    )
    return [
        {
            "instruction": model["instruction"],
            "output_1": base["output"],
            "generator_1": base["generator"],
            "output_2": model["output"],
            "generator_2": model["generator"],
            "dataset": model["dataset"],
            "annotator": annotator,
            "preference": None if np.isnan(won) else 1 + float(won),
        }
        for model, base, won in zip(outputs, reference, wins, strict=True)
    ]


def mt_bench_rows(
    questions: Sequence[int], turns: Sequence[Sequence[str]], model_id: str, tstamp: float = 0.0
) -> list[dict[str, object]]:
    """A model's answers as lines of MT-Bench's `model_answer/MODEL.jsonl`, R dicts; write one a line.

    Parameters
    ----------
    questions : R different whole numbers, the `question_id` of each
    turns : the model's R answers, each a list of strings, one a turn (MT-Bench has two)
    model_id : the model's name
    tstamp : seconds since 1970 at which the answers were made

    Returns
    -------
    Dicts of question_id, answer_id, model_id, choices (one, of index 0) and tstamp. An answer's id is the head of a
    hash of its content, so the same answers give the same rows.
    """
    _same_length(questions, turns=turns)
    numbers = [int(x) for x in questions]
    require(len(set(numbers)) == len(numbers), "questions", numbers, "each question once")
    bad = [
        i
        for i, x in enumerate(turns)
        if isinstance(x, str) or not x or not all(isinstance(t, str) for t in x)
    ]
    require(not bad, "rows of turns", bad[:5], "lists of strings, one a turn")
    rows = []
    for number, answer in zip(numbers, turns, strict=True):
        content = json.dumps([number, model_id, list(answer)])
        rows.append(
            {
                "question_id": number,
                "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
                "model_id": model_id,
                "choices": [{"index": 0, "turns": list(answer)}],
                "tstamp": tstamp,
            }
        )
    return rows


def _same_length(first: Sequence, **others: Sequence) -> None:
    for name, rows in others.items():
        require(len(rows) == len(first), name, f"{len(rows)} rows", f"one for each of {len(first)}")
