"""Where members come from: every way to make an ensemble of pretrained backbones and pairs.

`train_ensemble("heads", inputs, k=3)` trains one. A method is one module and one entry in `METHODS`, which
studies, the book and the explorer read; a module is imported when its method is used, so that reading the
table needs no torch. It holds::

    train(inputs, **options) -> RewardEnsemble     not yet aligned; the options are its arguments
    singles(**options) -> list[MemberSpec]         single models it starts from; without `train`, its members
    members(**options) -> K                        unless K is the option `k`
    relative_cost(adapter_fraction, **options)     unless it is that of K single models
    load(folder) -> RewardEnsemble                 if its folders are of its own format, which cards name

and leaves out what does not apply; all but `train` take the options that they name. An option `parts`,
((method, options), ...), is other methods side by side.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from rmlab.fingerprint import Lookup
from rmlab.recipe import Training, require, stream_seed


@dataclass(frozen=True)
class Method:
    """An entry of the table: a menu's words, where members come from, the paper, the module."""

    label: str
    origin: str
    source: str
    module: str


METHODS: Lookup = Lookup(
    {
        "single": Method(
            label="one reward model",
            origin="one pretraining seed, one finetuning seed",
            source="Gao et al. 2210.10760",
            module="rmlab.reward.single",
        ),
        "finetune": Method(
            label="finetuning seeds",
            origin="one pretrained backbone; head initialisation and data order differ",
            source="Coste et al. 2310.02743",
            module="rmlab.reward.finetune",
        ),
        "pretrain": Method(
            label="pretraining seeds",
            origin="one backbone pretrained from scratch per member",
            source="Eisenstein et al. 2312.09244",
            module="rmlab.reward.pretrain",
        ),
        "heads": Method(
            label="linear heads",
            origin="K heads on one encoder, trained together on the same pairs",
            source="Ahmed et al. 2406.01013; Zhang et al. 2401.16635",
            module="rmlab.reward.heads",
        ),
        "lora": Method(
            label="LoRA adapters",
            origin="one encoder, a low-rank adapter and a head per member",
            source="Zhang et al. 2401.16635",
            module="rmlab.reward.lora",
        ),
        "dropout": Method(
            label="dropout masks",
            origin="one model trained with dropout, K masks that stay fixed",
            source="Gal and Ghahramani 1506.02142",
            module="rmlab.reward.dropout",
        ),
        "laplace": Method(
            label="Laplace samples",
            origin="one model, K heads from the posterior over its last layer",
            source="Daxberger et al. 2106.14806",
            module="rmlab.reward.laplace",
        ),
        "average": Method(
            label="weight average",
            origin="the mean of finetuned members' weights: one model",
            source="Ramé et al. 2401.12187",
            module="rmlab.reward.average",
        ),
        "mixed": Method(
            label="a union",
            origin="members of several methods side by side",
            source="Eisenstein et al. 2312.09244",
            module="rmlab.reward.mixed",
        ),
    }
)


@dataclass(frozen=True)
class MemberSpec:
    """A single reward model: which backbone, which finetuning seed, how many epochs (None: the recipe's)."""

    backbone: int = 0
    finetune: int = 0
    epochs: int | None = None

    def __post_init__(self):
        require(self.backbone >= 0, "backbone", self.backbone, "0 or more, counted from 0")
        require(self.finetune >= 0, "finetune", self.finetune, "0 or more, counted from 0")
        require(self.epochs is None or self.epochs >= 1, "epochs", self.epochs, "None or at least 1")


HOME = MemberSpec()  # the home backbone, its first finetuning seed


@dataclass(frozen=True)
class TrainingInputs:
    """What an ensemble is trained from.

    Parameters
    ----------
    backbones : pretrained language models, the first is home
    pairs : `training.PairIds`
    training : the recipe of one model
    seed, draw : every stream is named under them; a draw is a set of labels
    backbone_ids : which of a study's backbones these are, 0, 1, ... unless said: seeds are named by them
    precision : "fp32" or "bf16", of the trunk's products
    trained : single models that exist already, and are not trained again
    """

    backbones: Sequence
    pairs: object
    training: Training
    seed: int
    draw: int = 0
    backbone_ids: Sequence[int] | None = None
    precision: str = "fp32"
    trained: Mapping = field(default_factory=dict)

    def __post_init__(self):
        ids, count = self.backbone_ids, len(self.backbones)
        require(ids is None or len(ids) == count, "backbone_ids", ids, f"one for each of {count} backbones")

    def seed_of(self, backbone: int = 0, finetune: int = 0) -> int:
        """The seed of the member on backbones[backbone] with this finetuning seed."""
        ids = range(len(self.backbones)) if self.backbone_ids is None else self.backbone_ids
        return stream_seed(self.seed, "member", self.draw, ids[backbone], finetune)

    def training_for(self, epochs: int | None = None, rate: float = 1.0) -> Training:
        """The recipe's training with other epochs, and its learning rate times `rate`."""
        epochs = self.training.epochs if epochs is None else epochs
        return dataclasses.replace(self.training, epochs=epochs, lr=rate * self.training.lr)


