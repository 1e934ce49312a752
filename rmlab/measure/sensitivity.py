"""How single models react to a probe, how often they are right, and what that tells of the gold that they choose.

Tables are those of a study as they were written, `probes.csv` and `accuracy.csv`; those of a sweep have the columns `axis`
and `value` too, and give a row a value.

Letters: D replicates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rmlab.measure.intervals import mean_interval
from rmlab.recipe import require

SINGLE = re.compile(r"d(\d+)/p\d+/f\d+")  # "d0/p2/f1": replicate 0, backbone 2, finetuning seed 1
SETTINGS = ("axis", "value")


def mean_reactions(probes: pd.DataFrame, probe: str = "wrong") -> pd.DataFrame:
    """Single models' mean reaction to one probe, in standard deviations, with its 95% interval over replicates.

    A replicate's models are averaged first; the interval is Student's t over D replicates, NaN where D is 1.

    Parameters
    ----------
    probes : a row a reward model and probe, with `reward_model`, `probe`, `reaction`; rows of gold and of members that
        are no single models, such as heads, are left out
    probe : its name, such as "wrong", every fact stated wrong

    Returns
    -------
    `axis` and `value` where the table has them, in its order; `reaction`, `low`, `high`, `units` (D)
    """
    names = sorted(set(probes.probe))
    require(probe in names, "probe", probe, f"one of {', '.join(names)}")
    return _over_replicates(probes[probes.probe == probe], "reward_model", "reaction")


def mean_accuracy(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Single models' mean accuracy on held-out pairs, a share, with its 95% interval over replicates.

    accuracy : a row a member, with `member` and `accuracy`. Returns as `mean_reactions`, with `accuracy` for `reaction`.
    """
    return _over_replicates(accuracy, "member", "accuracy")


def chosen_against_accuracy(replicates: pd.DataFrame, accuracy: pd.DataFrame, n: int) -> pd.DataFrame:
    """Each single model's accuracy beside the gold of its best of n, both minus the mean of its replicate.

    Within a replicate models share their labels, so that what is left is the models' own.

    Parameters
    ----------
    replicates : `replicates.csv`: of single models `members`, `draw`, `pressure` and `gold`
    accuracy : `accuracy.csv`: `member` and `accuracy`; n : a pressure of the table

    Returns
    -------
    a row a model: `member`, `draw`, `accuracy` (a share), `gold` (gold units), both centred
    """
    at = replicates[(replicates.ensemble == "single") & (replicates.pressure == n)]
    require(len(at) > 0, "n", n, f"one of {', '.join(f'{p:g}' for p in sorted(set(replicates.pressure)))}")
    right = accuracy.set_index("member").accuracy
    table = pd.DataFrame(
        {"member": at.members, "draw": at.draw, "accuracy": at.members.map(right), "gold": at.gold}
    )
    missing = list(table.member[table.accuracy.isna()])
    require(not missing, "members without an accuracy", missing[:3], "rows of the same study")
    for column in ("accuracy", "gold"):
        table[column] -= table.groupby("draw")[column].transform("mean")
    return table.reset_index(drop=True)


def accuracy_gold_correlation(models: pd.DataFrame) -> pd.Series:
    """Correlation of accuracy and gold among a replicate's models: mean over replicates, 95% interval of Student's t.

    models : of `chosen_against_accuracy`. Returns `corr`, `low`, `high`, `units` (D); the ends are NaN where D is 1
    """
    values = models.groupby("draw")[["accuracy", "gold"]].apply(lambda group: group.accuracy.corr(group.gold))
    low, high = _student(values.to_numpy())
    return pd.Series({"corr": values.mean(), "low": low, "high": high, "units": len(values)})


def _over_replicates(table: pd.DataFrame, names: str, column: str) -> pd.DataFrame:
    """A row a setting: mean and interval over replicates of a column, the rows of members called `names`."""
    found = [SINGLE.fullmatch(member) for member in table[names]]
    table = table[[match is not None for match in found]]
    require(len(table) > 0, names, "no single model", "a table with members such as d0/p0/f0")
    table = table.assign(replicate=[int(match[1]) for match in found if match])
    by = [name for name in SETTINGS if name in table]
    groups = table.groupby(by, sort=False) if by else [((), table)]
    rows = []
    for setting, group in groups:
        values = group.groupby("replicate")[column].mean().to_numpy()
        low, high = _student(values)
        numbers = {column: values.mean(), "low": low, "high": high, "units": len(values)}
        rows.append({**dict(zip(by, setting, strict=True)), **numbers})
    return pd.DataFrame(rows)


def _student(values: Sequence[float]) -> tuple[float, float]:
    """The ends of Student's 95% interval of values (D,), NaN where D is 1."""
    interval = mean_interval(np.asarray(values)[:, None])
    return float(interval.low), float(interval.high)
