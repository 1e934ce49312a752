"""Ready recipes, each a plain function: what ships, what runs in minutes, what tests run.

Each is about the sandbox; another source goes in with `dataclasses.replace(quick(), source=...)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rmlab.fingerprint import Lookup
from rmlab.recipe import (
    EnsembleSpec,
    Labels,
    PoolSize,
    Ppo,
    PpoStudy,
    Pretraining,
    Recipe,
    Replicates,
    Size,
    Training,
    Tuning,
    ensemble,
)
from rmlab.sources.sandbox.source import Sandbox
from rmlab.study.sweep import Axis, Study, Sweep

EVERY = ("mean", "median", "min", "max", "mean_std", "uwo", "quantile", "entropic")

AHMED = ensemble(
    "heads3_1_epoch", "heads", k=3, epochs=1
)  # 2406.01013: three heads, one epoch; aggregated with min
ZHANG = ensemble(
    "lora5_two_stage", "lora", k=5, stage1=0.5
)  # 2401.16635: encoder and heads on one half, adapters on the other


def quick() -> Recipe:
    """Minutes on two cores, where judges read facts: one replicate, three pretraining x three finetuning seeds, 32 prompts."""
    recipe = Recipe(
        name="quick",
        source=Sandbox(),
        replicates=Replicates(draws=1, backbones=3, finetune=3),
        pool=PoolSize(prompts=32, answers=2048),
        ensembles=_seeds(3, 3, (3,)),
        aggregators=EVERY,
    )
    return sighted(recipe)


def tiny() -> Recipe:
    """Seconds: every step is real and nothing is learnt. For tests and for trying things out."""
    return Recipe(
        name="tiny",
        source=Sandbox(),
        size=Size(hidden=16, layers=1, heads=2, ff=32),
        policy_size=Size(hidden=16, layers=1, heads=2, ff=32),
        pretraining=Pretraining(record_steps=8, answer_steps=8, batch=8),
        tuning=Tuning(steps=8, batch=8),
        labels=Labels(pairs=32, heldout=16),
        training=Training(epochs=1, batch=8),
        replicates=Replicates(draws=1, backbones=2, finetune=2),
        pool=PoolSize(prompts=3, answers=32),
        ensembles=_seeds(2, 2, (2,)),
        aggregators=EVERY,
    )


def constructions() -> Recipe:
    """Every method, on the same pairs and pool: five replicates, each a label draw with five backbones of its own."""
    fits = {"frozen": True, "epochs": 200, "rate": 10.0}  # on cached features, until they have settled
    grid = tuple(("finetune", (("backbone", b), ("k", 5))) for b in range(5))
    ensembles = (
        ensemble("single", "single"),
        ensemble("single_1_epoch", "single", epochs=1),
        ensemble("single_3_epochs", "single", epochs=3),
        *(ensemble(f"finetune{k}", "finetune", k=k) for k in (2, 3, 5)),
        ensemble("finetune3_1_epoch", "finetune", k=3, epochs=1),
        ensemble("finetune3_3_epochs", "finetune", k=3, epochs=3),
        *(ensemble(f"pretrain{k}", "pretrain", k=k) for k in (2, 3, 5)),
        *(ensemble(f"heads{k}", "heads", k=k) for k in (2, 3, 5, 8, 10, 16)),
        AHMED,
        ensemble("heads3_3_epochs", "heads", k=3, epochs=3),
        ensemble("heads5_bootstrap", "heads", bootstrap=True),
        ensemble("heads5_anchor", "heads", penalty="anchor", strength=1.0),
        ensemble("heads5_l2", "heads", penalty="l2", strength=1.0),
        ensemble("heads5_init_x10", "heads", init=10.0),
        ensemble("heads5_mlp", "heads", mlp=64),
        ensemble("frozen5_none", "heads", penalty="none", **fits),
        ensemble("frozen5_l2", "heads", penalty="l2", strength=0.01, **fits),
        ensemble("frozen5_l2_early", "heads", penalty="l2", strength=0.01, **{**fits, "epochs": 2}),
        ensemble("frozen5_anchor", "heads", penalty="anchor", strength=0.01, **fits),
        ensemble("frozen5_bootstrap", "heads", penalty="l2", strength=0.01, bootstrap=True, **fits),
        ensemble(
            "frozen5_anchor_bootstrap", "heads", penalty="anchor", strength=0.01, bootstrap=True, **fits
        ),
        ensemble("lora5", "lora"),
        ZHANG,  # lora5 is its control at equal data
        ensemble("lora5_top", "lora", lora_layers=1),
        ensemble("dropout5", "dropout"),
        ensemble("laplace5", "laplace"),
        ensemble("average5", "average"),
        ensemble("average5_probed", "average", probed=True),
        ensemble("mixed9", "mixed", parts=(("finetune", (("k", 5),)), ("pretrain", (("k", 5),)))),
        ensemble("mixed15", "mixed", parts=(("finetune", (("k", 5),)), ("heads", ()), ("lora", ()))),
        ensemble("grid25", "mixed", parts=grid),
    )
    return Recipe(
        name="constructions",
        source=Sandbox(),
        replicates=Replicates(draws=5, backbones=5),
        pool=PoolSize(prompts=64, answers=2048),
        ensembles=ensembles,
        matched=True,
    )


def tiny_constructions() -> Recipe:
    """Seconds: an ensemble a method, two replicates. For tests."""
    ensembles = (
        ensemble("single", "single"),
        ensemble("finetune2", "finetune", k=2),
        ensemble("pretrain2", "pretrain", k=2),
        ensemble("heads2", "heads", k=2),
        ensemble("lora2", "lora", k=2, rank=2),
        ensemble("dropout2", "dropout", k=2),
        ensemble("laplace2", "laplace", k=2),
        ensemble("average2", "average", k=2),
        ensemble("mixed3", "mixed", parts=(("finetune", (("k", 2),)), ("average", (("k", 2),)))),
    )
    return dataclasses.replace(
        tiny(),
        name="tiny_constructions",
        ensembles=ensembles,
        replicates=Replicates(draws=2, backbones=2, finetune=2),
        aggregators=constructions().aggregators,
        matched=True,
    )


def best_of_n() -> Recipe:
    """The primary comparisons where judges are blind to facts: ten replicates of a 5 x 3 grid and what is made on it."""
    grid = tuple(("finetune", (("backbone", b), ("k", 3))) for b in range(5))
    ensembles = (
        ensemble("single", "single"),
        ensemble("finetune3", "finetune", homes=0, k=3),
        ensemble("finetune5", "finetune", k=5),
        *(ensemble(f"pretrain{k}", "pretrain", k=k) for k in (3, 5)),
        *(ensemble(f"heads{k}", "heads", k=k) for k in (3, 5)),
        ensemble("lora5", "lora"),
        ensemble("dropout5", "dropout"),
        ensemble("laplace5", "laplace"),
        ensemble("grid15", "mixed", parts=grid),
    )
    recipe = Recipe(
        name="best_of_n",
        source=Sandbox(),
        replicates=Replicates(draws=10, backbones=5, finetune=3),
        pool=PoolSize(prompts=64, answers=2048),
        ensembles=ensembles,
        aggregators=("mean", "min", "mean_std"),
        matched=True,
    )
    return blind(recipe)


def best_of_n_sighted() -> Recipe:
    """The same where judges read facts, with twenty replicates: ten left three primary claims within reach, undecided."""
    recipe = dataclasses.replace(sighted(best_of_n()), name="best_of_n_sighted")
    return dataclasses.replace(recipe, replicates=dataclasses.replace(recipe.replicates, draws=20))


def methods() -> Recipe:
    """Every other way to make an ensemble, where judges read facts: five replicates, descriptive."""
    return dataclasses.replace(sighted(constructions()), name="methods")


def ppo() -> Recipe:
    """PPO against the methods that the papers optimise, where judges read facts: ten replicates, two KL penalties."""
    recipe = sighted(best_of_n())
    runs = (
        ("finetune5", "min"),
        ("finetune5", "mean"),
        *((e, "min") for e in ("pretrain5", "heads5", "lora5")),
    )
    names = {"single", "finetune5", "pretrain5", "heads5", "lora5"}
    study = PpoStudy(kl_coefs=(0.05, 0.1), rivals=3, runs=runs)
    return dataclasses.replace(recipe, name="ppo", ensembles=_named(recipe, names), ppo_study=study)


def ppo_free() -> Recipe:
    """PPO without a KL penalty, and four times as long: the phenomenon, on three replicates and without a ranking."""
    recipe = ppo()
    runs = (("finetune5", "min"), ("heads5", "min"))
    study = PpoStudy(kl_coefs=(0.0,), runs=runs, long=(("single", "mean"), *runs))
    replicates = dataclasses.replace(recipe.replicates, draws=3)
    kept = _named(recipe, {"single", "finetune5", "heads5"})
    return dataclasses.replace(
        recipe, name="ppo_free", ensembles=kept, ppo_study=study, replicates=replicates
    )


def blind(recipe: Recipe) -> Recipe:
    """The regime whose judges cannot read facts: what they share is what they cannot see. Labels as LOG.md's rule chose."""
    return _regime(recipe, sight=0.0, pairs=2000, flips=0.4)


