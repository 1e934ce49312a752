"""Commits and claims in force, in checkouts of a test's own."""

from __future__ import annotations

import subprocess

import pytest

from rmlab.study import checkout
from rmlab.study.checkout import claims_in_force, commit_of

CLAIM = '[[claim]]\nid = "{}"\nstudy = "{}"\ntext = "{}"\n'


def git(root, *words: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(root) -> str:
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "more")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path):
    """A checkout of one commit, with a claim about the study "s"."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "claims.toml").write_text(CLAIM.format("a", "s", "Better."))
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def test_a_commit_and_whether_tracked_files_differ(root):
    first = git(root, "rev-parse", "HEAD")
    (root / "untracked.txt").write_text("")
    assert commit_of(root) == first and len(first) == 40
    (root / "code.py").write_text("x = 2\n")
    assert commit_of(root) == f"{first}+changes"
    assert commit_of(root) != commit(root) == commit_of(root)


def test_where_there_is_no_checkout_or_no_git_nothing_is_known(root, tmp_path, monkeypatch):
    (root / "inside").mkdir()
    assert commit_of(root / "inside") is None  # a package in somebody else's checkout
    assert commit_of(root / "nowhere") is None
    for error in (FileNotFoundError("git"), subprocess.TimeoutExpired("git", 1), PermissionError("git")):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(checkout.subprocess, "run", fail)
        assert commit_of(root) is None
        assert claims_in_force("s", root)["commit"] is None and claims_in_force("s", root)["sha256"]


def test_claims_are_those_of_the_study_and_their_commit_is_the_files_last(root):
    first, file = commit_of(root), root / "data" / "claims.toml"
    about = claims_in_force("s", root)
    assert about["commit"] == first and len(about["sha256"]) == 64
    assert claims_in_force("t", root) is None
    (root / "code.py").write_text("x = 2\n")
    commit(root)
    assert claims_in_force("s", root) == about
    file.write_text("# words\n" + CLAIM.format("0", "t", "Worse.") + file.read_text())
    assert claims_in_force("s", root) == {**about, "commit": None}  # not as it was committed
    second = commit(root)
    assert claims_in_force("s", root) == {**about, "commit": second}  # others' claims are no matter
    file.write_text(file.read_text().replace("Better", "Far better"))
    assert claims_in_force("s", root)["sha256"] != about["sha256"]
    file.write_text(CLAIM.format("b", "s", "B.") + CLAIM.format("a", "s", "A."))
    two = claims_in_force("s", root)["sha256"]
    file.write_text(CLAIM.format("a", "s", "A.") + CLAIM.format("b", "s", "B."))
    assert claims_in_force("s", root)["sha256"] == two
    file.unlink()
    assert claims_in_force("s", root) is None


def test_an_installed_package_has_claims_and_no_commit(tmp_path):
    (tmp_path / "rmlab" / "data").mkdir(parents=True)
    (tmp_path / "rmlab" / "data" / "claims.toml").write_text(CLAIM.format("a", "s", "Better."))
    about = claims_in_force("s", tmp_path)
    assert about["commit"] is None and len(about["sha256"]) == 64
