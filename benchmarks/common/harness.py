"""Measuring two ways of doing one thing in one run: interleaved rounds, medians, spread, a JSON a claim.

A benchmark calls `start`, times its variants with `interleave`, or measures them in processes of their own with `child`
and `memory`, and ends with `report`, once a claim.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from common import against

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
QUICK = ROOT / "_build" / "benchmarks"  # quick runs check the scripts; they never replace a result
sys.path.insert(0, str(ROOT))  # the package of this tree is measured, whichever is installed

Variant = Callable[[], Callable[[], object]]  # prepares, untimed, and returns what is timed


def load_averages() -> tuple[float, ...] | None:
    """The machine's load averages over 1, 5 and 15 minutes."""
    return tuple(round(x, 2) for x in os.getloadavg()) if hasattr(os, "getloadavg") else None


@dataclass
class Run:
    """What `start` read: flags, threads and the load before anything ran."""

    rounds: int
    quick: bool
    threads: int
    child: str | None  # in a child process: the variant that it measures
    load: tuple[float, ...] | None = field(default_factory=load_averages)


def start(title: str, rounds: int, threads: int | None = 2) -> Run:
    """Read the flags and set torch's number of threads (None: every core).

    With `--against COMMIT` nothing is measured here: the script runs on that commit and on this tree in turn, and ends.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({rounds} unless said)")
    quick_help = "one round of a small workload: checks the script, claims nothing"
    parser.add_argument("--quick", action="store_true", help=quick_help)
    against_help = "run this script on COMMIT and on this tree in turn, and compare our side's numbers"
    parser.add_argument("--against", metavar="COMMIT", help=against_help)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.against:
        against.compare(
            Path(sys.argv[0]).name, flags.against, ROOT, flags.rounds or against.ROUNDS, flags.quick
        )
        sys.exit()
    threads = min(threads or cores(), cores())
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    run = Run(flags.rounds or (1 if flags.quick else rounds), flags.quick, threads, flags.child)

    import torch

    torch.set_num_threads(threads)
    quiet()
    return run


def quiet() -> None:
    """No progress bars and no chatter of libraries."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def interleave(variants: dict[str, Variant], rounds: int, warm: bool = True) -> dict[str, list[float]]:
    """Wall seconds of every variant in every round; the order turns round from round to round.

    A variant prepares outside the clock and returns a function of no arguments, which is timed. One round that
    is not counted comes first (`warm`).
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for r in range(-1 if warm else 0, rounds):
        for name in list(variants) if r % 2 == 0 else list(variants)[::-1]:
            work = variants[name]()
            gc.collect()
            began = time.perf_counter()
            work()
            spent = time.perf_counter() - began
            if r >= 0:
                seconds[name].append(spent)
            del work
    return seconds


def interleave_measured(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """As `interleave`, of variants that measure themselves: each returns its seconds; nothing is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for r in range(rounds):
        for name in list(measures) if r % 2 == 0 else list(measures)[::-1]:
            gc.collect()
            seconds[name].append(measures[name]())
    return seconds


def matrix_rate(rows: int, inner: int, columns: int, seconds: float = 0.5) -> float:
    """Floating point operations a second of one product (rows, inner) x (inner, columns) in fp32, the median call."""
    import torch

    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    spent, stop = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < stop:
        for _ in range(20):
            left @ right
        spent.append((time.perf_counter() - began) / 20)
    return 2 * rows * inner * columns / median(spent)


def peak_growth(work: Callable[[], object]) -> float:
    """MiB by which this process's resident set grew at its highest while `work` ran (Linux; NaN elsewhere)."""
    from rmlab.study.cost import Meter

    with Meter() as meter:
        work()
    return meter.peak_mb


def memory(names: list[str], rounds: int, run: Run) -> dict[str, list[float]]:
    """MiB each variant needs, each in a fresh process: the calling script is run with `--child NAME`.

    There it must print `peak_growth` of the variant, as its last line.
    """
    out: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            out[name].append(float(child(name, run)))
    return out


def child(name: str, run: Run, first: str | None = None) -> str:
    """Run the calling script with `--child NAME` in a process of its own; the last line that it prints.

    first : a folder that modules are imported from before all others
    """
    folders = filter(None, [first, os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, sys.argv[0], "--child", name, *["--quick"][: run.quick]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"--child {name} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def report(
    name: str,
    run: Run,
    over: list[float],
    under: list[float],
    claim: str,
    ours: str,
    alternative: str,
    goal: str,
    unit: str = "s",
    settings: dict | None = None,
    also: dict | None = None,
) -> None:
    """Print `name: ratio (low-high)` and write `name.json`; the ratio is over / under, round by round.

    over, under : what each round measured, in `unit`. Ours is `under`; of a cost, whose goal begins with "<=", `over`
    also : other things measured in the same rounds, {name: values}; their medians are written
    """
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    ratio, low, high = median(ratios), min(ratios), max(ratios)
    medians = {
        "over": round(median(over), 4),
        "under": round(median(under), 4),
        "unit": unit,
        "is": "medians",
    }
    result = {
        "name": name,
        "ratio": round(ratio, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "unit": "x",
        "goal": goal,
        "claim": claim,
        "ours": ours,
        "alternative": alternative,
        "ratio_of": medians,
        "spread": f"ratio is the median, low and high the extremes, of {len(ratios)} interleaved rounds",
        "ratios": [round(r, 3) for r in ratios],
        "also": {key: round(median(values), 4) for key, values in (also or {}).items()},
        "settings": {"threads": run.threads, "quick": run.quick, **(settings or {})},
        **_circumstances(run),
    }
    folder = QUICK if run.quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"# {claim}; goal {goal}{'; quick, claims nothing' if run.quick else ''}")
    print(f"{name}: {ratio:.2f} ({low:.2f}-{high:.2f})", flush=True)


def check_equal(ours, theirs, name: str, tolerance: float = 1e-5) -> float:
    """The largest difference of two arrays; stops the benchmark when they are not the same numbers."""
    import numpy as np

    difference = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    if not difference <= tolerance * max(1.0, float(np.abs(np.asarray(theirs)).max())):
        raise SystemExit(f"{name}: differ by {difference:.2g}, more than {tolerance:g}; nothing was measured")
    return difference


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _circumstances(run: Run) -> dict:
    """Where, with which versions, from which commit and when."""
    machine = {"cpu": _cpu(), "cores": cores(), "system": platform.system()}
    return {
        "machine": {**machine, "load_start": run.load, "load_end": load_averages()},
        "versions": _versions(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if "model name" in x]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    out = {"python": platform.python_version()}
    for name in ("rmlab", "torch", "transformers", "trl", "peft", "numpy"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed"
    return out


def commit() -> str:
    """The commit that ran, and whether the tree differed from it; results of benchmarks are no difference."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