def sighted(recipe: Recipe) -> Recipe:
    """The regime whose judges read facts, and err each in its own way. Labels as LOG.md's rule chose."""
    return _regime(recipe, sight=1.0, pairs=1000, flips=0.25)


def tiny_ppo() -> Recipe:
    """Seconds: three steps a run. For tests."""
    recipe = tiny_constructions()
    steps = Ppo(steps=3, batch=8, minibatches=2, epochs=1, eval_every=2, missing_eos_penalty=2.5)
    study = PpoStudy(
        steps,
        ("mean", "min"),
        (0.0, 0.1),
        prompts=4,
        answers=2,
        long=(("single", "mean"),),
        step_multiplier=2,
    )
    kept = _named(recipe, {"single", "finetune2", "lora2"})
    return dataclasses.replace(recipe, name="tiny_ppo", ensembles=kept, ppo_study=study)


def sweeps() -> Sweep:
    """What changes with labels, sight, size, training and members, a setting at a time, where judges read facts."""
    base = dataclasses.replace(
        sighted(best_of_n()),
        ensembles=(
            ensemble("single", "single"),
            ensemble("finetune3", "finetune", k=3),
            ensemble("heads3", "heads", k=3),
        ),
        aggregators=("mean", "min"),
        matched=False,
        replicates=Replicates(draws=5, backbones=1, finetune=3),
        pool=PoolSize(prompts=32, answers=1024),
    )
    sizes = (Size(hidden=32, layers=1, heads=2, ff=96), Size(), Size(hidden=128, layers=3, heads=4, ff=384))
    members = (
        *base.ensembles,
        *(ensemble(f"finetune{k}", "finetune", k=k) for k in (2, 4, 5, 6, 8, 10)),
        *(ensemble(f"heads{k}", "heads", k=k) for k in (1, 2, 5, 8, 16)),
    )
    axes = (
        Axis("label flips", "labels.flips", (0.0, 0.1, 0.25, 0.4)),
        Axis("pairs", "labels.pairs", (500, 1000, 2000, 8000)),
        Axis("label temperature", "labels.temperature", (0.0, 0.5, 2.0)),
        Axis("style tells quality", "source.style_quality", (0.0, 0.5, 1.0)),
        Axis("sight", "pretraining.sight", (0.0, 0.1875, 0.25, 0.5, 1.0)),
        Axis("size", "size", sizes),
        Axis("epochs", "training.epochs", (1, 2, 4)),
        Axis("members", "ensembles", (members,)),
    )
    return Sweep("sweeps", base, axes)


