"""What the explorer shows of a study beside its pool: mean curves with their intervals, small enough for a page.

A pool holds one replicate's answers to a few prompts; the rows of `curves` are means over a study's replicates and all
of its prompts. Of these a page carries those that its pool's ensembles stand for, as 16-bit numbers, and
`explorer_study.mjs` reads them: a test holds its numbers equal to those of `StudyCurves.at`.

Letters: R rows, L values of n.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rmlab.measure.ensembles import ORACLE, SINGLE
from rmlab.optimise.best_of_n import kl_bound
from rmlab.optimise.compact import CompactPool
from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS

QUANTITIES = ("gold", "gold_low", "gold_high", "proxy")
NEEDED = ("ensemble", "aggregator", "pessimism", "optimiser", "strength", "pressure", "units", *QUANTITIES)
OF_SINGLES = ("finetune", "pretrain")  # methods whose members are single models
HIGHEST = np.iinfo(np.int16).max


@dataclass(frozen=True, eq=False)
class StudyCurves:
    """A study's mean best-of-n curves of the ensembles in a pool.

    keys : R of (the ensemble's name in the pool, or "single" or "oracle"; aggregator; strength or None; replicates)
    ns : (L,) rising; values : (R, 4, L) int16, `QUANTITIES` in units of `steps`: that of gold, that of the proxy
    singles : the pool's columns that are single models; over : "replicates", or of older tables "instances"
    """

    keys: list[tuple[str, str, float | None, int]]
    ns: list[int]
    values: np.ndarray
    steps: tuple[float, float]
    singles: list[int]
    over: str

    def packed(self) -> tuple[dict, bytes]:
        """What a page needs: (what its meta says of the rows, the values as little-endian bytes)."""
        about = {"rows": [list(key) for key in self.keys], "ns": self.ns, "steps": list(self.steps)}
        return about | {"singles": self.singles, "over": self.over}, self.values.astype("<i2").tobytes()

    def nbytes_in_page(self) -> int:
        """Bytes of the values as base64, and of what the page's meta says of them."""
        about, data = self.packed()
        return -(-len(data) // 3) * 4 + len(json.dumps(about))

    def at(self, ensemble: str, aggregator: str, n: int) -> dict[str, float] | None:
        """`QUANTITIES` as the page shows them at n; None where there is no such row, or n is beyond its end.

        Between two n of the rows it is the straight line over the KL bound.
        """
        found = [r for r, key in enumerate(self.keys) if key[:2] == (ensemble, aggregator)]
        if not found or not self.ns[0] <= n <= self.ns[-1]:
            return None
        scale = [self.steps[name == "proxy"] for name in QUANTITIES]
        lines = self.values[found[0]] * np.array(scale)[:, None]
        at, known = float(kl_bound(n)), kl_bound(np.array(self.ns))
        return {q: float(np.interp(at, known, line)) for q, line in zip(QUANTITIES, lines, strict=True)}


def study_curves(pool: CompactPool, curves: pd.DataFrame) -> StudyCurves:
    """The rows of a table `curves` that a pool's ensembles stand for, best-of-n at their papers' strengths.

    An ensemble's rows are those of its name, or of its name and number of members ("heads" of five is "heads5"); of a
    model by itself also those that its column is named after ("average5"), or, where it is a single model, of "single".
    What the table does not have is left out: the page says so where it is chosen.

    Raises
    ------
    ValueError : a pool without gold; a table without the columns or the rows that are needed, with two rows for one
        point, or whose curves do not have the same n
    """
    require(pool.gold is not None, "gold of the pool", None, "a pool with gold, or no curves")
    lacking = [name for name in NEEDED if name not in curves]
    require(not lacking, "columns that curves lack", lacking, "the table `curves` of a study")
    fits = (curves.optimiser == "best_of_n") & (curves.pessimism == "paper") & (curves.pressure <= pool.N)
    groups = {key: rows for key, rows in curves[fits].groupby(["ensemble", "aggregator"], sort=False)}
    singles = _singles(pool)
    named = {SINGLE: SINGLE} | {e["name"]: _row_name(e, pool, singles, groups) for e in pool.ensembles}
    chosen = [(name, rule, (row, rule)) for name, row in named.items() for rule in AGGREGATORS]
    chosen = [x for x in [*chosen, (ORACLE, "gold", (ORACLE, "mean"))] if x[2] in groups]
    of_pool = sum(name != ORACLE for name, _, _ in chosen)
    mend = "a study's `curves` with best-of-n rows of the pool's ensembles"
    require(of_pool > 0, "rows of the pool's ensembles", of_pool, mend)
    table = {row: groups[row].sort_values("pressure") for _, _, row in chosen}
    ns = sorted({int(n) for lines in table.values() for n in lines.pressure})
    for row, lines in table.items():
        require(list(lines.pressure) == ns, f"n of {' '.join(row)}", list(lines.pressure), f"{ns}, each once")
    values = np.stack([table[row][list(QUANTITIES)].to_numpy(np.float64).T for _, _, row in chosen])
    require(np.isfinite(values).all(), "rows of curves", "not finite", "numbers with their intervals")
    steps = tuple(float(np.abs(part).max()) / HIGHEST or 1.0 for part in (values[:, :3], values[:, 3]))
    values[:, :3] /= steps[0]
    values[:, 3] /= steps[1]
    keys = [
        (name, rule, _strength(rule, table[row]), int(table[row].units.iloc[0])) for name, rule, row in chosen
    ]
    over = "replicates" if "covers" in curves else "instances"
    return StudyCurves(keys, ns, values.round().astype(np.int16), steps, singles, over)


def _singles(pool: CompactPool) -> list[int]:
    """The columns that are single models: of seeds, or of an ensemble that the pool itself calls single."""
    of_singles = [e for e in pool.ensembles if e["name"].rstrip("0123456789") in (*OF_SINGLES, SINGLE)]
    return sorted({column for e in of_singles for column in e["members"]})


def _row_name(e: dict, pool: CompactPool, singles: list[int], groups: dict) -> str | None:
    """The name that an ensemble of the pool has in the table, or None."""
    members = e["members"]
    names = [e["name"], f"{e['name']}{len(members)}"]
    if len(members) == 1:
        names += [pool.columns[members[0]]] + [SINGLE] * (members[0] in singles)
    known = {ensemble for ensemble, _ in groups}
    return next((name for name in names if name in known), None)


def _strength(aggregator: str, rows: pd.DataFrame) -> float | None:
    """The strength that a reader must choose for these rows; None where the aggregator has none."""
    if aggregator not in AGGREGATORS or AGGREGATORS[aggregator].strength is None:
        return None
    strengths = sorted(set(rows.strength))
    one = len(strengths) == 1 and np.isfinite(strengths[0])
    require(one, f"strength of {aggregator} in curves", strengths, "one number an ensemble")
    return float(strengths[0])
