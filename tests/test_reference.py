"""The tiny studies give the numbers that commit 994a5e7 gave, to 1e-5; where a later one moved some, LOG.md says which and why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rmlab.recipe import PRESETS
from rmlab.study import constructions
from rmlab.study import grid as study
from rmlab.study import ppo as pressure

REFERENCE = Path(__file__).parent / "reference"
RUNS = {"tiny": (study.run, "results"), "tiny_constructions": (constructions.run, "constructions"), "tiny_ppo": (pressure.run, "ppo")}  # fmt: skip


@pytest.fixture(scope="module", params=RUNS)
def made(request, tmp_path_factory):
    root, (run, folder) = tmp_path_factory.mktemp(request.param), RUNS[request.param]
    out = run(PRESETS[request.param](), root / "out", root / "artifacts", workers=2, quiet=True)
    return request.param, out / folder, root / "artifacts"


def test_rows(made):
    name, out, _ = made
    for file in sorted((REFERENCE / name).glob("*.csv")):
        then, now = pd.read_csv(file), pd.read_csv(out / file.name)
        then, now = (x.drop(columns=["recipe", "study"], errors="ignore") for x in (then, now))
        pd.testing.assert_frame_equal(now, then, rtol=1e-5, atol=1e-5, obj=f"{name}/{file.name}")


def test_member_scores(made):
    name, _, artifacts = made
    if name == "tiny_ppo":
        pytest.skip("its members are those of tiny_constructions")
    found = {}
    for folder in artifacts.glob("*/scores.npz"):
        card = folder.parent / ("model.json" if name == "tiny" else "atom.json")
        found[_label(json.loads(card.read_text()))] = np.load(folder)["pool"]
    then = np.load(REFERENCE / name / "scores.npz")
    assert set(found) == set(then.files)
    for label in then.files:
        np.testing.assert_allclose(found[label], then[label], atol=1e-5, err_msg=label)


def _label(card: dict) -> str:
    if "what" not in card:
        return f"d{card['draw']}-p{card['backbone']}-f{card['finetune']}-k{card['heads']}"
    one = card["what"].get("single")
    return f"s{card['replicate']}-" + (f"single-p{one['backbone']}-f{one['finetune']}" if one else card["what"]["kind"])  # fmt: skip
