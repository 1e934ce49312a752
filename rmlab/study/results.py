"""From stored scores to tables: the measurements of a study, one schema for their rows.

To add a measurement, write a function `StudyScores -> DataFrame` in `rmlab/measure/` and give it a line in `MEASUREMENTS`.
Every table is led by study, recipe and seed, its rows are keyed by ids, and intervals are named `<column>_low` and
`<column>_high` (`low` and `high` those of the gain). What the intervals are made of is beside them, in `by_prompt.npz`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.fingerprint import Lookup
from rmlab.measure import (
    ceiling,
    choice_tables,
    compare,
    hacks,
    herding,
    law_tables,
    members,
    pool_curves,
    ppo_curves,
    promised,
    study_calibration,
    uncertainty,
    underspecification,
    watched_runs,
)
from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.ensembles import SINGLE, EnsembleResult, MemberScores, RunResult, StudyScores
from rmlab.optimise.pool import Pool
from rmlab.recipe import Recipe
from rmlab.reward.methods import members_of, parts_of
from rmlab.sources.base import Source, load_prompts
from rmlab.study.members import Instance, TrainedSpec, instances_of, trained_of

KEYS = ["study", "recipe", "seed"]
ALIGNED = "model/rmlab.json"  # of a member: the card of its saved model, `rmlab.reward.folder.CARD`


@dataclass(frozen=True)
class Measurement:
    """One line of the table: a function of scores, what it reads beside the members, and which recipes it is for.

    function : StudyScores -> a table, or tables by name; reads : "scores", "pool", "probes", "runs", "checks",
        "distances", "views"
    """

    function: Callable[[StudyScores], pd.DataFrame | dict[str, pd.DataFrame | ByPrompt]]
    reads: tuple[str, ...] = ("scores", "pool")
    applies: Callable[[Recipe], bool] = lambda recipe: True


def comparison(scores: StudyScores) -> dict[str, pd.DataFrame | ByPrompt]:
    """Every ensemble under every aggregator: curves, replicates, ends, comparisons, gold by prompt, and what was left out."""
    study = scores.recipe.ppo_study
    if study is None:
        curves, left_out = pool_curves.best_of_n_curves(scores)
        # of ensembles `by_prompt` has every replicate
        alone = [curve for curve in curves if curve.setting.ensemble == SINGLE]
        tables = {"curves": compare.curves(curves), "replicates": compare.replicates(alone)}
        tables |= {"left_out": left_out} if scores.recipe.matched else {}
    else:
        curves = ppo_curves.ppo_curves(scores)
        exact = pool_curves.exact_curves(scores, study.every_aggregator)
        tables = {"curves": pd.concat([compare.curves(curves), compare.curves(exact)], ignore_index=True)}
        tables |= {"replicates": ppo_curves.run_rows(scores), "answers": ppo_curves.answers(scores)}
    tables |= {"ends": compare.ends(curves), "comparisons": compare.comparisons(curves)}
    return {**tables, "by_prompt": ByPrompt.of(curves)}


def several_singles(recipe: Recipe) -> bool:
    """Whether a replicate holds several single models, which can be compared with each other."""
    return recipe.replicates.backbones * recipe.replicates.finetune > 1


def several_members(recipe: Recipe) -> bool:
    """Whether an ensemble has more than one member."""
    return any(members_of(e.method, dict(e.options)) > 1 for e in recipe.ensembles)


def several_alike(recipe: Recipe) -> bool:
    """Whether an ensemble has more than two members, all of them single models of the usual epochs."""
    parts = [parts_of(e.method, dict(e.options)) for e in recipe.ensembles]
    return any(
        len(singles) > 2 and not others and all(m.epochs is None for m in singles)
        for singles, others in parts
    )


MEASUREMENTS: Lookup[str, Measurement] = Lookup(
    comparison=Measurement(comparison, ("scores", "pool", "runs")),
    transfer=Measurement(underspecification.transfer, applies=several_singles),
    agreement=Measurement(underspecification.agreement, applies=several_singles),
    accuracy=Measurement(members.accuracy, ()),
    diversity=Measurement(members.diversity_of_ensembles),
    herding=Measurement(herding.herding, applies=several_members),
    ceiling=Measurement(ceiling.ceiling, applies=several_alike),
    hacks=Measurement(hacks.hacks, applies=lambda recipe: bool(recipe.source.bill)),
    calibration=Measurement(study_calibration.calibration, ()),
    promised=Measurement(promised.promised),
    costs=Measurement(members.cost_cards, ("scores",)),
    laws=Measurement(law_tables.law_tables, ("scores", "pool", "runs")),
    choices=Measurement(
        choice_tables.choice_tables, applies=lambda recipe: recipe.matched and recipe.ppo_study is None
    ),
    probes=Measurement(
        underspecification.probes,
        ("probes", "prompts"),
        lambda recipe: type(recipe.source).probes is not Source.probes,
    ),
    checks=Measurement(
        underspecification.checks, ("checks",), lambda recipe: bool(recipe.source.checking_ids)
    ),
    uncertainty=Measurement(
        uncertainty.uncertainty, ("scores", "pool", "distances"), uncertainty.is_measured
    ),
    detectors=Measurement(
        watched_runs.detectors,
        ("scores", "pool", "runs", "views"),
        lambda recipe: recipe.replicates.draws > 1,  # thresholds are other replicates'
    ),
)


@dataclass(frozen=True)
class Measure:
    """One measurement of a recipe's study."""

    name: str
    recipe: Recipe


