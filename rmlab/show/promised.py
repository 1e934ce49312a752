"""A widget: what judges promise of the winner of n, and what gold delivers.

    from rmlab.show.promised import Promised
    from rmlab.show.rows import rows

    study = "best_of_n_sighted"
    Promised(rows("promised", study), rows("reliability", study), rows("calibration", study), n=256)

The page has the rows themselves; `promised.mjs` draws them and computes one number, `pooled_error`, a test holding it
equal to that of Python. The numbers are those of `rmlab.measure.promised` and `rmlab.measure.study_calibration`.

A diagram has the scores as they are. Its bins hold the mean of what was stated in each and not what was, so what a
temperature would make of them cannot be said exactly, and is not shown: a recalibration has its calibration error from
the rows, and its promises.
"""

from __future__ import annotations

import anywidget
import numpy as np
import pandas as pd
import traitlets

from rmlab.recipe import require
from rmlab.show import widgets
from rmlab.show.style import look_of

KEYS = ["ensemble", "method", "k", "aggregator"]
RATES = ("promised", "delivered", "gap")
NEEDED = {
    "promised": [
        *KEYS,
        "recalibration",
        "n",
        "units",
        *(f"{q}{end}" for q in RATES for end in ("", "_low", "_high")),
    ],
    "reliability": [*KEYS[::3], "confidence", "agreement", "low", "high", "pairs"],
    "calibration": [*KEYS[::3], "recalibration", "ece", "ece_low", "ece_high", "temperature"],
}
RECALIBRATIONS = ("none", "temperature", "isotonic")


class Promised(anywidget.AnyWidget):
    """Choose judges and a recalibration, drag n: is a stated probability kept, on random pairs and of a winner?

    Parameters
    ----------
    promised, reliability, calibration : a study's tables of these names. Of judges without rows in `reliability` the
        page says that it has no diagram; of a recalibration without rows in `promised`, that it has no promise
    ensemble, aggregator : of rows in `promised`; unless said the first, and its first
    recalibration : "none", "temperature" or "isotonic", as the rows have it
    n : of the rows; 256 or, where that is not there, the largest

    The last four are traits, synced both ways; of what the rows do not have the page takes the first or, of n, the
    nearest. `result` is what the page shows at n: promised, delivered and gap (rates from 0 to 1, None where the rows
    have no promise), ece, and bins_ece, `pooled_error` of the diagram, None without.

    Raises
    ------
    ValueError : a table without its columns or rows, rows that are there twice, a state that the rows do not have
    """

    _esm = widgets.script("promised")
    _css = widgets.style_sheet()
    meta = traitlets.Dict().tag(sync=True, to_json=widgets.escaped, from_json=widgets.unescaped)
    ensemble = traitlets.Unicode("").tag(sync=True)
    aggregator = traitlets.Unicode("").tag(sync=True)
    recalibration = traitlets.Unicode("none").tag(sync=True)
    n = traitlets.Int(256).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        promised: pd.DataFrame,
        reliability: pd.DataFrame,
        calibration: pd.DataFrame,
        ensemble: str | None = None,
        aggregator: str | None = None,
        recalibration: str = "none",
        n: int | None = None,
    ):
        meta = tables(promised, reliability, calibration)
        ensembles = {e["name"]: [r["name"] for r in e["rules"]] for e in meta["ensembles"]}
        ensemble = next(iter(ensembles)) if ensemble is None else ensemble
        require(ensemble in ensembles, "ensemble", ensemble, f"one of {', '.join(ensembles)}")
        known = ensembles[ensemble]
        aggregator = known[0] if aggregator is None else aggregator
        require(aggregator in known, "aggregator", aggregator, f"one of {', '.join(known)}")
        mends, ns = meta["recalibrations"], meta["ns"]
        require(recalibration in mends, "recalibration", recalibration, f"one of {', '.join(mends)}")
        n = (256 if 256 in ns else ns[-1]) if n is None else n
        require(n in ns, "n", n, f"one of {ns}, those of the rows")
        super().__init__(
            meta=widgets.carried(meta),
            ensemble=ensemble,
            aggregator=aggregator,
            recalibration=recalibration,
            n=n,
        )


