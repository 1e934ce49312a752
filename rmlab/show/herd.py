"""A widget: what the winner of n is overrated by, split into what all members believe and what is one member's own.

    from rmlab.show.herd import Herd
    from rmlab.show.rows import rows

    study = "best_of_n_sighted"
    Herd(rows("herding", study), rows("ceiling", study), method="finetune", k=5)

The page has the rows of `rmlab.measure.herding` and `rmlab.measure.ceiling`, whose docstrings say what they mean;
`herd.mjs` draws them. Errors are in standard deviations of members.
"""

from __future__ import annotations

import anywidget
import pandas as pd
import traitlets

from rmlab.recipe import require
from rmlab.reward.methods import METHODS
from rmlab.show import widgets
from rmlab.show.style import LOOKS, look_of

KEYS = ["ensemble", "method", "k", "aggregator"]
PARTS = ("own", "shared", "idiosyncratic", "shared_share")
KINDS = ("predicted", "measured", "ceiling")
NEEDED = {
    "herding": [*KEYS, "n", "units", *(f"{q}{end}" for q in PARTS for end in ("", "_low", "_high"))],
    "ceiling": ["ensemble", "n", "quantity", "kind", "value"],
}


class Herd(anywidget.AnyWidget):
    """Add members or change their kind, drag n: how much of the winner's error can more members remove?

    Parameters
    ----------
    herding : a study's table of this name
    ceiling : its table of that name, or None: then no line says what members without end would leave
    method, k : which members, as the rows have them; unless said the first method, and its largest number
    aggregator : by which they choose, "mean" or "min" as the rows have it
    n : of the rows; 256 or, where that is not there, the largest
    beside : a second study's `herding`, in a panel of its own beside the first
    beside_ceiling : its `ceiling`, or None
    names : what the judges of the two studies are called

    `method`, `k`, `aggregator` and `n` are traits, synced both ways. `result` is what the page shows at n, by name of
    the judges: own, shared and idiosyncratic (standard deviations of members), shared_share (0 to 1), and of the
    ceiling's rows predicted, measured and ceiling; None where the rows do not have it.

    Raises
    ------
    ValueError : a table without its columns or rows, rows that are there twice, a state that the rows do not have
    """

    _esm = widgets.script("herd")
    _css = widgets.style_sheet()
    meta = traitlets.Dict().tag(sync=True, to_json=widgets.escaped, from_json=widgets.unescaped)
    method = traitlets.Unicode("").tag(sync=True)
    k = traitlets.Int(5).tag(sync=True)
    aggregator = traitlets.Unicode("mean").tag(sync=True)
    n = traitlets.Int(256).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        herding: pd.DataFrame,
        ceiling: pd.DataFrame | None = None,
        method: str | None = None,
        k: int | None = None,
        aggregator: str = "mean",
        n: int | None = None,
        beside: pd.DataFrame | None = None,
        beside_ceiling: pd.DataFrame | None = None,
        names: tuple[str, str] = ("sighted", "blind"),
    ):
        studies = [(herding, ceiling)] + ([] if beside is None else [(beside, beside_ceiling)])
        require(
            beside is not None or beside_ceiling is None, "beside_ceiling", "a table", "None without `beside`"
        )
        require(len(set(names)) == 2, "names", names, "two names that differ")
        meta = tables(studies, list(names))
        sets, ns = meta["studies"][0]["sets"], meta["ns"]
        methods = [name for name, _ in meta["methods"]]
        method = methods[0] if method is None else method
        require(method in methods, "method", method, f"one of {', '.join(methods)}")
        sizes = sorted(e["k"] for e in sets if e["method"] == method)
        k = sizes[-1] if k is None else k
        require(k in sizes, "k", k, f"one of {sizes}, members of {method}")
        rules = next(list(e["rules"]) for e in sets if (e["method"], e["k"]) == (method, k))
        require(aggregator in rules, "aggregator", aggregator, f"one of {', '.join(rules)}")
        n = (256 if 256 in ns else ns[-1]) if n is None else n
        require(n in ns, "n", n, f"one of {ns}, those of the rows")
        super().__init__(meta=widgets.carried(meta), method=method, k=k, aggregator=aggregator, n=n)


def tables(studies: list[tuple[pd.DataFrame, pd.DataFrame | None]], names: list[str]) -> dict:
    """What the page carries of one or two studies' herding and ceiling, as JSON can hold it; errors as in `Herd`."""
    found = []
    for (herding, ceiling), name in zip(studies, names, strict=False):
        widgets.table_of(herding, NEEDED["herding"], "herding")
        widgets.once(herding, [*KEYS[1:], "n"], "herding")
        if ceiling is not None:
            widgets.table_of(ceiling, NEEDED["ceiling"], "ceiling")
        ns = sorted({int(n) for n in herding.n})
        found.append({"name": name, "sets": _sets(herding, ceiling, ns), "ns": ns})
    ns = found[0]["ns"]
    for study in found:
        require(study.pop("ns") == ns, f"n of {study['name']}", "others", f"{ns}, those of the first study")
    methods = {e["method"]: e["method_label"] for e in found[0]["sets"]}
    return {"ns": ns, "methods": [list(item) for item in methods.items()], "studies": found}


def _sets(herding: pd.DataFrame, ceiling: pd.DataFrame | None, ns: list[int]) -> list[dict]:
    """The ensembles of one study, each with its rows by aggregator and its ceiling."""
    sets = []
    for (name, method, k), group in herding.groupby(KEYS[:3], sort=False):
        rules = {}
        for rule, rows in group.groupby("aggregator", sort=False):
            rows = rows.sort_values("n")
            require(list(rows.n) == ns, f"n of herding of {name} {rule}", list(rows.n), f"{ns}, each once")
            parts = {q: widgets.banded(rows, q, f"herding of {name}") for q in PARTS[:3]}
            share = {"value": "shared_share", "low": "shared_share_low", "high": "shared_share_high"}
            parts["shared_share"] = {
                end: widgets.numbers(rows[c], c, missing=True) for end, c in share.items()
            }
            rules[rule] = parts | {"units": int(rows.units.iloc[0])}
        sets.append(
            {
                "method": method,
                "method_label": "a grid of seeds" if name.startswith("grid") else LOOKS[method].label,
                "origin": METHODS[method].origin,
                "k": int(k),
                "look": widgets.colour_and_dashes(look_of(name, method)),
                "rules": rules,
                "labels": {rule: widgets.rule_label(rule) for rule in rules},
                "ceiling": None if ceiling is None else _ceiling(ceiling, name, ns),
            }
        )
    return sets


def _ceiling(ceiling: pd.DataFrame, ensemble: str, ns: list[int]) -> dict[str, list[float]] | None:
    """The gap of one ensemble's mean by kind, along n; None where the table does not have it."""
    gap = ceiling[(ceiling.ensemble == ensemble) & (ceiling.quantity == "gap")]
    if gap.empty:
        return None
    kinds = {}
    for kind in KINDS:
        rows = gap[gap.kind == kind].sort_values("n")
        require(list(rows.n) == ns, f"n of ceiling of {ensemble} {kind}", list(rows.n), f"{ns}, each once")
        kinds[kind] = widgets.numbers(rows.value, f"{kind} of ceiling of {ensemble}")
    return kinds
