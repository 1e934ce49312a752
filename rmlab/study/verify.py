"""Are shipped rows this code's? One small cell of a study is made again and compared with its row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.store import Store
from rmlab.study.executor import execute
from rmlab.study.members import trained_of
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS
from rmlab.study.sweep import parts_of

TOLERANCE = 1e-4  # rows are printed with five digits


@dataclass(frozen=True)
class Verdict:
    """What came of one study: text for a person, and whether the cell is another number."""

    text: str
    differs: bool


def verify_study(folder: str | Path, artifacts: str | Path) -> Verdict:
    """Train the study's first single model again and compare its held-out accuracy with the row in `accuracy.csv`.

    Of a sweep it is the first recipe's.

    Rows of older code, of another recipe or of other versions are said to be so, and the cell is not made.

    Raises
    ------
    ValueError : the folder holds no study
    """
    folder = Path(folder)
    if not (folder / "provenance.json").is_file():
        raise ValueError(
            f"folder = {str(folder)!r}: give one that `rmlab study` wrote, with a provenance.json"
        )
    about = json.loads((folder / "provenance.json").read_text())
    name, older = about["study"], about.get("numbers_of")
    if older:
        return Verdict(
            f"{name}: made by older code ({older}); run `rmlab study {name}` for rows of today's", False
        )
    study = PRESETS[name]() if name in PRESETS else None
    if study is None or study.id != about["recipe"]:
        return Verdict(
            f"{name}: made from a recipe that no preset gives ({about['recipe']}); nothing to compare", False
        )
    labels, recipe = parts_of(study)[0]
    last = plan(recipe)["accuracy"]
    spec, task = next(
        (s, t)
        for s, t in zip(trained_of(recipe), last.inputs["members"], strict=True)
        if s.method == "single"
    )
    then_key = about["tables"]["accuracy"]
    same_code = last.key == (then_key[0] if labels else then_key)
    note = "" if same_code else " (made by older code or with other versions)"
    store = Store(artifacts)
    execute([task], store, workers=1, quiet=True)
    heldout = np.load(store.path(task) / "heldout.npy")
    now = float((heldout[:, 0, 0] > heldout[:, 1, 0]).mean())
    table = pd.read_csv(folder / "accuracy.csv", dtype=dict.fromkeys(labels, str))
    for column, value in labels.items():
        table = table[table[column] == str(value)]
    table = table.set_index("member")
    then = float(table.accuracy[spec.id])
    same = abs(now - then) <= TOLERANCE
    verdict = "holds" if same else "DIFFERS"
    return Verdict(
        f"{name}: accuracy of {spec.id} {then:.4f} in the rows, {now:.4f} now: {verdict}{note}", not same
    )
