"""Which code and which claims were in force when a study ran: commits of the checkout, and a hash of the study's claims."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rmlab.measure.claims import claims_digest

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, where the package lies in one
CLAIMS = ("data/claims.toml", "rmlab/data/claims.toml")  # in a checkout; in an installed package


def commit_of(root: str | Path | None = None) -> str | None:
    """The commit of a checkout, "+changes" behind it if tracked files differ; None where it is none or git cannot say.

    root : the checkout's top; that of the package unless said
    """
    root = root or ROOT
    head = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if head is None or changes is None else head + ("+changes" if changes else "")


def claims_in_force(study: str, root: str | Path | None = None) -> dict[str, str | None] | None:
    """The claims about a study: their `claims_digest`, and the commit in which their file was last changed.

    root : the checkout's top; that of the package unless said

    Returns
    -------
    {"sha256", "commit"}; None where there is no file or no claim about the study. The commit is None where it is unknown,
    as outside a checkout, or where the file is not as it was committed.
    """
    root = root or ROOT
    name = next((name for name in CLAIMS if (Path(root) / name).is_file()), None)
    sha256 = claims_digest((Path(root) / name).read_text("utf-8"), study) if name else None
    if sha256 is None:
        return None
    changed = _git(root, "status", "--porcelain", "--", name)
    commit = _git(root, "log", "-1", "--format=%H", "--", name) if changed == "" else None
    return {"sha256": sha256, "commit": commit or None}


def _git(root: str | Path, *words: str) -> str | None:
    """What git prints, None for whatever goes wrong: that must not stop a study. `root` is the top of its checkout."""
    root = Path(root).resolve()
    lines = []
    for command in (["rev-parse", "--show-toplevel"], words):
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            return None
        lines.append(done.stdout.strip())
    return lines[1] if Path(lines[0]).resolve() == root else None
