"""What a run is: frozen dataclasses, one per step of the flow; named random streams; one way to refuse a value.

A `Recipe` is everything that decides a study's numbers. Its hash is the study's id, and every random draw comes
from a stream named after the recipe's seed and a purpose, so the same recipe on the same machine gives the same bytes.
Ready ones are in `rmlab.study.presets`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Size:
    """A tiny Llama: 64 x 2 has 0.12 M parameters."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    ff: int = 192

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        require(
            self.hidden % (2 * self.heads) == 0, "size.hidden", self.hidden, "a multiple of 2 x size.heads"
        )
        require(self.layers >= 1, "size.layers", self.layers, "at least 1")


@dataclass(frozen=True)
class Pretraining:
    """Two phases: copy records (without it no tiny model ever learns to quote a fact), then read answers."""

    record_steps: int = 250
    answer_steps: int = 600
    batch: int = 32
    lr: float = 2e-3  # of embeddings and norms, by AdamW
    muon_lr: float = 0.02  # of the matrices between them, by Muon
    sight: float = (
        0.0  # of reward models' backbones: share of documents that say which facts are right; 0: blind
    )

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        require(
            0 <= self.sight <= 1, "pretraining.sight", self.sight, "a share from 0 (blind) to 1 (sighted)"
        )
        require(self.muon_lr > 0, "pretraining.muon_lr", self.muon_lr, "a number above 0")


@dataclass(frozen=True)
class Tuning:
    """The policy: a pretrained model of its own, tuned on answers of better authors."""

    steps: int = 450
    batch: int = 32
    lr: float = 2e-3


@dataclass(frozen=True)
class Labels:
    """Preferences: `pairs` of two policy answers, labelled by gold and then spoilt."""

    pairs: int = 2000
    temperature: float = 0.0  # 0: gold's sign; above 0: a Bradley-Terry draw at this temperature (gold units)
    flips: float = 0.25  # share of labels turned round, by pair id
    heldout: int = 1000  # pairs with clean labels for accuracy; their answers are the alignment reference

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        require(0 <= self.flips < 0.5, "labels.flips", self.flips, "a share from 0 up to 0.5")
        require(self.temperature >= 0, "labels.temperature", self.temperature, "0 or a positive temperature")
        require(self.pairs >= 32, "labels.pairs", self.pairs, "at least 32 pairs")


@dataclass(frozen=True)
class Training:
    """One reward model: Bradley-Terry, summed over heads."""

    epochs: int = 2
    batch: int = 32  # pairs
    lr: float = 1e-3
    weight_decay: float = 0.01
    centre: float = 0.0  # eta of the optional centring loss eta * mean((r+ + r-)^2)
    micro_batch: int = 0  # pairs that are read at a time, their gradients added up; 0: the whole batch
    max_grad_norm: float = 0.0  # of trunk and heads together, above which gradients are scaled down; 0: never
    checkpointing: bool = False  # compute the trunk's layers again in the backward pass, to keep less

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        require(self.epochs >= 1, "training.epochs", self.epochs, "at least 1")
        require(self.centre >= 0, "training.centre", self.centre, "0 or a small positive number")
        require(self.micro_batch >= 0, "training.micro_batch", self.micro_batch, "0 or a number of pairs")
        norm = self.max_grad_norm
        require(0 <= norm < np.inf, "training.max_grad_norm", norm, "0 or a number above 0")