def tables(promised: pd.DataFrame, reliability: pd.DataFrame, calibration: pd.DataFrame) -> dict:
    """What the page carries of a study's three tables, as JSON can hold it; errors as in `Promised`."""
    frames = {"promised": promised, "reliability": reliability, "calibration": calibration}
    for name, frame in frames.items():
        widgets.table_of(frame, NEEDED[name], name)
    widgets.once(promised, [*KEYS, "recalibration", "n"], "promised")
    widgets.once(reliability, [*KEYS[::3], "confidence"], "reliability")
    widgets.once(calibration, [*KEYS[::3], "recalibration"], "calibration")
    ns = sorted({int(n) for n in promised.n})
    names = set(promised.recalibration) | set(calibration.recalibration)
    require(
        names <= set(RECALIBRATIONS), "recalibration", sorted(names), f"some of {', '.join(RECALIBRATIONS)}"
    )
    ensembles: dict[str, dict] = {}
    for (name, method, k, rule), rows in promised.groupby(KEYS, sort=False):
        look = widgets.colour_and_dashes(look_of(name, method))
        about = {"name": name, "label": widgets.ensemble_label(name, method, k), "look": look, "rules": []}
        bins = reliability[(reliability.ensemble == name) & (reliability.aggregator == rule)]
        errors = calibration[(calibration.ensemble == name) & (calibration.aggregator == rule)]
        require(
            len(errors) > 0, "rows of calibration", f"none of {name} {rule}", "those of every row of promised"
        )
        entry = {"name": rule, "label": widgets.rule_label(rule), **_rates(rows, ns)}
        entry |= {"bins": _bins(bins) if len(bins) else None, "errors": _errors(errors)}
        ensembles.setdefault(name, about)["rules"].append(entry)
    kept = [name for name in RECALIBRATIONS if name in names]
    return {"ns": ns, "recalibrations": kept, "ensembles": list(ensembles.values())}


def pooled_error(bins: pd.DataFrame) -> float:
    """The mean over pairs of the distance between what their bin stated and what came true: the strip of a diagram.

    bins : columns confidence, agreement, pairs. All replicates pooled, so not the mean of the replicates' own errors.
    """
    return float(np.average((bins.confidence - bins.agreement).abs(), weights=bins.pairs))


def _rates(rows: pd.DataFrame, ns: list[int]) -> dict:
    """Promises and gaps by recalibration, and what is delivered, which is the same for all."""
    rates, about = {}, f"promised of {rows.ensemble.iloc[0]} {rows.aggregator.iloc[0]}"
    for name, part in rows.groupby("recalibration", sort=False):
        part = part.sort_values("n")
        require(list(part.n) == ns, f"n of {about} {name}", list(part.n), f"{ns}, each once")
        rates[name] = {q: widgets.banded(part, q, about) for q in RATES}
    delivered = [x.pop("delivered") for x in rates.values()]
    same = all(np.allclose(x["value"], delivered[0]["value"], atol=1e-4) for x in delivered)
    require(same, f"delivered, {about}", "another after recalibration", "the same: who wins does not change")
    return {"rates": rates, "delivered": delivered[0], "units": int(rows.units.iloc[0])}


def _bins(rows: pd.DataFrame) -> dict[str, list]:
    """The bins of one diagram, the least sure first."""
    rows = rows.sort_values("confidence")
    sure = {c: widgets.numbers(rows[c], f"{c} of reliability") for c in ("confidence", "agreement")}
    ends = {c: widgets.numbers(rows[c], f"{c} of reliability", missing=True) for c in ("low", "high")}
    return sure | ends | {"pairs": [int(m) for m in rows.pairs]}


def _errors(rows: pd.DataFrame) -> dict[str, dict]:
    """Calibration error and temperature by recalibration."""
    found = {}
    for name, part in rows.groupby("recalibration", sort=False):
        heat = {"value": widgets.numbers(part.temperature, "temperature of calibration")}
        found[name] = {"ece": widgets.banded(part, "ece", "calibration"), "temperature": heat}
    return found
