"""A widget: draw where gold goes as n grows, see it, then fit the law of overoptimisation and test it beyond a cut.

    from rmlab.show.fit_law import FitLaw
    from rmlab.show.rows import rows

    FitLaw(rows("curves", "best_of_n_sighted"), rows("laws", "best_of_n_sighted"))

The page has the rows; `fit_law.mjs` scores a sketch as `sketch_error` does, and fits best-of-n's form of Gao et al.
(2210.10760, Section 3), gold - gold(0) = d (alpha - beta d) with d = sqrt(KL), by weighted least squares as
`rmlab.measure.laws.fit` does: a test holds its numbers equal.

Letters: L points of a curve, S of them shown before a sketch.
"""

from __future__ import annotations

from collections.abc import Sequence

import anywidget
import numpy as np
import pandas as pd
import traitlets

from rmlab.measure.law_tables import CUT, ENOUGH
from rmlab.recipe import require
from rmlab.show import widgets
from rmlab.show.style import LOOKS, look_of

SEEN = 16  # n up to which gold is shown before a sketch
FEWEST = 3  # points that a fit needs, to be tested beyond them
MOST, START = (3.0, 1.5), (1.0, 0.2)  # alpha and beta: the sliders' ends, and where they start
STEPS = ("draw", "truth", "fit")
CHOICES = (("single", "mean"), ("finetune5", "min"), ("heads5", "min"))
KEYS = ["ensemble", "aggregator", "pessimism", "optimiser"]
BANDED = ("alpha", "beta", "peak_d")
NEEDED = {
    "curves": [*KEYS, "method", "k", "pressure", "kl", "ess", "gold", "gold_low", "gold_high", "units"],
    "laws": [
        *KEYS,
        "form",
        "cut_d",
        "rmse_out",
        *(f"{q}{end}" for q in (*BANDED, "excess_out") for end in ("", "_low", "_high")),
    ],
}


class FitLaw(anywidget.AnyWidget):
    """Sketch a curve of gold past n = 16, see the truth and the sketch's error, then fit the law by hand up to a cut.

    Parameters
    ----------
    curves, laws : a study's tables of these names; best-of-n's rows at the papers' strengths are used
    choices : (ensemble, aggregator) of the curves that a reader may choose among, all of them in the rows
    curve : which of them is first, as "finetune5 min"; unless said the first
    step : "draw", "truth" or "fit"
    cut : n up to which the law is fitted, of the rows: three points are below it, one is beyond

    `curve`, `step`, `sketch` (gold at each n past 16, empty before a reader draws), `alpha` (gold a root nat), `beta`
    (gold a nat) and `cut` are traits, synced both ways. `result` is what the page computed: sketch_error (None without
    a sketch) and straight_error, mean absolute errors in gold; of the reader's law rmse_in and rmse_out, root mean
    squares in gold up to the cut and beyond; of least squares up to the cut best_alpha, best_beta, best_rmse_in and
    best_rmse_out.

    Raises
    ------
    ValueError : a table without its columns or the rows of a choice, a curve of too few points or without n = 16, a
        state that there is not
    """

    _esm = widgets.script("fit_law")
    _css = widgets.style_sheet()
    meta = traitlets.Dict().tag(sync=True, to_json=widgets.escaped, from_json=widgets.unescaped)
    curve = traitlets.Unicode("").tag(sync=True)
    step = traitlets.Unicode("draw").tag(sync=True)
    sketch = traitlets.List(traitlets.Float()).tag(sync=True)
    alpha = traitlets.Float(START[0]).tag(sync=True)
    beta = traitlets.Float(START[1]).tag(sync=True)
    cut = traitlets.Int(CUT).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        curves: pd.DataFrame,
        laws: pd.DataFrame,
        choices: Sequence[tuple[str, str]] = CHOICES,
        curve: str | None = None,
        step: str = "draw",
        cut: int | None = None,
    ):
        meta = tables(curves, laws, choices)
        ns = {c["name"]: c["n"] for c in meta["curves"]}
        curve = next(iter(ns)) if curve is None else curve
        require(curve in ns, "curve", curve, f"one of {', '.join(ns)}")
        require(step in STEPS, "step", step, f"one of {', '.join(STEPS)}")
        stops = ns[curve][FEWEST:-1]
        cut = (CUT if CUT in stops else stops[-1]) if cut is None else cut
        require(cut in stops, "cut", cut, f"one of {stops}, n of the rows with points on both sides")
        super().__init__(meta=widgets.carried(meta), curve=curve, step=step, cut=cut)


