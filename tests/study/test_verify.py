"""Shipped rows are this code's, or are said to be older."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from rmlab.study import verify as module
from rmlab.study.executor import all_tasks
from rmlab.study.presets import PRESETS, SHIPPED
from rmlab.study.verify import verify_study

DATA = Path(__file__).resolve().parents[2] / "data"


def test_a_cell_of_a_study_is_made_again_and_holds(tiny_studies, tmp_path):
    verdict = verify_study(tiny_studies["tiny"], tmp_path)
    assert not verdict.differs and "d0/p0/f0" in verdict.text and verdict.text.endswith("holds")


def test_a_changed_row_is_found_out(tiny_studies, tmp_path):
    folder = shutil.copytree(tiny_studies["tiny"], tmp_path / "mine")
    table = folder / "accuracy.csv"
    text = table.read_text()
    row = next(x for x in text.splitlines() if "d0/p0/f0" in x)
    parts = row.split(",")
    parts[8] = str(float(parts[8]) + 0.1)
    table.write_text(text.replace(row, ",".join(parts)))
    verdict = verify_study(folder, tiny_studies["artifacts"].root)
    assert verdict.differs and "DIFFERS" in verdict.text


def test_rows_of_older_code_are_said_to_be(tiny_studies, tmp_path):
    folder = shutil.copytree(tiny_studies["tiny"], tmp_path / "mine")
    about = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(
        json.dumps({**about, "tables": {**about["tables"], "accuracy": "0" * 20}})
    )
    assert "made by older code" in verify_study(folder, tiny_studies["artifacts"].root).text
    (folder / "provenance.json").write_text(json.dumps({**about, "numbers_of": "994a5e7"}))
    assert "made by older code (994a5e7)" in verify_study(folder, tmp_path / "none").text


@pytest.mark.parametrize("name", ["best_of_n", "best_of_n_sighted", "sweeps", "ppo"])
def test_a_cell_of_a_large_study_is_a_model_and_what_it_stands_on(name, tmp_path, monkeypatch):
    """Two pretrainings, the policy's tuning and one model: two minutes, whatever the study takes."""
    study, ran = PRESETS[name](), []

    def note(tasks, store, workers, quiet):
        ran.extend(all_tasks(tasks))
        raise InterruptedError

    monkeypatch.setattr(module, "execute", note)
    about = {"study": name, "recipe": study.id, "tables": {"accuracy": ["0"] if name == "sweeps" else "0"}}
    (tmp_path / "provenance.json").write_text(json.dumps(about))
    with pytest.raises(InterruptedError):
        verify_study(tmp_path, tmp_path / "artifacts")
    stages = Counter(task.stage.__name__ for task in ran)
    pairs = {"draw_prompts": 2, "sample_answers": 2, "label": 2}  # of training and held out
    assert stages == {"pretrain": 2, "tune": 1, **pairs, "train_member": 1}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """What the shipped studies' cells have in common is made once: three pretrainings, a tuning, a few models."""
    return tmp_path_factory.mktemp("verify")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_study_is_older_code_or_holds(name, artifacts):
    assert json.loads((DATA / name / "provenance.json").read_text())["study"] == name
    verdict = verify_study(DATA / name, artifacts)
    assert not verdict.differs, verdict.text


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"provenance\.json"):
        verify_study(tmp_path, tmp_path)
