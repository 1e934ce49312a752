"""The tiny studies give the numbers of tests/reference, to 1e-5: what commit 994a5e7 gave, and where a later one moved some, LOG.md says which and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rmlab.study.members import trained_of
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS

REFERENCE = Path(__file__).parent / "reference"
NAMES = {
    "ensemble",
    "method",
    "k",
    "aggregator",
    "pessimism",
    "optimiser",
    "kl_coef",
    "step_multiplier",
    "pressure",
    "replicate",
    "draw",
}
NAMES |= {"members", "member", "reward_model", "probe", "judged_by", "relation", "a", "b", "one", "other"}


@pytest.mark.parametrize("name", ["tiny", "tiny_constructions", "tiny_ppo"])
def test_rows(name, tiny_studies):
    for file in sorted((REFERENCE / name).glob("*.csv")):
        then, now = pd.read_csv(file), pd.read_csv(tiny_studies[name] / file.name)
        keys = [c for c in then.columns if c in NAMES and c in now.columns and c != "pressure"]
        if "pressure" not in then:
            now = now.groupby(keys, dropna=False, sort=False).last().reset_index()  # a run's end
        place = [*keys, "point"]
        for table in (
            then,
            now,
        ):  # a row's place on its curve: its pressure, or for a tilted policy its number
            number = table.groupby(keys, dropna=False).cumcount()
            tilted = table.get("optimiser", pd.Series("", table.index)) == "tilt"
            table["point"] = number.where(tilted, table["pressure"]) if "pressure" in then else 0
        both = then.merge(now, on=place, how="left", suffixes=("", "_now"), indicator=True)
        assert (both._merge == "both").all(), f"{file}: rows are missing"
        for column in then.columns.difference([*place, "kl_name"]):
            if f"{column}_now" in both:
                _equal(both[f"{column}_now"], both[column], f"{name}/{file.name}: {column}")


@pytest.mark.parametrize("name", ["tiny", "tiny_constructions"])
def test_member_scores(name, tiny_studies):
    then = np.load(REFERENCE / name / "scores.npz")
    recipe, artifacts = PRESETS[name](), tiny_studies["artifacts"]
    scored = plan(recipe)["costs"].inputs["scores"]
    now = {
        s.id: np.load(artifacts.path(t) / "scores.npy")
        for s, t in zip(trained_of(recipe), scored, strict=True)
    }
    assert set(now) == set(then.files)
    for label in then.files:
        np.testing.assert_allclose(now[label], then[label], atol=1e-5, err_msg=label)


def _equal(now: pd.Series, then: pd.Series, where: str) -> None:
    if then.dtype.kind in "fiu" and now.dtype.kind in "fiu":
        known = then.notna()  # a column that the reference has for a part of its rows
        np.testing.assert_allclose(now[known], then[known], rtol=1e-5, atol=1.1e-5, err_msg=where)
    else:
        assert (now.astype(str) == then.astype(str)).all(), where