def tables(curves: pd.DataFrame, laws: pd.DataFrame, choices: Sequence[tuple[str, str]]) -> dict:
    """What the page carries of the two tables, as JSON can hold it; errors as in `FitLaw`."""
    require(len(choices) > 0, "choices", list(choices), "at least one (ensemble, aggregator)")
    frames = {"curves": curves, "laws": laws}
    for name, frame in frames.items():
        widgets.table_of(frame, NEEDED[name], name)
        fits = (frame.optimiser == "best_of_n") & (frame.pessimism == "paper")
        frames[name] = frame[fits]
    found = [_curve(*(_rows(frame, choice, name) for name, frame in frames.items())) for choice in choices]
    ends = [v for c in found for part in c["gold"].values() for v in part if v is not None]
    straight = [straight_continuation(c["d"], c["gold"]["value"], c["n"].index(SEEN) + 1)[-1] for c in found]
    low, high = min(*ends, *straight), max(*ends, *straight)
    span = [np.floor(10 * (low - 0.1 * (high - low))) / 10, np.ceil(10 * (high + 0.1 * (high - low))) / 10]
    you = widgets.colour_and_dashes(LOOKS["you"])
    return {"curves": found, "seen": SEEN, "span": span, "you": you, "most": list(MOST), "start": list(START)}


def straight_continuation(d: np.ndarray, gold: np.ndarray, shown: int) -> np.ndarray:
    """The line through the last two points that are shown, at every d, (L,) gold units.

    d, gold : (L,); shown : S, at least 2
    """
    d, gold = np.asarray(d, np.float64), np.asarray(gold, np.float64)
    slope = (gold[shown - 1] - gold[shown - 2]) / (d[shown - 1] - d[shown - 2])
    return gold[shown - 1] + slope * (d - d[shown - 1])


def sketch_error(heights: np.ndarray, gold: np.ndarray) -> float:
    """The mean absolute error of a sketch, gold units.

    heights, gold : (L - S,), at the points past those that are shown
    """
    return float(np.abs(np.asarray(heights) - np.asarray(gold)).mean())


def _rows(frame: pd.DataFrame, choice: tuple[str, str], name: str) -> pd.DataFrame:
    """The rows of one ensemble and aggregator."""
    ensemble, rule = choice
    rows = frame[(frame.ensemble == ensemble) & (frame.aggregator == rule)]
    require(len(rows) > 0, f"rows of {name}", f"none of {ensemble} {rule}", "choices that the tables have")
    return rows


def _curve(curve: pd.DataFrame, laws: pd.DataFrame) -> dict:
    """One curve and its laws."""
    curve = curve.sort_values("pressure")
    first, ns = curve.iloc[0], [int(n) for n in curve.pressure]
    name = f"{first.ensemble} {first.aggregator}"
    fits = len(set(ns)) == len(ns) > FEWEST + 1 and SEEN in ns[2:-1] and ns[0] == 1
    require(fits, f"n of {name}", ns, f"each once, from 1, with {SEEN} and larger ones")
    widgets.once(laws, ["form"], f"laws of {name}")
    label = widgets.ensemble_label(first.ensemble, first.method, first.k)
    kl = np.maximum(widgets.numbers(curve.kl, f"kl of {name}"), 0.0)
    weight = np.minimum(widgets.numbers(curve.ess, f"ess of {name}"), ENOUGH) / ENOUGH
    return {
        "name": name,
        "label": label if first.k == 1 else f"{label}, {widgets.rule_label(first.aggregator)}",
        "look": widgets.colour_and_dashes(look_of(first.ensemble, first.method)),
        "n": ns,
        "d": np.sqrt(kl).tolist(),
        "weight": weight.tolist(),
        "gold": widgets.banded(curve, "gold", f"curves of {name}"),
        "units": int(first.units),
        "laws": [_law(row, name) for _, row in laws.iterrows()],
        "cut": int(ns[int(np.abs(np.sqrt(kl) - laws.cut_d.iloc[0]).argmin())]),
    }


def _law(row: pd.Series, name: str) -> dict:
    """One form's row; a peak that has no end is None."""
    frame = row.to_frame().T.replace([np.inf, -np.inf], np.nan)
    own = {q: _ends(frame, q) for q in BANDED} | {"excess": _ends(frame, "excess_out")}
    require(
        None not in (own["alpha"]["value"], own["beta"]["value"]), f"laws of {name}", "NaN", "fitted laws"
    )
    return {"form": row.form, **own, "rmse_out": widgets.numbers(frame.rmse_out, "", missing=True)[0]}


def _ends(frame: pd.DataFrame, column: str) -> dict[str, float | None]:
    """A number and the ends of its interval, None where there is none."""
    columns = {"value": column, "low": f"{column}_low", "high": f"{column}_high"}
    return {end: widgets.numbers(frame[c], c, missing=True)[0] for end, c in columns.items()}
