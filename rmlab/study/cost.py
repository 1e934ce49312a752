"""What a method costs: estimated before it runs, measured while it runs.

The estimate counts what has to be done: passes through the trunk, weights held, floating-point operations. It is good to
tens of per cent and knows nothing of the machine; `Meter` measures what the machine made of it.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rmlab.recipe import EnsembleSpec, Recipe, Size
from rmlab.reward import methods
from rmlab.study.members import instances_of, trained_of

ADAM = 16  # bytes a trained parameter takes: itself, its gradient and Adam's two moments, in float32
PROMPT = 24  # tokens of a sandbox request, about


def estimate(recipe: Recipe, spec: EnsembleSpec) -> dict[str, float]:
    """What an ensemble of a study will take, before anything is trained.

    Returns
    -------
    members, K; parameters, held for scoring; memory_mb, while training, one model of a union at a
    time; train_gflop and score_gflop, multiplications and additions, answers taken as long as they may be.
    """
    size, source, training, options = recipe.size, recipe.source, recipe.training, dict(spec.options)
    blocks, trunk = matrices(size), trunk_parameters(recipe)
    train, score, held = methods.relative_cost(spec.method, options, adapter_fraction(recipe))
    epochs = options.get("epochs") or training.epochs
    if options.get("frozen"):
        epochs = training.epochs  # the features are computed once; their epochs cost next to nothing
    k, parts = methods.members_of(spec.method, options), methods.parts_of(spec.method, options)
    at_once = held / max(1, len(parts[0]) + len(parts[1]))
    pair = PROMPT + 2 * source.max_new_tokens
    activations = training.batch * pair * size.layers * (10 * size.hidden + 4 * size.ff) * 4
    answers = recipe.pool.prompts * recipe.pool.answers
    return {
        "members": k,
        "parameters": round(held * trunk + k * size.hidden),
        "memory_mb": (ADAM * (at_once * trunk + k * size.hidden) + activations) / 2**20,
        "train_gflop": train * 6 * blocks * recipe.labels.pairs * epochs * pair / 1e9,
        "score_gflop": score * 2 * blocks * answers * source.max_new_tokens / 1e9,
    }


def estimates(recipe: Recipe) -> str:
    """What every ensemble will take, how often a replicate holds it, and what a replicate trains in all, as text."""
    rows = [
        f"{'ensemble':<26}{'K':>3} {'times':>5} {'parameters':>11} {'memory':>8} {'training':>12} {'scoring':>12}"
    ]
    r, (times, singles, others) = recipe.replicates, counts_on(recipe)
    for spec in recipe.ensembles:
        e = estimate(recipe, spec)
        sizes = f"{spec.name:<26}{e['members']:>3} {times[spec.name]:>5} {e['parameters']:>11,} {e['memory_mb']:>5.0f} MB"
        rows.append(f"{sizes} {e['train_gflop']:>7.0f} GFLOP {e['score_gflop']:>6.0f} GFLOP")
    rows.append(
        "Estimated, for each of the times that a replicate holds an ensemble; single models are trained once."
    )
    rows.append(
        f"{r.draws} replicates, each of {r.backbones} backbones, {singles} single models and {others} others."
    )
    return "\n".join(rows)


def counts_on(recipe: Recipe) -> tuple[Counter, int, int]:
    """How often a replicate holds each ensemble, by name; how many single models and other scorers it trains."""
    one = replace(recipe, replicates=replace(recipe.replicates, draws=1))
    singles = [spec.method == "single" for spec in trained_of(one)]
    return Counter(i.spec.name for i in instances_of(one)), sum(singles), len(singles) - sum(singles)


def relative_cost(recipe: Recipe, method: str, options: dict) -> tuple[float, float]:
    """Passes through the trunk that a method takes to train and to score with, in units of one model's."""
    train, score, _ = methods.relative_cost(method, options, adapter_fraction(recipe))
    return train, score


def adapter_fraction(recipe: Recipe) -> Callable[[int, int], float]:
    """A function of (rank, lora_layers): an adapter's parameters in units of the trunk's."""
    size, trunk = recipe.size, trunk_parameters(recipe)

    def fraction(rank: int, lora_layers: int = 0) -> float:
        inputs_and_outputs = 8 * size.hidden + 3 * (size.hidden + size.ff)
        return rank * inputs_and_outputs * (lora_layers or size.layers) / trunk

    return fraction


def trunk_parameters(recipe: Recipe) -> int:
    """Parameters of one model without its head."""
    size = recipe.size
    return matrices(size) + size.hidden * (recipe.source.vocab_size + 2 * size.layers + 1)


def model_units(size: Size) -> float:
    """How much longer a model of this size takes than one of 64 x 2, about."""
    return size.hidden * size.layers / 128


def matrices(size: Size) -> int:
    """Parameters in the blocks' matrices: what a token is multiplied with."""
    return size.layers * (4 * size.hidden**2 + 3 * size.hidden * size.ff)


class Meter:
    """Processor seconds, and by how much resident memory grew at its highest, of a `with` block.

    Seconds are the process's own, so that other work on the machine does not count; the pool of freed memory is handed
    back first. Memory is known on Linux alone, NaN elsewhere.
    """

    seconds: float = float("nan")
    peak_mb: float = float("nan")

    def __enter__(self) -> Meter:
        gc.collect()
        self._linux = sys.platform == "linux" and _reset()
        self._resident = _status("VmRSS") if self._linux else 0
        self._began = time.process_time()
        return self

    def __exit__(self, *_) -> None:
        self.seconds = time.process_time() - self._began
        if self._linux:
            self.peak_mb = max(0, _status("VmHWM") - self._resident) / 2**20


def _reset() -> bool:
    """Hand freed memory back and set the high-water mark to what is resident now."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):  # not glibc, or no right to reset
        return False
    return True


def _status(field: str) -> int:
    """A size from /proc/self/status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(field + ":")) * 1024