def train_ensemble(method: str, inputs: TrainingInputs, **options):
    """Train an ensemble by a method of the table: a `RewardEnsemble`, not yet aligned.

    Raises
    ------
    ValueError
        An unknown method or option, or too few backbones, before anything is trained; a training that runs
        off, with the member whose it was.
    """
    check_options(method, options)
    required = 1 + max((spec.backbone for spec in singles_of(method, options)), default=0)
    count = len(inputs.backbones)
    require(count >= required, f"backbones of {method}", count, f"at least {required}")
    module = module_of(method)
    if hasattr(module, "train"):
        return module.train(inputs, **options)
    return module_of("mixed").train(inputs, parts=((method, options),))


def check_options(method: str, options: Mapping) -> None:
    """Raise a `ValueError` that names what is wrong with a method or its options, its parts' included."""
    known = options_of(method)
    for name in options:
        mend = f"one of {', '.join(known) or 'none: it has no options'}"
        require(name in known, f"option of {method}", name, mend)
    k = options.get("k", known.get("k", 1))
    require(isinstance(k, int) and k >= 1, f"k of {method}", k, "a whole number of members, at least 1")
    for part in options.get("parts", ()):
        pair = isinstance(part, list | tuple) and len(part) == 2
        require(pair, f"parts of {method}", part, "pairs of a method and its options")
        check_options(part[0], dict(part[1]))


def options_of(method: str) -> dict:
    """A method's options and their defaults."""
    module = module_of(method)
    arguments = inspect.signature(getattr(module, "train", None) or module.singles).parameters
    return {name: p.default for name, p in arguments.items() if name != "inputs"}


def module_of(method: str) -> ModuleType:
    """The module that makes a method's ensembles; imports it, and torch with it."""
    require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    return importlib.import_module(METHODS[method].module)


def members_of(method: str, options: Mapping) -> int:
    """K of the ensemble that a method makes with these options."""
    module, known = module_of(method), {**options_of(method), **options}
    if hasattr(module, "members"):
        return _call(module.members, options)
    if hasattr(module, "train") and "parts" not in known:
        return known.get("k", 1)
    singles, others = parts_of(method, options)
    return len(singles) + sum(members_of(*other) for other in others)


def parts_of(method: str, options: Mapping) -> tuple[list[MemberSpec], list[tuple[str, dict]]]:
    """What is trained for an ensemble, in its members' order: single models once, other (method, options)."""
    module, known = module_of(method), {**options_of(method), **options}
    if "parts" in known:
        listed = [parts_of(part, dict(part_options)) for part, part_options in known["parts"]]
        singles, others = ([x for part in listed for x in part[i]] for i in (0, 1))
    elif hasattr(module, "train"):
        singles, others = [], [(method, dict(options))]
    else:
        singles, others = _call(module.singles, options), []
    return list(dict.fromkeys(singles)), others


def singles_of(method: str, options: Mapping) -> list[MemberSpec]:
    """Every single model that an ensemble needs, once: its members, and what its other parts start from."""
    singles, others = parts_of(method, options)
    for other, other_options in others:
        module = module_of(other)
        singles += _call(module.singles, other_options) if hasattr(module, "singles") else []
    return list(dict.fromkeys(singles))


def relative_cost(
    method: str, options: Mapping, adapter_fraction: Callable[[int, int], float]
) -> tuple[float, float, float]:
    """Passes through the trunk to train and to score with, and copies held, in units of one model's.

    adapter_fraction : (rank, lora_layers) -> an adapter's numbers, in units of the trunk's
    """
    module = module_of(method)
    if hasattr(module, "relative_cost"):
        return _call(module.relative_cost, options, adapter_fraction)
    k = members_of(method, options)
    return k, k, k


def _call(function: Callable, options: Mapping, *arguments: object) -> object:
    """A function of a method's module, called with those of the options that it takes."""
    taken = inspect.signature(function).parameters
    return function(*arguments, **{name: value for name, value in options.items() if name in taken})
