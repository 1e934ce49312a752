"""A study's ends as text."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from rmlab.study.summary import summary


@pytest.mark.parametrize("name", ["tiny", "tiny_constructions", "tiny_ppo"])
def test_every_setting_has_a_row_with_its_numbers(name, tiny_studies):
    text, ends = summary(tiny_studies[name]), pd.read_csv(tiny_studies[name] / "ends.csv")
    lines = text.splitlines()
    assert len(lines) == len(ends) + 2 and "end minus start" in lines[0]
    assert "95% intervals over " + ("prompts." if name == "tiny" else "replicates and prompts.") in lines[-1]
    for line, row in zip(lines[1:-1], ends.itertuples(), strict=True):
        assert line.startswith(f"{row.ensemble} {row.aggregator}")
        numbers = [float(x) for x in re.findall(r"-?\d+\.\d\d", line)]
        assert numbers[0] == pytest.approx(row.start, abs=0.006) and numbers[2] == pytest.approx(
            row.end, abs=0.006
        )


def test_ppo_rows_name_their_penalty_and_length(tiny_studies):
    text = summary(tiny_studies["tiny_ppo"])
    assert "single mean kl 0 x2" in text and "finetune2 min kl 0.1" in text


def test_a_single_model_has_no_gain(tiny_studies):
    lines = summary(tiny_studies["tiny"]).splitlines()
    single, several = (
        next(x for x in lines if x.startswith(start)) for start in ("single mean", "finetune2 min")
    )
    assert single.count("[") == 3 and several.count("[") == 4
