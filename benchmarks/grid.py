"""A grid of 15 small trainings: one-thread processes on all cores against one after another with all threads.

Run: `python benchmarks/grid.py [--rounds N] [--quick]`.

Starting the processes is inside the clock, as it is for whoever runs a study. Read the ratio with the machine's load.
"""

import tempfile
from pathlib import Path

from common import harness

MEMBERS = 15


def member(out: Path, seed: int, pairs: int, epochs: int) -> None:
    """One member of the grid: train the recipes' small model on random pairs; writes its losses."""
    import numpy as np
    from common import workload

    from rmlab.backbone import build
    from rmlab.recipe import Size, Training
    from rmlab.reward.model import from_backbone
    from rmlab.reward.training import train
    from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS

    model = from_backbone(build(Size(), workload.VOCAB, SPECIAL_TOKENS, seed=0), 1, seed)
    np.save(out / "losses.npy", train(model, workload.pairs(pairs), Training(epochs=epochs), seed))


def main() -> None:
    run = harness.start(__doc__.splitlines()[0], rounds=2, threads=None)
    import numpy as np

    from rmlab.store import Store, Task
    from rmlab.study.executor import execute

    size = {"pairs": 320, "epochs": 1} if run.quick else {"pairs": 2000, "epochs": 2}
    tasks = [Task(member, {"seed": s, **size}) for s in range(MEMBERS)]
    workers = harness.cores()
    stores = {}
    scratch = tempfile.TemporaryDirectory(prefix="rmlab-bench-")

    def empty(name: str) -> Store:
        stores[name] = Store(tempfile.mkdtemp(dir=scratch.name))
        return stores[name]

    def side_by_side():
        store = empty("processes")
        return lambda: execute(tasks, store, workers, quiet=True)

    def one_by_one():
        store = empty("sequence")
        return lambda: [store.run(t) for t in tasks]

    seconds = harness.interleave({"sequence": one_by_one, "processes": side_by_side}, run.rounds, warm=False)
    first, second = (
        np.array([np.load(stores[s].path(t) / "losses.npy") for t in tasks])
        for s in ("sequence", "processes")
    )
    apart = float(np.abs(first - second).max())
    if not apart < 0.05:
        raise SystemExit(f"the two ways train differently: losses {apart} apart; nothing is claimed")
    harness.report(
        "grid", run, seconds["sequence"], seconds["processes"], goal="> 1x; near the number of cores on a quiet machine",
        claim=f"wall time of {MEMBERS} trainings one after another over that of one-thread processes on all cores",
        ours=f"rmlab runner, {workers} one-thread processes, their start included",
        alternative=f"the same trainings in one process, one after another, {run.threads} threads",
        settings={"members": MEMBERS, **size, "batch": 32, "model": "Llama 64 x 2", "workers": workers,
                  "largest_difference_of_a_loss": apart},
    )  # fmt: skip


if __name__ == "__main__":
    main()