def measure(out: Path, settings: Measure, members: list[Path], **folders: list[Path]) -> None:
    """Write a measurement's tables as CSV, five digits, led by study, recipe and seed, and its arrays as npz."""
    recipe = settings.recipe
    tables = MEASUREMENTS[settings.name].function(read_scores(recipe, members, **folders))
    if isinstance(tables, pd.DataFrame):
        tables = {settings.name: tables}
    for name, table in tables.items():
        if isinstance(table, ByPrompt):
            table.save(out / f"{name}.npz")
            continue
        for column, value in zip(reversed(KEYS), (recipe.seed, recipe.id, recipe.name), strict=True):
            table.insert(0, column, value)
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.5g", lineterminator="\n")


@dataclass(frozen=True)
class ExplorerSlice:
    """What the explorer shows of a recipe's study."""

    recipe: Recipe


def explorer_slice(
    out: Path,
    settings: ExplorerSlice,
    members: list[Path],
    scores: list[Path],
    pool: list[Path],
    prompts: list[Path],
) -> None:
    """Write `explorer.npz`, a compact pool of a typical replicate."""
    from rmlab.measure.explorer_slice import explorer_slice

    recipe = settings.recipe
    table = read_scores(recipe, members, scores=scores, pool=pool)
    answers = Pool.load([p / "pool.npz" for p in pool])
    texts = [x.text for folder in prompts for x in load_prompts(folder)]
    source = recipe.source
    words = [source.text([i]) for i in range(source.vocab_size)]
    explorer_slice(table, answers.ids, answers.lengths, answers.terms, source.bill, texts, words).save(
        out / "explorer.npz"
    )


def read_scores(
    recipe: Recipe,
    members: list[Path],
    scores: list[Path] = (),
    pool: list[Path] = (),
    probes: list[Path] = (),
    prompts: list[Path] = (),
    runs: list[Path] = (),
    checks: list[Path] = (),
    distances: list[Path] = (),
    views: list[Path] = (),
) -> StudyScores:
    """What stages wrote, as measurements read it: folders in the order of `trained_of(recipe)`; empty where not read."""
    specs = trained_of(recipe)
    folders = (list(x) or [None] * len(specs) for x in (scores, probes))
    listed = {s: _member(s, *f) for s, *f in zip(specs, members, *folders, strict=True)}
    answers = Pool.load([p / "pool.npz" for p in pool]) if pool else None
    probed = (
        recipe.source.probes([x for folder in prompts for x in load_prompts(folder)]) if prompts else None
    )
    return StudyScores(
        recipe,
        list(listed.values()),
        [_ensemble(instance, listed) for instance in instances_of(recipe)],
        gold=answers.gold if answers else None,
        ended=answers.ended if answers else None,
        probe_names=probed.names if probed else (),
        probe_labels=recipe.source.probe_labels if probed else {},
        probe_gold=probed.gold if probed else None,
        ppo_runs=_runs(runs, views),
        checks=[json.loads((folder / "checks.json").read_text()) for folder in checks],
        terms=answers.terms if answers else None,
        term_names=tuple(term["name"] for term in recipe.source.bill) if answers else (),
        distances=[dict(np.load(folder / "distances.npz")) for folder in distances],
        lengths=answers.lengths if answers else None,
    )


def _runs(runs: list[Path], views: list[Path]) -> list[RunResult]:
    """PPO runs, with every evaluated answer where others' views of them, one folder a run, are read too."""
    if not views:
        return [ppo_curves.read_run(folder) for folder in runs]
    return [
        replace(
            ppo_curves.read_run(run),
            record=_arrays(run / "evaluations.npz"),
            views=_arrays(view / "views.npz"),
        )
        for run, view in zip(runs, views, strict=True)
    ]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _member(spec: TrainedSpec, member: Path, scores: Path | None, probes: Path | None) -> MemberScores:
    card = json.loads((member / "member.json").read_text())
    cost, heads = card["cost"], member / "heads.npy"
    saved = json.loads((member / ALIGNED).read_text("utf-8"))
    if scores:
        spent = json.loads((scores / "cost.json").read_text())
        cost = {**cost, **spent, "peak_mb": max(cost["peak_mb"], spent["peak_mb"])}
    return MemberScores(
        spec.id,
        spec.method,
        spec.draw,
        spec.backbone,
        spec.finetune,
        card["facts"],
        cost,
        heldout=np.load(member / "heldout.npy"),
        pool=np.load(scores / "scores.npy") if scores else None,
        probes=np.load(probes / "probes.npy") if probes else None,
        heads=np.load(heads) if heads.is_file() else None,
        scale=np.array(saved["alignment"]["scale"]),
    )


def _ensemble(instance: Instance, listed: dict[TrainedSpec, MemberScores]) -> EnsembleResult:
    parts, rivals = (tuple(listed[spec] for spec in group) for group in (instance.parts, instance.rivals))
    spec = instance.spec
    return EnsembleResult(spec.name, spec.method, instance.replicate, instance.number, parts, rivals)
