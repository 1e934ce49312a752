"""What K = 8 heads on one encoder cost: against one head in time and memory, against 8 separate members in time.

Run: `python benchmarks/multihead_cost.py [--rounds N] [--quick] [--against COMMIT]`.
"""

from collections.abc import Callable

from common import harness, workload

from rmlab.recipe import Training
from rmlab.reward.model import from_backbone
from rmlab.reward.training import train

run = harness.start(__doc__.splitlines()[0], rounds=5)
K = 8
COUNT = 32 if run.quick else 640  # pairs
RECIPE = Training(epochs=1, batch=32)
SETTINGS = {
    "pairs": COUNT,
    "batch": RECIPE.batch,
    "epochs": 1,
    "heads": K,
    "model": workload.MODEL,
    "prompt_tokens": workload.PROMPT,
    "answer_tokens": workload.ANSWER,
}


def heads(k: int) -> Callable[[], object]:
    """Train one model of k heads."""
    model = from_backbone(workload.neox(), k, seed=0)
    pairs = workload.pairs(COUNT)
    return lambda: train(model, pairs, RECIPE, seed=0)


def separate() -> Callable[[], object]:
    """Train K models of one head, one after another."""
    models = [from_backbone(workload.neox(), 1, seed=k) for k in range(K)]
    pairs = workload.pairs(COUNT)
    return lambda: [train(model, pairs, RECIPE, seed=k) for k, model in enumerate(models)]


def measure_memory(name: str) -> None:
    """In a child process: the peak growth of one training, with everything it imports imported."""
    train(from_backbone(workload.neox(), 1, seed=0), workload.pairs(2), Training(epochs=1, batch=2), seed=0)
    print(harness.peak_growth(heads(int(name))))


def main() -> None:
    """Time, then time against separate models, then memory."""
    few = (run.rounds + 1) // 2
    shared = {"ours": "rmlab, K = 8 heads on one encoder", "settings": SETTINGS}
    seconds = harness.interleave({"eight": lambda: heads(K), "one": lambda: heads(1)}, run.rounds)
    harness.report(
        "multihead_time",
        run,
        seconds["eight"],
        seconds["one"],
        claim="training time of 8 heads on one encoder over that of one head",
        alternative="rmlab, K = 1",
        goal="<= 1.05x",
        **shared,
    )
    seconds = harness.interleave({"eight": lambda: heads(K), "separate": separate}, few)
    harness.report(
        "multihead_against_separate",
        run,
        seconds["separate"],
        seconds["eight"],
        claim="training time of 8 separate members over that of 8 heads on one encoder",
        alternative="rmlab, 8 members of one head, one after another",
        goal=">= 7x",
        **shared,
    )
    grown = harness.memory([str(K), "1"], few, run)
    harness.report(
        "multihead_memory",
        run,
        grown[str(K)],
        grown["1"],
        claim="growth of peak memory in training 8 heads on one encoder over that of one head "
        "(beyond the imports and the model, each in a process of its own)",
        alternative="rmlab, K = 1",
        goal="<= 1.05x",
        unit="MiB",
        **shared,
    )


if __name__ == "__main__":
    if run.child:
        measure_memory(run.child)
    else:
        main()
