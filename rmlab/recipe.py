"""What a run is: frozen dataclasses, one per step of the flow, and presets as plain functions.

A `Recipe` is everything that decides a study's numbers. Its hash is the study's id, and every random
draw comes from a stream named after the recipe's seed and a purpose, so the same recipe on the same
machine gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class World:
    """The sandbox: how well style tells quality, and how long an answer may be."""

    style_quality: float = 1.0  # 0: style says nothing about an author's skill; 1: it follows skill
    max_answer: int = 44  # tokens, <eos> included
    appraisals: float = (
        0.0  # share of pretraining documents in which an answer is followed by a factual verdict
    )

    def validate(self) -> None:
        require(
            0 <= self.style_quality <= 1, "world.style_quality", self.style_quality, "a number from 0 to 1"
        )
        require(
            20 <= self.max_answer <= 64,
            "world.max_answer",
            self.max_answer,
            "a number of tokens from 20 to 64",
        )
        require(0 <= self.appraisals <= 1, "world.appraisals", self.appraisals, "a share from 0 to 1")


@dataclass(frozen=True)
class Size:
    """A tiny Llama: 64 x 2 has 0.12 M parameters."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    ff: int = 192

    def validate(self) -> None:
        require(
            self.hidden % (2 * self.heads) == 0, "size.hidden", self.hidden, "a multiple of 2 x size.heads"
        )
        require(self.layers >= 1, "size.layers", self.layers, "at least 1")


@dataclass(frozen=True)
class Pretraining:
    """Two phases: copy records (without it no tiny model ever learns to quote a fact), then read answers."""

    recap_steps: int = 1000
    answer_steps: int = 1000
    batch: int = 32
    lr: float = 5e-3


@dataclass(frozen=True)
class Sft:
    """The policy: pretraining seed 0, tuned on answers of better authors."""

    steps: int = 450
    batch: int = 32
    lr: float = 2e-3


@dataclass(frozen=True)
class Labels:
    """Preferences: `pairs` of two policy answers, labelled by gold and then spoilt."""

    pairs: int = 2000
    temperature: float = 0.0  # 0: gold's sign; above 0: a Bradley-Terry draw at this temperature (gold units)
    flips: float = 0.25  # share of labels turned round, by pair id
    draws: int = 3  # independent label sets (other prompts, other answers, other flips)
    heldout: int = 1000  # pairs with clean labels for accuracy; their answers are the alignment reference

    def validate(self) -> None:
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

    def validate(self) -> None:
        require(self.epochs >= 1, "training.epochs", self.epochs, "at least 1")
        require(self.centre >= 0, "training.centre", self.centre, "0 or a small positive number")


@dataclass(frozen=True)
class Members:
    """The grid: pretraining seeds x finetuning seeds, crossed, and the multi-head models beside it."""

    pretrain: int = 5
    finetune: int = 3
    heads: tuple[int, ...] = (3, 5)

    def validate(self) -> None:
        require(self.pretrain >= 1, "members.pretrain", self.pretrain, "at least 1")
        require(self.finetune >= 1, "members.finetune", self.finetune, "at least 1")


@dataclass(frozen=True)
class Pool:
    """P prompts x N answers of the policy, sampled once and scored once."""

    prompts: int = 96
    answers: int = 4096

    def validate(self) -> None:
        require(self.prompts >= 2, "pool.prompts", self.prompts, "at least 2")
        require(self.answers >= 8, "pool.answers", self.answers, "at least 8")


@dataclass(frozen=True)
class Sight:
    """A side study: which sizes with how many pairs begin to see a wrong fact. Empty: not run."""

    sizes: tuple[Size, ...] = ()
    pairs: tuple[int, ...] = ()
    seeds: int = 2


@dataclass(frozen=True)
class Line:
    """One construction of a study: `kind` is a name in `rmlab.reward.methods.CONSTRUCTIONS`, options its function's."""

    name: str  # the rows' key
    kind: str
    options: tuple[tuple[str, object], ...] = ()


def line(name: str, kind: str, **options) -> Line:
    return Line(name, kind, tuple(sorted(options.items())))