def tiny_sweeps() -> Sweep:
    """Seconds: two axes that meet in one recipe. For tests."""
    base = dataclasses.replace(
        tiny(),
        ensembles=(ensemble("single", "single"), ensemble("finetune2", "finetune", k=2)),
        aggregators=("mean", "min"),
        replicates=Replicates(draws=2, backbones=1, finetune=2),
    )
    axes = (Axis("flips", "labels.flips", (0.0, 0.25)), Axis("pairs", "labels.pairs", (32, 40)))
    return Sweep("tiny_sweeps", base, axes)


PRESETS: Lookup[str, Callable[[], Study]] = Lookup(
    quick=quick,
    constructions=constructions,
    best_of_n=best_of_n,
    best_of_n_sighted=best_of_n_sighted,
    methods=methods,
    ppo=ppo,
    ppo_free=ppo_free,
    sweeps=sweeps,
    tiny=tiny,
    tiny_constructions=tiny_constructions,
    tiny_ppo=tiny_ppo,
    tiny_sweeps=tiny_sweeps,
)
SHIPPED = ("best_of_n", "best_of_n_sighted", "constructions", "ppo")  # presets whose rows are in data/


def _seeds(k: int, backbones: int, heads: tuple[int, ...]) -> tuple[EnsembleSpec, ...]:
    """Finetuning and pretraining seeds at equal size, and every pretraining seed; whatever has a home on every backbone."""
    pretrain = sorted({k, backbones})
    return (
        ensemble("single", "single"),
        ensemble(f"finetune{k}", "finetune", homes=0, k=k),
        *(ensemble(f"heads{h}", "heads", homes=0, k=h) for h in heads),
        *(ensemble(f"pretrain{p}", "pretrain", k=p) for p in pretrain),
    )


def _regime(recipe: Recipe, sight: float, pairs: int, flips: float) -> Recipe:
    labels = dataclasses.replace(recipe.labels, pairs=pairs, flips=flips)
    return dataclasses.replace(
        recipe, labels=labels, pretraining=dataclasses.replace(recipe.pretraining, sight=sight)
    )


def _named(recipe: Recipe, names: set[str]) -> tuple[EnsembleSpec, ...]:
    return tuple(e for e in recipe.ensembles if e.name in names)
