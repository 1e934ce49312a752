"""Claims came first: those that shipped rows name are the ledger's, word for word, and older than the rows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rmlab.measure.claims import claims_digest

ROOT = Path(__file__).resolve().parent.parent
STUDIES = sorted(f.parent.name for f in (ROOT / "data").glob("*/provenance.json"))


def git(root: Path, *words: str) -> subprocess.CompletedProcess:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, capture_output=True, text=True)


def check_words(root: Path, study: str) -> dict:
    """The study's provenance; its claims must be those of the file as it stands."""
    about = json.loads((root / "data" / study / "provenance.json").read_text())
    if not about.get("claims"):
        pytest.skip("its rows name no claims")
    text = (root / "data" / "claims.toml").read_text("utf-8")
    assert about["claims"]["sha256"] == claims_digest(text, about["study"]), (
        "claims were changed after the rows"
    )
    return about


def check_order(root: Path, study: str) -> None:
    """The file had these very claims in a commit that the rows' commit goes back to."""
    about = check_words(root, study)
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no history")
    claims, rows = about["claims"]["commit"], (about["commit"] or "").removesuffix("+changes")
    assert claims and rows, "rows that ship are made from a checkout whose claims are committed"
    then = git(root, "show", f"{claims}:data/claims.toml")
    assert then.returncode == 0 and claims_digest(then.stdout, about["study"]) == about["claims"]["sha256"]
    assert git(root, "merge-base", "--is-ancestor", claims, rows).returncode == 0, (
        "claims are not older than rows"
    )


@pytest.mark.parametrize("study", STUDIES)
def test_the_claims_of_shipped_rows_are_those_of_the_ledger(study):
    check_words(ROOT, study)


@pytest.mark.parametrize("study", STUDIES)
def test_the_claims_of_shipped_rows_are_older_than_they(study):
    check_order(ROOT, study)


CLAIM = '[[claim]]\nid = "{}"\nstudy = "{}"\ntext = "{}"\n'


@pytest.fixture
def history(tmp_path):
    """A checkout: its claims' commit, a later one, and provenance of a study "s" that names whichever is said."""
    (tmp_path / "data" / "s").mkdir(parents=True)
    file = tmp_path / "data" / "claims.toml"
    git(tmp_path, "init", "-q")
    commits = []
    for text in (
        "# none yet\n",
        CLAIM.format("a", "s", "Better."),
        CLAIM.format("a", "s", "Better.") + "# more\n",
    ):
        file.write_text(text)
        git(tmp_path, "add", ".")
        assert git(tmp_path, "commit", "-q", "-m", "claims").returncode == 0
        commits.append(git(tmp_path, "rev-parse", "HEAD").stdout.strip())

    def write(claims: str | None, rows: str | None) -> Path:
        sha256 = claims_digest(CLAIM.format("a", "s", "Better."), "s")
        about = {"study": "s", "commit": rows, "claims": {"sha256": sha256, "commit": claims}}
        (tmp_path / "data" / "s" / "provenance.json").write_text(json.dumps(about))
        return tmp_path

    return commits, write


def test_claims_that_came_first_pass(history):
    (_, first, second), write = history
    check_order(write(first, second), "s")
    check_order(write(first, f"{first}+changes"), "s")
    root = write(first, second)
    file = root / "data" / "claims.toml"
    file.write_text(CLAIM.format("0", "t", "Of another study.") + file.read_text())
    check_order(root, "s")


@pytest.mark.parametrize("commits", [(2, 1), (0, 1), (None, 1), (1, None)])
def test_claims_that_came_later_do_not(history, commits):
    every, write = history
    root = write(*(None if i is None else every[i] for i in commits))
    check_words(root, "s")
    with pytest.raises(AssertionError):
        check_order(root, "s")


def test_claims_that_were_reworded_do_not(history):
    (_, first, second), write = history
    root = write(first, second)
    (root / "data" / "claims.toml").write_text(CLAIM.format("a", "s", "No worse."))
    with pytest.raises(AssertionError, match="changed after the rows"):
        check_words(root, "s")
