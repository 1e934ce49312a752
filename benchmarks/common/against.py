"""One script on two trees, in turn: what changes between them did to our side's numbers.

A process of its own measures each tree, with the tree's own script and package, so that names may differ. What a result
says of our side is compared, new over old; so is the alternative's, and the ratio that is claimed. Where the alternative
is somebody else's code it is the same in both trees, and shows how far the machine alone moves a number.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

ROUNDS = 7  # of both trees, each a process with one round inside
PARTS = ("benchmarks", "rmlab")  # of a tree: what a script needs

Results = dict[str, dict]  # of one process: claim name -> its JSON


def compare(script: str, commit: str, root: Path, rounds: int = ROUNDS, quick: bool = False) -> None:
    """Run a script on a commit and on the tree at `root` in turn, and print new over old for each of its claims."""
    with tempfile.TemporaryDirectory(prefix="rmlab-against-") as scratch:
        old, new = Path(scratch) / "old", Path(scratch) / "new"
        copy_commit(root, commit, old)
        copy_tree(root, new)
        pairs = []
        for r in range(rounds):
            order = (old, new) if r % 2 == 0 else (new, old)
            results = {tree: measure(tree, script, quick) for tree in order}
            pairs.append((results[old], results[new]))
            print(f"# round {r + 1} of {rounds}", file=sys.stderr, flush=True)
    print(f"# {script}: this tree over {commit}, median (lowest-highest) of {rounds} rounds")
    print("\n".join(ratios(pairs)), flush=True)


def copy_commit(root: Path, commit: str, tree: Path) -> None:
    """The parts of a commit of the repository at `root`, into the new folder `tree`."""
    done = subprocess.run(["git", "archive", commit, *PARTS], cwd=root, capture_output=True)
    if done.returncode:
        raise SystemExit(f"--against {commit}: {done.stderr.decode().strip()}; name a commit with {PARTS}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tree, filter="data")
    prepare(root, tree)


def copy_tree(root: Path, tree: Path) -> None:
    """The parts of the tree at `root` as they are now, into the new folder `tree`."""
    for part in PARTS:
        shutil.copytree(root / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    prepare(root, tree)


def prepare(root: Path, tree: Path) -> None:
    """Remove a copy's results; lend it what scripts took from the package index."""
    shutil.rmtree(tree / "benchmarks" / "results", ignore_errors=True)
    built = tree / "_build" / "benchmarks"
    built.mkdir(parents=True)
    for package in (root / "_build" / "benchmarks").glob("trl-*"):
        (built / package.name).symlink_to(package)


def measure(tree: Path, script: str, quick: bool) -> Results:
    """Run a tree's script, importing the tree's package; what it reported."""
    path = tree / "benchmarks" / script
    if not path.is_file():
        raise SystemExit(f"{script} is not in both trees: nothing to compare")
    folders = filter(None, [str(tree), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, str(path), "--rounds", "1", *["--quick"][:quick]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    folder = tree / ("_build/benchmarks" if quick else "benchmarks/results")
    files = sorted(folder.glob("*.json"))
    if done.returncode or not files:
        last = (done.stderr or done.stdout)[-2000:]
        status = f"{script} on the {tree.name} tree: exit status {done.returncode}, {len(files)} results"
        raise SystemExit(f"{status}\n{last}")
    results = [json.loads(file.read_text("utf-8")) for file in files]
    for file in files:
        file.unlink()
    return {result["name"]: result for result in results}


def ratios(pairs: list[tuple[Results, Results]]) -> list[str]:
    """A line a claim that both trees make: new over old, from (old, new) a round."""
    lines = []
    for name in sorted(set.intersection(*(set(results) for pair in pairs for results in pair))):
        rounds = [[numbers(results[name]) for results in pair] for pair in pairs]
        ours, alternative, claim = ([new[i] / old[i] for old, new in rounds] for i in range(3))
        unit = pairs[0][1][name]["ratio_of"]["unit"]
        parts = f"ours {_spread(ours)} in {unit}", f"alternative {_spread(alternative)}"
        lines.append(f"{name}: {'; '.join(parts)}; claim {_spread(claim)}")
    return lines


def numbers(result: dict) -> tuple[float, float, float]:
    """What ours took, what the alternative took, and the claim's ratio; in a cost ours stands above the line, else under it."""
    over, under = (result["ratio_of"][side] for side in ("over", "under"))
    sides = (over, under) if result["goal"].startswith("<=") else (under, over)
    return *sides, result["ratio"]


def _spread(values: list[float]) -> str:
    """Median and extremes."""
    return f"{median(values):.3f} ({min(values):.3f}-{max(values):.3f})"
