"""Where members come from: every way to make an ensemble, each from pretrained backbones and pairs to a scorer `(..., K)`.

`build("heads", ingredients, k=3)` trains one. To add a construction, write a function and give it a line in
`CONSTRUCTIONS`: the study, the book and the explorer read that table.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rmlab.recipe import Training, require, stream_seed


@dataclass(frozen=True)
class Single:
    """A single reward model: which backbone, which finetuning seed, how many epochs (None: the recipe's)."""

    backbone: int = 0
    finetune: int = 0
    epochs: int | None = None


HOME = Single()


@dataclass(frozen=True)
class Construction:
    """A line of the table.

    `label` is what a menu says, `origin` where members come from, `source` the paper. `make` turns ingredients and options
    into a scorer. `work` gives, for options, passes through the trunk to train and to score with, and copies of it that are
    held, all in units of one model's; an adapter is the share of the trunk that its first argument, a function of
    (rank, lora_layers), says. `singles` gives, for options, the single models it is made of; in a `union` they are its members as they are.
    """

    label: str
    origin: str
    source: str
    make: Callable
    work: Callable
    singles: Callable = field(default=lambda **_: [])
    union: bool = False

    @property
    def options(self) -> dict:
        """The options and their defaults."""
        return {n: p.default for n, p in inspect.signature(self.make).parameters.items() if n != "data"}


@dataclass(frozen=True)
class Ingredients:
    """What a construction is made of.

    backbones : pretrained language models, the first is home; pairs : `PairIds`; training : the recipe of one model;
    seed : every stream is named under it; precision : "fp32" or "bf16"
    """

    backbones: Sequence
    pairs: object
    training: Training
    seed: int
    precision: str = "fp32"

    def seed_of(self, backbone: int = 0, finetune: int = 0) -> int:
        return stream_seed(self.seed, "member", backbone, finetune)

    def single(self, which: Single = HOME):
        """The reward model of one pretraining and one finetuning seed."""
        known = len(self.backbones)
        require(
            which.backbone < known, "backbone", which.backbone, f"one of the {known} given, counted from 0"
        )
        from rmlab.reward.training import whose

        with whose(f"backbone {which.backbone}, finetuning seed {which.finetune}"):
            return _heads(self, epochs=which.epochs, backbone=which.backbone, finetune=which.finetune)


def build(kind: str, data: Ingredients, **options):
    """Train a construction: `kind` is a name in `CONSTRUCTIONS`, options are its function's; returns a `Scorer`, not yet aligned."""
    check(kind, options)
    wanted = 1 + max((s.backbone for s in atoms(kind, options)[0]), default=0)  # told before any is trained
    require(len(data.backbones) >= wanted, f"backbones of {kind}", len(data.backbones), f"at least {wanted}")
    return CONSTRUCTIONS[kind].make(data, **options)


def check(kind: str, options: dict) -> None:
    """Raise a `ValueError` that names what is wrong with a construction's line."""
    require(kind in CONSTRUCTIONS, "construction", kind, f"one of {', '.join(CONSTRUCTIONS)}")
    known = CONSTRUCTIONS[kind].options
    for name in options:
        require(
            name in known,
            f"option of {kind}",
            name,
            f"one of {', '.join(known) or 'none: it has no options'}",
        )
    k = options.get("k", known.get("k", 1))
    require(isinstance(k, int) and k >= 1, f"k of {kind}", k, "a whole number of members, at least 1")
    for part, some in options.get("parts", ()):
        check(part, dict(some))


def load(folder: str | Path):
    """The scorer that was saved in a folder, whichever construction made it."""
    from rmlab.reward.dropout import DropoutModel
    from rmlab.reward.lora import LoraModel
    from rmlab.reward.model import RewardModel, Union

    folder = Path(folder)
    if (folder / "part_0").is_dir():
        return Union([load(p) for p in sorted(folder.glob("part_*"), key=lambda p: int(p.name[5:]))])
    if (folder / "base").is_dir():
        return LoraModel.load(folder)
    require((folder / "config.json").is_file(), "folder", str(folder), "one that a scorer's `save` wrote")
    masked = "rmlab_dropout" in json.loads((folder / "config.json").read_text())
    return (DropoutModel if masked else RewardModel).load(folder)


def members_of(kind: str, options: dict) -> int:
    """K of a line."""
    if kind == "average":
        return 1
    if kind != "mixed" and not CONSTRUCTIONS[kind].union:
        return options.get("k", CONSTRUCTIONS[kind].options["k"])
    singles, alone = atoms(kind, options)
    return len(singles) + sum(members_of(part, some) for part, some in alone)


def atoms(kind: str, options: dict) -> tuple[list[Single], list[tuple[str, dict]]]:
    """What is trained for a line: single models, each once, and other constructions (kind, options)."""
    singles, alone = [], []
    parts = {**CONSTRUCTIONS[kind].options, **options}["parts"] if kind == "mixed" else ((kind, options),)
    for part, some in parts:
        if CONSTRUCTIONS[part].union:
            singles += CONSTRUCTIONS[part].singles(**dict(some))
        else:
            alone.append((part, dict(some)))
    return list(dict.fromkeys(singles)), alone


def single(data: Ingredients, epochs: int | None = None):
    return data.single(Single(epochs=epochs))


def finetune(data: Ingredients, k: int = 5, backbone: int = 0, epochs: int | None = None):
    return _union([data.single(Single(backbone, f, epochs)) for f in range(k)])


def pretrain(data: Ingredients, k: int = 5, epochs: int | None = None):
    return _union([data.single(Single(b, 0, epochs)) for b in range(k)])


def heads(
    data: Ingredients, k: int = 5, frozen: bool = False, init: float = 1.0, penalty: str = "decay", strength: float = 0.0,
    bootstrap: bool = False, mlp: int = 0, epochs: int | None = None, rate: float = 1.0,
):  # fmt: skip
    options = {"frozen": frozen, "init": init, "penalty": penalty, "strength": strength, "bootstrap": bootstrap, "mlp": mlp}  # fmt: skip
    return _heads(data, k, epochs, rate, **options)


def lora(
    data: Ingredients, k: int = 5, rank: int = 8, alpha: float = 16.0, targets: str | tuple = "all-linear", lora_layers: int = 0,
    stage1: float = 0.0, rate: float = 5.0, epochs: int | None = None,
):  # fmt: skip
    from rmlab.reward import lora as adapters
    from rmlab.reward.heads import with_epochs

    options = {"rank": rank, "alpha": alpha, "targets": targets, "lora_layers": lora_layers, "stage1": stage1, "rate": rate}  # fmt: skip
    training = with_epochs(data.training, epochs)
    return adapters.lora(data.backbones[0], data.pairs, training, data.seed_of(), k, **options, precision=data.precision)  # fmt: skip


def dropout(data: Ingredients, k: int = 5, rate: float = 0.1):
    from rmlab.reward import dropout as masks

    return masks.dropout(data.backbones[0], data.pairs, data.training, data.seed_of(), k, rate, precision=data.precision)  # fmt: skip


def laplace(data: Ingredients, k: int = 5, tau: float | None = None):
    from rmlab.reward.laplace import around

    return around(data.single(), data.pairs, k, data.seed_of(), tau)


def average(data: Ingredients, k: int = 5, probed: bool = False):
    from rmlab.reward import average as warm

    if not probed:
        return warm.average([data.single(Single(0, f)) for f in range(k)])
    seeds = [data.seed_of(0, f) for f in range(k)]
    return warm.probed(data.backbones[0], data.pairs, data.training, seeds, data.precision)


def mixed(data: Ingredients, parts: tuple = (("finetune", ()), ("pretrain", ()))):
    singles, alone = atoms("mixed", {"parts": parts})
    return _union([data.single(s) for s in singles] + [build(kind, data, **some) for kind, some in alone])


def _heads(data: Ingredients, k: int = 1, epochs: int | None = None, rate: float = 1.0, backbone: int = 0, finetune: int = 0, **options):  # fmt: skip
    from rmlab.reward import heads as linear

    training = linear.with_epochs(data.training, epochs, rate * data.training.lr)
    seed = data.seed_of(backbone, finetune)
    return linear.heads(data.backbones[backbone], data.pairs, training, seed, k, **options, precision=data.precision)  # fmt: skip


def _union(parts: list):
    from rmlab.reward.model import Union

    return parts[0] if len(parts) == 1 else Union(parts)


def _grid(k: int = 5, backbone: int = 0, epochs: int | None = None) -> list[Single]:
    return [Single(backbone, f, epochs) for f in range(k)]


def _one_each(k: int = 5, epochs: int | None = None) -> list[Single]:
    return [Single(b, 0, epochs) for b in range(k)]


def _lora_work(
    share: Callable, k: int = 5, rank: int = 8, lora_layers: int = 0, stage1: float = 0.0, **_
) -> tuple:
    return stage1 + k * (1 - stage1), k, 1 + k * share(rank, lora_layers)


def _mixed_work(share: Callable, parts: tuple = (("finetune", ()), ("pretrain", ()))) -> tuple:
    singles, alone = atoms("mixed", {"parts": parts})
    each = [(1, 1, 1)] * len(singles) + [CONSTRUCTIONS[k].work(share, **some) for k, some in alone]
    return tuple(map(sum, zip(*each, strict=True)))


CONSTRUCTIONS = {
    "single": Construction("one reward model", "one pretraining seed, one finetuning seed", "Gao et al. 2210.10760",
        single, lambda share, **_: (1, 1, 1), lambda epochs=None: [Single(epochs=epochs)], union=True),
    "finetune": Construction("finetuning seeds", "one pretrained backbone; head initialisation and data order differ",
        "Coste et al. 2310.02743", finetune, lambda share, k=5, **_: (k, k, k), _grid, union=True),
    "pretrain": Construction("pretraining seeds", "one backbone pretrained from scratch per member",
        "Eisenstein et al. 2312.09244", pretrain, lambda share, k=5, **_: (k, k, k), _one_each, union=True),
    "heads": Construction("linear heads", "K heads on one encoder, trained together on the same pairs",
        "Ahmed et al. 2406.01013; Zhang et al. 2401.16635", heads, lambda share, frozen=False, **_: (1 / 3 if frozen else 1, 1, 1)),
    "lora": Construction("LoRA adapters", "one encoder, a low-rank adapter and a head per member",
        "Zhang et al. 2401.16635", lora, _lora_work),
    "dropout": Construction("dropout masks", "one model trained with dropout, K masks that stay fixed",
        "Gal and Ghahramani 1506.02142", dropout, lambda share, k=5, **_: (1, k, 1)),
    "laplace": Construction("Laplace samples", "one model, K heads from the posterior over its last layer",
        "Daxberger et al. 2106.14806", laplace, lambda share, **_: (4 / 3, 1, 1), lambda **_: [Single()]),
    "average": Construction("weight average", "the mean of finetuned members' weights: one model", "Ramé et al. 2401.12187",
        average, lambda share, k=5, **_: (k, 1, 1), lambda k=5, probed=False: [] if probed else _grid(k)),
    "mixed": Construction("a union", "members of several constructions side by side", "Eisenstein et al. 2312.09244",
        mixed, _mixed_work),
}  # fmt: skip
