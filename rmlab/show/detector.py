"""A widget: a run goes on step by step, its gold hidden; stop it, and learn what that lost, beside what each rule lost.

    from rmlab.show.detector import Detector
    from rmlab.show.rows import rows

    study = "best_of_n_sighted"
    Detector(rows("replicates", study), rows("alarms", study))
    Detector(rows("replicates", "ppo"), rows("alarms", "ppo"), "finetune5", "min", kl_coef=0.05)

The page has the runs and the points at which rules stopped them; `detector.mjs` computes what a stop loses, as `losses`
does, and a test holds its numbers equal.

Letters: U runs, L points of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import anywidget
import numpy as np
import pandas as pd
import traitlets

from rmlab.measure.budget import budgets
from rmlab.measure.detectors import RULES
from rmlab.optimise.best_of_n import kl_bound
from rmlab.recipe import require
from rmlab.show import widgets
from rmlab.show.figures_alarms import WATCHERS
from rmlab.show.style import LOOKS

ROUND = 5  # runs that are played before the score is final
CLOSE = 2e-3  # gold: rows have five digits
SERIES = {  # what a run shows without gold: column -> what it is, the longest form first
    "proxy": ("score that is optimised (standard deviations)", "score that is optimised"),
    "judge": ("score by a second judge (standard deviations)", "score by a second judge"),
    "disagreement": ("members' spread over an answer (standard deviations)", "members' spread"),
    "kl": ("KL from the start (nats an answer, k1)", "KL (nats, k1)"),
    "eval_length": ("length of an answer (tokens)", "length (tokens)"),
    "entropy": ("entropy (nats a token)",),
    "eval_ended": ("share of answers that end",),
}
KEYS = ["ensemble", "aggregator", "replicate"]
NEEDED = {
    "runs": [*KEYS, "optimiser", "pressure", "proxy", "gold"],
    "alarms": [*KEYS, "where", "number", "peak", "end", "fall"],
}


class Detector(anywidget.AnyWidget):
    """Watch runs without gold and stop them: what you lose of gold, and what rules and a budget would have lost.

    Parameters
    ----------
    runs, alarms : a study's tables `replicates` and `alarms`. Of best-of-n, points beyond the last that rules watched are
        left out. Of `runs` the columns that `SERIES` names are shown, those that the table has and that move
    ensemble, aggregator : of rows in both
    kl_coef, step_multiplier : of PPO's runs; None: best-of-n
    rules : columns of `alarms`; unless said those that stopped one of these runs
    seed : of the choice of five runs and their order

    Traits, synced both ways, are the order of the runs that are played, the stops of those played so far, the last point seen
    (`at`) and whether the present run is `over`, so that its gold is shown. `result` has the number `played`, the gold `lost`
    in the present run below its best stop, and the means over the runs played of `you` and of the `rules`, by name; None
    before there is one.

    Raises
    ------
    ValueError : a table without its columns or these rows, runs of other points than each other, alarms of other runs
    """

    _esm = widgets.script("detector")
    _css = widgets.style_sheet()
    meta = traitlets.Dict().tag(sync=True, to_json=widgets.escaped, from_json=widgets.unescaped)
    order = traitlets.List(traitlets.Int()).tag(sync=True)
    stops = traitlets.List(traitlets.Int()).tag(sync=True)
    at = traitlets.Int(0).tag(sync=True)
    over = traitlets.Bool(False).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        runs: pd.DataFrame,
        alarms: pd.DataFrame,
        ensemble: str = "single",
        aggregator: str = "mean",
        kl_coef: float | None = None,
        step_multiplier: int = 1,
        rules: Sequence[str] | None = None,
        seed: int = 0,
    ):
        where = {"ensemble": ensemble, "aggregator": aggregator}
        if kl_coef is not None:
            where |= {"kl_coef": kl_coef, "step_multiplier": step_multiplier}
        meta = tables(runs, alarms, where, rules)
        U = len(meta["runs"])
        order = np.random.default_rng(seed).permutation(U)[:ROUND].tolist()
        super().__init__(meta=widgets.carried(meta), order=order)


def losses(gold: Sequence[float], stops: Sequence[float | None]) -> list[float]:
    """Gold that each stop of a run loses to the best one: gold (L,); a stop is a point, None goes on to the end."""
    gold = np.asarray(gold, np.float64)
    return [float(gold.max() - gold[-1 if at is None else at]) for at in stops]


def tables(
    runs: pd.DataFrame, alarms: pd.DataFrame, where: dict[str, object], rules: Sequence[str] | None = None
) -> dict:
    """What the page carries of one setting's runs, as JSON can hold it; errors as in `Detector`.

    where : ensemble and aggregator, and for PPO kl_coef and step_multiplier
    """
    kind = "ppo" if "kl_coef" in where else "best_of_n"
    widgets.table_of(runs, [*NEEDED["runs"], *where, *(["kl"] if kind == "ppo" else [])], "runs")
    widgets.table_of(alarms, [*NEEDED["alarms"], *where], "alarms")
    alarms = _these(alarms, {**where, "where": kind}, "alarms")
    paper = {"pessimism": "paper"} if "pessimism" in runs else {}
    runs = _these(runs, {**where, "optimiser": kind, **paper}, "runs")
    known = [r for r in RULES if r in alarms and alarms[r].notna().any()]
    for rule in rules or ():
        require(rule in RULES and rule in alarms, "rule", rule, f"one of {', '.join(known)}")
    rules = list(known if rules is None else rules)
    alarms = alarms.sort_values(["replicate", "number"])
    found = [_run(runs, row, kind) for _, row in alarms.iterrows()]
    points = found[0].pressure.tolist()
    for run in found:
        same = run.pressure.tolist() == points
        require(same, f"points of replicate {run.replicate.iloc[0]}", run.pressure.tolist(), f"{points}")
    gold = np.stack([run.gold.to_numpy(np.float64) for run in found])
    replicates = np.array([run.replicate.iloc[0] for run in found])
    budget = budgets(gold, replicates).tolist() if len(set(replicates)) > 1 else None
    stops = {rule: [None if np.isnan(x) else points.index(x) for x in alarms[rule]] for rule in rules}
    names = [*(["budget"] if budget else []), *rules, "never"]
    stops |= {"budget": budget, "never": [None] * len(found)}
    series = _series(found, kind)
    return {
        "kind": kind,
        "points": [float(x) for x in points],
        "kl": None if kind == "ppo" else kl_bound(np.array(points)).tolist(),
        "series": series,
        "rules": [[name, WATCHERS[name]] for name in names],
        "round": ROUND,
        "you": LOOKS["you"].color,
        "runs": [
            {
                "name": f"replicate {r}",
                "gold": widgets.numbers(g, "gold of runs"),
                "seen": {s["name"]: widgets.numbers(run[s["name"]], s["name"]) for s in series},
                "stops": {name: stops[name][i] for name in names},
            }
            for i, (run, g, r) in enumerate(zip(found, gold, replicates.tolist(), strict=True))
        ],
    }


def _these(frame: pd.DataFrame, where: dict[str, object], name: str) -> pd.DataFrame:
    """The rows of one setting, at least one."""
    kept = np.logical_and.reduce([frame[column] == value for column, value in where.items()])
    require(bool(kept.any()), f"rows of {name}", where, "keys of some of its rows")
    return frame[kept]


def _run(runs: pd.DataFrame, row: pd.Series, kind: str) -> pd.DataFrame:
    """The points of the run that a row of alarms is about, checked against what that row says of it."""
    own = runs[runs.replicate == row.replicate]
    about = f"runs of replicate {row.replicate}"
    require(len(own) > 0, about, "none", "those of every row of alarms")
    if "members" in own:
        names = list(dict.fromkeys(own.members))
        require(row.number < len(names), about, len(names), f"at least {row.number + 1}, as in alarms")
        own = own[own.members == names[int(row.number)]]
    own = own[own.pressure <= row.end].sort_values("pressure")
    widgets.once(own, ["pressure"], about)
    gold = own.set_index("pressure").gold
    ends = {row.peak, row.end} <= set(gold.index)
    require(ends, f"points of {about}", own.pressure.tolist(), f"those with {row.peak} and {row.end}")
    apart = max(abs(gold[row.peak] - gold[row.end] - row.fall), gold.max() - gold[row.peak])
    require(apart < CLOSE, f"gold of {about}", f"off by {apart:.3g}", "the runs that alarms are of")
    return own


def _series(found: list[pd.DataFrame], kind: str) -> list[dict]:
    """What the runs show, each with the range of all runs: a run's own would say what is to come."""
    kept = []
    for name, forms in SERIES.items():
        if name not in found[0] or (name == "kl" and kind != "ppo"):
            continue
        values = np.stack([run[name].to_numpy(np.float64) for run in found])
        if not np.isnan(values).any() and np.ptp(values) > 1e-9:
            edge = 0.05 * np.ptp(values)
            span = [float(values.min() - edge), float(values.max() + edge)]
            kept.append({"name": name, "forms": list(forms), "span": span})
    return kept