@dataclass(frozen=True)
class Ppo:
    """PPO of a language model, one answer a prompt; the numbers are the details of `rmlab/optimise/ppo.py`."""

    steps: int = 150  # of: sample, score, improve
    batch: int = 64  # prompts a step
    max_new_tokens: int = 44  # tokens, the EOS included
    missing_eos_penalty: float = 0.0  # (4) taken from the score of an answer that never ends
    kl_coef: float = 0.05  # (3) penalty on a nat of KL, in reward units
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
        counts = "steps", "batch", "max_new_tokens", "epochs", "minibatches", "eval_every", "save_every"
        for name in counts:
            require(getattr(self, name) >= 1, f"ppo.{name}", getattr(self, name), "at least 1")
        prices = "missing_eos_penalty", "kl_coef", "target_kl", "vf_coef", "cliprange_value", "early_stop_kl"
        for name in prices:
            value = getattr(self, name)
            require(0 <= value < np.inf, f"ppo.{name}", value, "0 or a positive number")
        for name in ("cliprange", "lr", "max_grad_norm"):
            value = getattr(self, name)
            require(0 < value < np.inf, f"ppo.{name}", value, "a number above 0")
        few = self.minibatches <= self.batch
        require(few, "ppo.minibatches", self.minibatches, f"at most ppo.batch = {self.batch}")
        require(0 <= self.gae_lambda <= 1, "ppo.gae_lambda", self.gae_lambda, "a number from 0 to 1")
        begins = self.target_kl == 0 or self.kl_coef > 0
        require(
            begins, "ppo.kl_coef", self.kl_coef, "a number above 0 to begin from, as ppo.target_kl is set"
        )
        require(self.value_trunk in {"shared", "own"}, "ppo.value_trunk", self.value_trunk, "shared or own")
        require(self.precision in {"fp32", "bf16"}, "ppo.precision", self.precision, "fp32 or bf16")


@dataclass(frozen=True)
class Pressure:
    """A study of PPO: every line of the recipe under every aggregator and price of KL, a run a replicate."""

    ppo: Ppo = field(
        default_factory=lambda: Ppo(steps=120, batch=128, lr=5e-5, missing_eos_penalty=2.5, eval_every=6)
    )
    hows: tuple[str, ...] = ("mean", "min", "mean_std")
    betas: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1)
    requests: int = 64  # of the evaluations, the same for every run
    answers: int = 4  # sampled to each
    long: tuple[
        tuple[str, str], ...
    ] = ()  # (line, aggregator): one more run without a price, `longer` times the steps
    longer: int = 4

    def validate(self) -> None:
        self.ppo.validate()
        require(len(self.betas) > 0 and min(self.betas, default=-1) >= 0, "pressure.betas", self.betas, "prices of 0 and more")  # fmt: skip
        require(self.requests >= 1 and self.answers >= 1, "pressure.requests and answers", (self.requests, self.answers), "at least 1 of each")  # fmt: skip
        require(self.longer >= 1, "pressure.longer", self.longer, "at least 1")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a study's numbers."""

    name: str = "quick"
    seed: int = 0
    world: World = field(default_factory=World)
    size: Size = field(default_factory=Size)
    pretraining: Pretraining = field(default_factory=Pretraining)
    sft: Sft = field(default_factory=Sft)
    labels: Labels = field(default_factory=Labels)
    training: Training = field(default_factory=Training)
    members: Members = field(default_factory=Members)
    pool: Pool = field(default_factory=Pool)
    sight: Sight = field(default_factory=Sight)
    lines: tuple[Line, ...] = ()  # of a study of constructions; empty: the grid of `members`
    pressure: Pressure | tuple = ()  # of a study of PPO under these lines; empty: best-of-n alone

    def validate(self) -> Recipe:
        """Check every part; raise a `ValueError` that names the field, the value and the mend."""
        for part in dataclasses.fields(self):
            check = getattr(getattr(self, part.name), "validate", None)
            if check:
                check()
        return self

    @property
    def id(self) -> str:
        """The study's id: a hash of everything but the name; what is empty does not count."""
        return digest({k: v for k, v in dataclasses.asdict(self).items() if k != "name" and v != ()})[:12]


def quick() -> Recipe:
    """Minutes on two cores: one label draw, three pretraining x three finetuning seeds, 32 prompts."""
    return Recipe(
        name="quick",
        labels=Labels(draws=1),
        members=Members(pretrain=3, finetune=3, heads=(3,)),
        pool=Pool(prompts=32, answers=2048),
    )


def full() -> Recipe:
    """The study that ships: three label draws, five x three seeds, 96 prompts of 4,096 answers; two sizes for sight."""
    sight = Sight(
        sizes=(Size(), Size(hidden=128, layers=3, heads=4, ff=384)), pairs=(1000, 4000, 16000), seeds=2
    )
    return Recipe(name="full", sight=sight)


def tiny() -> Recipe:
    """Seconds: every step is real and nothing is learnt. For tests and for trying things out."""
    return Recipe(
        name="tiny",
        size=Size(hidden=16, layers=1, heads=2, ff=32),
        pretraining=Pretraining(recap_steps=8, answer_steps=8, batch=8),
        sft=Sft(steps=8, batch=8),
        labels=Labels(pairs=32, draws=1, heldout=16),
        training=Training(epochs=1, batch=8),
        members=Members(pretrain=2, finetune=2, heads=(2,)),
        pool=Pool(prompts=3, answers=32),
    )


AHMED = line(
    "heads3_1_epoch", "heads", k=3, epochs=1
)  # 2406.01013: three heads, one epoch; aggregated with min
ZHANG = line(
    "lora5_two_stage", "lora", k=5, stage1=0.5
)  # 2401.16635: encoder and heads on one half, adapters on the other