@dataclass(frozen=True)
class Replicates:
    """What is done again with other chance. A replicate is a label draw with pretraining seeds of its own.

    No two replicates share anything that is random in training, so that they are independent. A replicate holds single
    models on each of its backbones with each finetuning seed, and every ensemble stands on the same labels and backbones.
    """

    draws: int = 3  # replicates: each its own labels (other prompts, answers and flips) and its own backbones
    backbones: int = 5  # pretraining seeds of a replicate
    finetune: int = 3  # finetuning seeds of the single models, on each backbone

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        for name in ("draws", "backbones", "finetune"):
            require(getattr(self, name) >= 1, f"replicates.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True)
class PoolSize:
    """P prompts x N answers of the policy, sampled once and scored once."""

    prompts: int = 96
    answers: int = 4096

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        require(self.prompts >= 2, "pool.prompts", self.prompts, "at least 2")
        require(self.answers >= 8, "pool.answers", self.answers, "at least 8")


@dataclass(frozen=True)
class EnsembleSpec:
    """One ensemble of a study: `method` is a name in `rmlab.reward.methods.METHODS`, options are its training function's.

    An ensemble that stands on one backbone is trained on the first `homes` of a replicate's, 0: on every one. The single
    models that all are compared with stand on every one, and pretraining seeds make up every set of backbones.
    """

    name: str  # the rows' key
    method: str
    options: tuple[tuple[str, object], ...] = ()
    homes: int = 1


def ensemble(name: str, method: str, homes: int = 1, **options: object) -> EnsembleSpec:
    """An `EnsembleSpec` with its options as keywords."""
    return EnsembleSpec(name, method, tuple(sorted(options.items())), homes)


@dataclass(frozen=True)
class Ppo:
    """PPO of a language model, one answer a prompt; the numbers are the details of `rmlab/optimise/ppo.py`."""

    steps: int = 150  # of: sample, score, improve
    batch: int = 64  # prompts a step
    max_new_tokens: int = 44  # of an answer, the EOS included
    missing_eos_penalty: float = 0.0  # (4) taken from the score of an answer that never ends
    kl_coef: float = 0.05  # (3) what a nat of KL costs, in reward units
    target_kl: float = 0.0  # (11) nats an answer that kl_coef is adapted to; 0: it is fixed
    value_trunk: str = "shared"  # (5) the value head's trunk: "shared" with the policy, or its "own"
    vf_coef: float = 0.1  # of the value loss beside the policy loss
    precision: str = "fp32"  # (6) of the update's products: "fp32" or "bf16"
    whiten_rewards: bool = False  # (7)
    cliprange: float = 0.2  # (8) of the ratio: 1 - cliprange to 1 + cliprange
    cliprange_value: float = 0.0  # (8) most that a value may move in a step, in reward units; 0: not clipped
    gae_lambda: float = 0.95  # (9)
    epochs: int = 2  # (10)
    minibatches: int = 4  # (10) an epoch
    early_stop_kl: float = 0.0  # (12) nats a token from the sampler that end a step's updates; 0: never
    lr: float = 1e-4  # (13) the highest
    max_grad_norm: float = 1.0  # (17)
    eval_every: int = 10  # steps
    save_every: int = 10  # steps

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        for name in ("steps", "batch", "max_new_tokens", "epochs", "minibatches", "eval_every", "save_every"):
            require(getattr(self, name) >= 1, f"ppo.{name}", getattr(self, name), "at least 1")
        for name in (
            "missing_eos_penalty",
            "kl_coef",
            "target_kl",
            "vf_coef",
            "cliprange_value",
            "early_stop_kl",
        ):
            value = getattr(self, name)
            require(0 <= value < np.inf, f"ppo.{name}", value, "0 or a positive number")
        for name in ("cliprange", "lr", "max_grad_norm"):
            value = getattr(self, name)
            require(0 < value < np.inf, f"ppo.{name}", value, "a number above 0")
        mend = f"at most ppo.batch = {self.batch}"
        require(self.minibatches <= self.batch, "ppo.minibatches", self.minibatches, mend)
        require(0 <= self.gae_lambda <= 1, "ppo.gae_lambda", self.gae_lambda, "a number from 0 to 1")
        mend = "a number above 0 to begin from, as ppo.target_kl is set"
        require(self.target_kl == 0 or self.kl_coef > 0, "ppo.kl_coef", self.kl_coef, mend)
        require(self.value_trunk in {"shared", "own"}, "ppo.value_trunk", self.value_trunk, "shared or own")
        require(self.precision in {"fp32", "bf16"}, "ppo.precision", self.precision, "fp32 or bf16")


@dataclass(frozen=True)
class PpoStudy:
    """PPO against every ensemble of the recipe under every aggregator and KL penalty, a run a replicate.

    An ensemble that a replicate holds several times runs where it comes first. The single model runs under the mean, with
    the first `rivals` finetuning seeds of the first backbone: every gain is over the mean of those runs.
    """

    ppo: Ppo = field(
        default_factory=lambda: Ppo(steps=120, batch=128, lr=5e-5, missing_eos_penalty=2.5, eval_every=6)
    )
    aggregators: tuple[str, ...] = ("mean", "min", "mean_std")
    kl_coefs: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1)
    prompts: int = 64  # of the evaluations, the same for every run
    answers: int = 4  # sampled to each
    long: tuple[
        tuple[str, str], ...
    ] = ()  # (ensemble, aggregator): one more run without a penalty, and longer
    step_multiplier: int = 4  # how much longer
    rivals: int = 1  # of a replicate's single models, a run each
    runs: tuple[
        tuple[str, str], ...
    ] = ()  # (ensemble, aggregator): these alone, beside the single models; empty: all

    def rules_of(self, ensemble: str, k: int) -> tuple[str, ...]:
        """The aggregators that an ensemble of K members is optimised under: of one member, the mean alone."""
        if k == 1:
            named = ensemble == "single" or not self.runs or any(e == ensemble for e, _ in self.runs)
            return ("mean",) if named else ()
        return tuple(a for e, a in self.runs if e == ensemble) if self.runs else self.aggregators

    @property
    def every_aggregator(self) -> tuple[str, ...]:
        """Each aggregator that something is optimised under, once."""
        return tuple(dict.fromkeys(a for _, a in self.runs)) if self.runs else self.aggregators

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend."""
        self.ppo.validate()
        ok = len(self.kl_coefs) > 0 and min(self.kl_coefs, default=-1) >= 0
        require(ok, "ppo_study.kl_coefs", self.kl_coefs, "KL penalties of 0 and more")
        require(
            self.prompts >= 2, "ppo_study.prompts", self.prompts, "at least 2: intervals are over prompts"
        )
        require(self.answers >= 1, "ppo_study.answers", self.answers, "at least 1")
        for name in ("step_multiplier", "rivals"):
            require(getattr(self, name) >= 1, f"ppo_study.{name}", getattr(self, name), "at least 1")
        twice = sorted({run for run in self.runs if self.runs.count(run) > 1})
        require(not twice, "ppo_study.runs", twice, "every (ensemble, aggregator) once")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a study's numbers.

    source : what it is about, a `rmlab.sources.base.Source`; the only field without a default beside the name
    aggregators : under which every ensemble is compared; matched : also at equal mean penalty, see `measure.compare`
    ppo_study : None for a study of best-of-n alone
    """

    name: str
    source: object
    seed: int = 0
    size: Size = field(default_factory=Size)  # of reward models
    policy_size: Size = field(default_factory=Size)
    pretraining: Pretraining = field(default_factory=Pretraining)
    tuning: Tuning = field(default_factory=Tuning)
    labels: Labels = field(default_factory=Labels)
    training: Training = field(default_factory=Training)
    replicates: Replicates = field(default_factory=Replicates)
    pool: PoolSize = field(default_factory=PoolSize)
    ensembles: tuple[EnsembleSpec, ...] = (EnsembleSpec("single", "single"),)
    aggregators: tuple[str, ...] = ("mean", "median", "min", "mean_std", "uwo")
    matched: bool = False
    ppo_study: PpoStudy | None = None

    def validate(self) -> Recipe:
        """Check every part; raise a `ValueError` that names the field, the value and the mend."""
        for part in dataclasses.fields(self):
            check = getattr(getattr(self, part.name), "validate", None)
            if check:
                check()
        names = [e.name for e in self.ensembles]
        twice = sorted({n for n in names if names.count(n) > 1})
        require(not twice, "names of ensembles", twice, "every ensemble a name of its own")
        mend = "an ensemble named single, which the others are compared with"
        require("single" in names, "names of ensembles", names, mend)
        for e in self.ensembles:
            mend = (
                f"0 for every backbone, or a number up to replicates.backbones = {self.replicates.backbones}"
            )
            require(0 <= e.homes <= self.replicates.backbones, f"homes of ensemble {e.name}", e.homes, mend)
        if self.ppo_study:
            self._check_ppo_study(set(names))
        return self

    def _check_ppo_study(self, names: set[str]) -> None:
        study, seeds = self.ppo_study, self.replicates.finetune
        for field_name in ("long", "runs"):
            unknown = sorted({name for name, _ in getattr(study, field_name)} - names)
            require(
                not unknown, f"ppo_study.{field_name}", unknown, f"ensembles among {', '.join(sorted(names))}"
            )
        mend = f"at most replicates.finetune = {seeds}"
        require(study.rivals <= seeds, "ppo_study.rivals", study.rivals, mend)

    @property
    def id(self) -> str:
        """The study's id: a hash of everything but the name, after a letter: a table would read "70377395e285" as a number."""
        settings = dataclasses.asdict(self)
        del settings["name"]
        for name in ("micro_batch", "max_grad_norm", "checkpointing"):  # off, they are no part of it
            if not settings["training"][name]:
                del settings["training"][name]
        return f"r{digest([type(self.source).__name__, settings])[:11]}"


def digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()


def stream_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for the stream named by `purpose` under a recipe's seed."""
    return int(digest([seed, *map(str, purpose)])[:16], 16) >> 1


def stream(seed: int, *purpose: object) -> np.random.Generator:
    """The named random stream: the same name gives the same draws, another name independent ones."""
    return np.random.default_rng(stream_seed(seed, *purpose))


def require(ok: bool, name: str, value: object, mend: str) -> None:
    """Raise a `ValueError` that names the field, the value and the mend, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} = {value!r}: give {mend}")
