"""What widgets share: files joined into one script, tables as a page carries them, what does not fit named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rmlab.show import widgets
from rmlab.show.style import LOOKS

WIDGETS = ("promised", "fit_law", "herd", "detector")


def test_a_meta_is_read_as_it_was_written_and_ends_no_script():
    meta = {"label": "</script><!--<script>", "value": [0.1, None]}
    assert "<" not in widgets.escaped(meta) and widgets.unescaped(widgets.escaped(meta)) == meta


def test_tables_too_large_for_a_page_are_refused():
    small = {"x": [1.0] * 100}
    assert widgets.carried(small) is small
    with pytest.raises(ValueError, match="bytes of tables = 2"):
        widgets.carried({"x": "a" * 200_000})


def test_tables_that_lack_something_are_named():
    frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
    assert widgets.table_of(frame, ["a", "b"], "rows") is frame
    with pytest.raises(ValueError, match=r"columns that rows lacks = \['c'\]"):
        widgets.table_of(frame, ["a", "c"], "rows")
    with pytest.raises(ValueError, match="rows of rows = 0"):
        widgets.table_of(frame[:0], ["a"], "rows")
    with pytest.raises(ValueError, match="there twice"):
        widgets.once(pd.concat([frame, frame]), ["a"], "rows")
    widgets.once(pd.concat([frame, frame.assign(a=2.0)]), ["a"], "rows")


def test_a_missing_number_is_none_where_it_may_be_missing():
    assert widgets.numbers(np.array([1.5, np.nan]), "x", missing=True) == [1.5, None]
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="low of rows"):
            widgets.numbers(np.array([bad]), "low of rows")
    frame = pd.DataFrame({"a": [1.0], "a_low": [np.nan], "a_high": [np.nan]})
    assert widgets.banded(frame, "a", "rows") == {"value": [1.0], "low": [None], "high": [None]}


@pytest.mark.parametrize(
    "ensemble,method,k,label",
    [
        ("single", "single", 1, "one reward model"),
        ("finetune5", "finetune", 5, "5 finetuning seeds"),
        ("grid15", "mixed", 15, "15 seeds, a grid"),
        ("average5", "average", 1, "weight average"),
    ],
)
def test_ensembles_are_called_what_they_are(ensemble, method, k, label):
    assert widgets.ensemble_label(ensemble, method, k) == label


def test_aggregators_are_called_what_they_are():
    assert [widgets.rule_label(x) for x in ("mean", "min", "mean_std")] == [
        "mean",
        "min (worst case)",
        "mean − std",
    ]
    with pytest.raises(ValueError, match="aggregator = 'vote'"):
        widgets.rule_label("vote")


def test_a_line_has_the_books_colour_and_dashes():
    assert widgets.colour_and_dashes(LOOKS["gold"]) == ["#b07a10", "none"]
    assert widgets.colour_and_dashes(LOOKS["finetune"]) == ["#029e73", "10 4"]


@pytest.mark.parametrize("name", WIDGETS)
def test_the_files_of_a_widget_are_one_module(name):
    whole = widgets.script(name)
    assert "import {" not in whole and 'from "./' not in whole and whole.count("export default") == 1
    assert max(map(len, whole.splitlines())) <= 120
    declared = re.findall(r"^(?:export )?(?:const|function) (\w+)", whole, re.M)
    assert len(declared) == len(set(declared))
    own = (Path(widgets.HERE) / f"{name}.mjs").read_text("utf-8")
    imported = re.findall(r"\w+", re.search(r"import \{([^}]*)\} from \"./widget.mjs\"", own)[1])
    assert set(imported) <= set(re.findall(r"^export (?:const|function) (\w+)", whole, re.M))
    assert not [x for x in imported if len(re.findall(rf"\b{x}\b", own)) < 2]  # each is used


def test_the_style_sheet_is_one_text():
    assert widgets.style_sheet("explorer").startswith(widgets.style_sheet())
    assert json.dumps(widgets.style_sheet("explorer")).count("rmx-ranks") > 1
