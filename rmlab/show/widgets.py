"""What the widgets of the book share: one script and one style sheet of files, and tables as a page carries them.

A widget may have one script and one style sheet, and a page without a kernel or a network has nothing else: so the
modules that a widget is written in are joined, `widget.mjs` and `widget.css` first, which all of them draw with.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import SINGLE
from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS
from rmlab.reward.methods import METHODS
from rmlab.show.style import LOOKS, Look

HERE = Path(__file__).parent
PAGE_BYTES = 200_000  # of the tables of one widget, as JSON


def script(*modules: str) -> str:
    """`widget.mjs` and other modules, in the order in which they need each other, as one."""
    text = "".join((HERE / f"{name}.mjs").read_text("utf-8") for name in ("widget", *modules))
    return re.sub(r'^import \{[^}]*\} from "\./\w+\.mjs";$', "", text, flags=re.M)


def style_sheet(*names: str) -> str:
    """`widget.css` and others, as one."""
    return "".join((HERE / f"{name}.css").read_text("utf-8") for name in ("widget", *names))


def escaped(meta: dict, widget: object = None) -> str:
    """As JSON text without "<", which may end or begin a script in a page: a trait's `to_json`."""
    return json.dumps(meta).replace("<", "\\u003c")


def unescaped(text: str, widget: object = None) -> dict:
    """What `escaped` wrote: a trait's `from_json`."""
    return json.loads(text)


def carried(meta: dict) -> dict:
    """The same tables, if a page can carry them.

    Raises
    ------
    ValueError : more than 200,000 bytes as JSON
    """
    size = len(escaped(meta))
    require(size <= PAGE_BYTES, "bytes of tables", size, f"at most {PAGE_BYTES}: fewer rows")
    return meta


def table_of(frame: pd.DataFrame, columns: list[str], name: str) -> pd.DataFrame:
    """A table that has these columns and at least one row.

    Raises
    ------
    ValueError : naming the table and what it lacks
    """
    lacking = [c for c in columns if c not in frame]
    require(not lacking, f"columns that {name} lacks", lacking, f"the table `{name}` of a study")
    require(len(frame) > 0, f"rows of {name}", len(frame), "at least one")
    return frame


def numbers(values: pd.Series | np.ndarray, name: str, missing: bool = False) -> list[float | None]:
    """A column as a page carries it: floats, with None for a NaN where one may be missing.

    Raises
    ------
    ValueError : NaN where none may be missing, or infinity, naming the column
    """
    x = np.asarray(values, np.float64)
    require(missing or not np.isnan(x).any(), name, "NaN", "a number in every row")
    require(not np.isinf(x).any(), name, "infinity", "finite numbers")
    return [None if np.isnan(v) else float(v) for v in x]


def banded(frame: pd.DataFrame, column: str, name: str) -> dict[str, list[float | None]]:
    """A column as `value`, and the ends of its interval, `low` and `high`: None where one replicate has no interval."""
    ends = {"low": f"{column}_low", "high": f"{column}_high"}
    known = {key: numbers(frame[c], f"{c} of {name}", missing=True) for key, c in ends.items()}
    return {"value": numbers(frame[column], f"{column} of {name}"), **known}


def once(frame: pd.DataFrame, keys: list[str], name: str) -> None:
    """Require that no two rows have the same keys: a table of two studies, or of two optimisers, is not one curve."""
    double = frame[frame.duplicated(keys)]
    first = double.iloc[0][keys].tolist() if len(double) else []
    require(not first, f"rows of {name} that are there twice", first, f"one row for each {', '.join(keys)}")


def ensemble_label(ensemble: str, method: str, k: int) -> str:
    """What an ensemble is called on a page: "5 finetuning seeds"."""
    if ensemble == SINGLE or k == 1:
        return METHODS[SINGLE].label if ensemble == SINGLE else LOOKS[method].label
    return f"{k} seeds, a grid" if ensemble.startswith("grid") else f"{k} {LOOKS[method].label}"


def rule_label(aggregator: str) -> str:
    """What an aggregator at its usual strength is called on a page: "min (worst case)", "mean − std"."""
    require(aggregator in AGGREGATORS, "aggregator", aggregator, f"one of {', '.join(AGGREGATORS)}")
    return AGGREGATORS[aggregator].label.replace("λ ", "").replace(" - ", " − ")


def colour_and_dashes(look: Look) -> list[str]:
    """How a line is drawn in SVG: its colour, and its dashes or "none"."""
    return [look.color, "none" if look.dash == "-" else " ".join(f"{2 * d:g}" for d in look.dash[1])]