def constructions() -> Recipe:
    """Every way to make members, on the same pairs and pool: five replicates, each a label draw with a home backbone."""
    fits = {"frozen": True, "epochs": 200, "rate": 10.0}  # on cached features, until they have settled
    grid = tuple(("finetune", (("backbone", b), ("k", 5))) for b in range(5))
    lines = (
        line("single", "single"),
        line("single_1_epoch", "single", epochs=1),
        line("single_3_epochs", "single", epochs=3),
        *(line(f"finetune{k}", "finetune", k=k) for k in (2, 3, 5)),
        line("finetune3_1_epoch", "finetune", k=3, epochs=1),
        line("finetune3_3_epochs", "finetune", k=3, epochs=3),
        *(line(f"pretrain{k}", "pretrain", k=k) for k in (2, 3, 5)),
        *(line(f"heads{k}", "heads", k=k) for k in (2, 3, 5, 8, 10, 16)),
        AHMED,
        line("heads3_3_epochs", "heads", k=3, epochs=3),
        line("heads5_bootstrap", "heads", bootstrap=True),
        line("heads5_anchor", "heads", penalty="anchor", strength=1.0),
        line("heads5_l2", "heads", penalty="l2", strength=1.0),
        line("heads5_init_x10", "heads", init=10.0),
        line("heads5_mlp", "heads", mlp=64),
        line("frozen5_none", "heads", penalty="none", **fits),
        line("frozen5_l2", "heads", penalty="l2", strength=0.01, **fits),
        line("frozen5_l2_early", "heads", penalty="l2", strength=0.01, **{**fits, "epochs": 2}),
        line("frozen5_anchor", "heads", penalty="anchor", strength=0.01, **fits),
        line("frozen5_bootstrap", "heads", penalty="l2", strength=0.01, bootstrap=True, **fits),
        line("frozen5_anchor_bootstrap", "heads", penalty="anchor", strength=0.01, bootstrap=True, **fits),
        line("lora5", "lora"),
        ZHANG,  # lora5 is its control at equal data
        line("lora5_top", "lora", lora_layers=1),
        line("dropout5", "dropout"),
        line("laplace5", "laplace"),
        line("average5", "average"),
        line("average5_probed", "average", probed=True),
        line("mixed9", "mixed", parts=(("finetune", (("k", 5),)), ("pretrain", (("k", 5),)))),
        line("mixed15", "mixed", parts=(("finetune", (("k", 5),)), ("heads", ()), ("lora", ()))),
        line("grid25", "mixed", parts=grid),
    )  # fmt: skip
    return Recipe(
        name="constructions", labels=Labels(draws=5), pool=Pool(prompts=64, answers=2048), lines=lines
    )


def tiny_constructions() -> Recipe:
    """Seconds: one line a construction, two replicates. For tests."""
    lines = (
        line("single", "single"),
        line("finetune2", "finetune", k=2),
        line("pretrain2", "pretrain", k=2),
        line("heads2", "heads", k=2),
        line("lora2", "lora", k=2, rank=2),
        line("dropout2", "dropout", k=2),
        line("laplace2", "laplace", k=2),
        line("average2", "average", k=2),
        line("mixed3", "mixed", parts=(("finetune", (("k", 2),)), ("average", (("k", 2),)))),
    )
    small = dataclasses.replace(tiny(), name="tiny_constructions", lines=lines)
    return dataclasses.replace(small, labels=dataclasses.replace(small.labels, draws=2))


def ppo() -> Recipe:
    """PPO against the constructions that the papers optimise, at four prices of KL, on three of the replicates."""
    kept = {"single", "finetune5", "pretrain5", "heads5", "lora5"}
    r = constructions()
    lines = tuple(x for x in r.lines if x.name in kept)
    pressure = Pressure(long=(("single", "mean"), ("finetune5", "min"), ("heads5", "min")))
    labels = dataclasses.replace(r.labels, draws=3)
    return dataclasses.replace(r, name="ppo", lines=lines, labels=labels, pressure=pressure)


def tiny_ppo() -> Recipe:
    """Seconds: three steps a run. For tests."""
    r = tiny_constructions()
    lines = tuple(x for x in r.lines if x.name in {"single", "finetune2", "lora2"})
    quick = Ppo(steps=3, batch=8, minibatches=2, epochs=1, eval_every=2, missing_eos_penalty=2.5)
    pressure = Pressure(
        quick, ("mean", "min"), (0.0, 0.1), requests=4, answers=2, long=(("single", "mean"),), longer=2
    )
    return dataclasses.replace(r, name="tiny_ppo", lines=lines, pressure=pressure)


PRESETS = {
    "quick": quick,
    "full": full,
    "constructions": constructions,
    "ppo": ppo,
    "tiny": tiny,
    "tiny_constructions": tiny_constructions,
    "tiny_ppo": tiny_ppo,
}


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
