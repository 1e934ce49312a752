"""A grid of 15 small trainings: one-thread processes on all cores against one after another with all threads.

Run: `python benchmarks/grid.py [--rounds N] [--quick] [--against COMMIT]`.

Starting the processes is inside the clock, as it is for whoever runs a study. Read the ratio with the machine's load.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from common import harness

MEMBERS = 15


@dataclass(frozen=True)
class Member:
    """One member of the grid: its seed, and how much it trains on."""

    seed: int
    pairs: int
    epochs: int


def train_member(out: Path, settings: Member) -> None:
    """Train the recipes' small model on random pairs; writes its losses."""
    import numpy as np
    from common import workload

    from rmlab.backbone import build
    from rmlab.recipe import Size, Training
    from rmlab.reward.model import from_backbone
    from rmlab.reward.training import train
    from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS

    s = settings
    model = from_backbone(build(Size(), workload.VOCAB, SPECIAL_TOKENS, seed=0), 1, s.seed)
    np.save(out / "losses.npy", train(model, workload.pairs(s.pairs), Training(epochs=s.epochs), s.seed))


def main() -> None:
    """Both ways from empty stores, checked to train alike."""
    run = harness.start(__doc__.splitlines()[0], rounds=2, threads=None)
    import numpy as np

    from rmlab.store import Store, Task
    from rmlab.study.executor import execute

    pairs, epochs = (64, 1) if run.quick else (2000, 2)
    tasks = [Task(train_member, Member(seed, pairs, epochs)) for seed in range(MEMBERS)]
    workers = harness.cores()
    stores = {}
    scratch = tempfile.TemporaryDirectory(prefix="rmlab-bench-")

    def side_by_side():
        store = stores["processes"] = Store(tempfile.mkdtemp(dir=scratch.name))
        return lambda: execute(tasks, store, workers, quiet=True)

    def one_by_one():
        store = stores["sequence"] = Store(tempfile.mkdtemp(dir=scratch.name))
        return lambda: [store.run(task) for task in tasks]

    seconds = harness.interleave({"sequence": one_by_one, "processes": side_by_side}, run.rounds, warm=False)
    one, other = (
        np.array([np.load(store.path(task) / "losses.npy") for task in tasks]) for store in stores.values()
    )
    difference = float(np.abs(one - other).max())
    if not difference < 0.05:
        raise SystemExit(f"the two ways train differently: losses {difference} apart; nothing is claimed")
    sizes = {"members": MEMBERS, "pairs": pairs, "epochs": epochs, "batch": 32, "model": "Llama 64 x 2"}
    harness.report(
        "grid",
        run,
        seconds["sequence"],
        seconds["processes"],
        claim=f"wall time of {MEMBERS} trainings one after another over that of one-thread processes on all cores",
        ours=f"rmlab executor, {workers} one-thread processes, their start included",
        alternative=f"the same trainings in one process, one after another, {run.threads} threads",
        goal="> 1x; near the number of cores on a quiet machine",
        settings={**sizes, "workers": workers, "largest_difference_of_a_loss": difference},
    )


if __name__ == "__main__":
    main()
