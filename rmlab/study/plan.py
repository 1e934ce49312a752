"""From a recipe to its graph of tasks: which stage runs with which settings on which inputs.

`plan(recipe)` gives the last tasks: one a measurement of the recipe, and the explorer's slice. Everything that they need
hangs below them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rmlab.measure.detectors import outside_judges
from rmlab.recipe import Labels, Pretraining, Recipe, Size, Training, require
from rmlab.reward.aggregate import AGGREGATORS, usual_strength
from rmlab.reward.methods import METHODS, MemberSpec, members_of, singles_of
from rmlab.store import Task
from rmlab.study import stages
from rmlab.study.cost import model_units, relative_cost
from rmlab.study.distance_stage import ScoreDistances, score_distances
from rmlab.study.members import (
    SINGLE,
    Instance,
    TrainedSpec,
    backbone_number,
    instances_of,
    start_of,
    trained_of,
    validate_ensembles,
)
from rmlab.study.results import MEASUREMENTS, ExplorerSlice, Measure, explorer_slice, measure
from rmlab.study.run_scores import ScoreRun, score_run
from rmlab.study.text_source import TextSource
from rmlab.study.text_stages import (
    EncodePairs,
    LoadModel,
    encode_pairs,
    load_model,
    text_explorer,
    validate_text,
)

PROMPTS_A_PART = 8  # of the pool: a part is sampled in one task


@dataclass(frozen=True)
class SharedInputs:
    """What every member of a study stands on."""

    backbones: list[Task]  # by `backbone_number`
    policy: Task
    pairs: list[Task]  # one set a label draw
    heldout: Task
    prompts: list[Task]  # of the pool, part by part
    pool: list[Task]  # the same, answered and judged by gold


def plan(recipe: Recipe) -> dict[str, Task]:
    """The last tasks of a recipe by name: measurements, and "explorer" for a source of text or with a bill."""
    validate(recipe)
    shared = shared_inputs(recipe)
    specs = trained_of(recipe)
    trained = train_tasks(recipe, shared, specs)
    runs = _ppo_tasks(recipe, shared, trained) if recipe.ppo_study else []
    inputs = {
        "members": [trained[spec] for spec in specs],
        "pool": shared.pool,
        "prompts": shared.prompts,
        "scores": [_score_task(recipe, shared, spec, trained[spec]) for spec in specs],
        "probes": [_probe_task(recipe, shared, trained[spec]) for spec in specs],
        "checks": _check_tasks(recipe, shared),
        "distances": _distance_tasks(recipe, shared, trained),
        "runs": runs,
        "views": [_view_task(recipe, shared, trained, run) for run in runs],
    }
    last = {}
    for name, measurement in MEASUREMENTS.items():
        if measurement.applies(recipe):
            read = {group: inputs[group] for group in ("members", *measurement.reads)}
            code = (measurement.function, *_source_code(recipe, "bill"))
            last[name] = Task(measure, Measure(name, recipe), read, code=code, cost=len(specs) / 3)
    text = isinstance(recipe.source, TextSource)
    if text or recipe.source.bill:
        read = {group: inputs[group] for group in ("members", "scores", "pool", "prompts")}
        stage, code = (text_explorer, ("text",)) if text else (explorer_slice, ("bill",))
        last["explorer"] = Task(stage, ExplorerSlice(recipe), read, code=_source_code(recipe, *code), cost=10)
    return last


def validate(recipe: Recipe) -> None:
    """Raise a `ValueError` that names the field, the value and the mend, before anything runs."""
    recipe.validate()
    validate_ensembles(recipe)
    if isinstance(recipe.source, TextSource):
        validate_text(recipe)
    sizes = {e.name: members_of(e.method, dict(e.options)) for e in recipe.ensembles}
    require(
        sizes[SINGLE] == 1,
        f"members of ensemble {SINGLE}",
        sizes[SINGLE],
        "one: the others are compared with it",
    )
    several = [e.name for e in recipe.ensembles if e.method == "finetune" and sizes[e.name] > 1]
    ok = several or not recipe.matched or max(sizes.values()) == 1
    require(
        ok,
        "matched",
        True,
        "an ensemble of finetuning seeds whose penalty the others are matched to, or False",
    )
    study = recipe.ppo_study
    for field, names in {
        "aggregators": recipe.aggregators,
        "ppo_study.aggregators": (*study.aggregators, *(a for _, a in (*study.long, *study.runs)))
        if study
        else (),
    }.items():
        for name in names:
            require(name in AGGREGATORS, field, name, f"one of {', '.join(AGGREGATORS)}")


def shared_inputs(recipe: Recipe) -> SharedInputs:
    """Backbones, policy, pairs and pool of a recipe: trained on the source's documents, or of text."""
    text = isinstance(recipe.source, TextSource)
    policy, backbones, draws, heldout = (_text_inputs if text else _trained_inputs)(recipe)
    prompts, pool, size = [], [], recipe.pool
    for start in range(0, size.prompts, PROMPTS_A_PART):
        drawn_prompts = _prompts_task(recipe, ("pool",), min(PROMPTS_A_PART, size.prompts - start), start)
        answers = _answers_task(recipe, policy, drawn_prompts, size.answers, ("pool", start))
        settings = stages.ScoreGold(recipe.source)
        read = {"answers": answers, "prompts": drawn_prompts}
        pool.append(
            Task(stages.score_gold, settings, read, code=_source_code(recipe, "gold", "gold_terms"), cost=1)
        )
        prompts.append(drawn_prompts)
    return SharedInputs(backbones, policy, draws, heldout, prompts, pool)


def _trained_inputs(recipe: Recipe) -> tuple[Task, list[Task], list[Task], Task]:
    """Policy, backbones, pairs of every draw and held-out pairs, all made from what the source writes."""
    count = recipe.replicates.draws * recipe.replicates.backbones
    first = _backbone_task(recipe, recipe.policy_size, 0)
    backbones = [_backbone_task(recipe, recipe.size, i + 1) for i in range(count)]
    settings = stages.Tune(recipe.source, recipe.tuning, recipe.seed)
    code = _source_code(recipe, "documents")
    policy = Task(stages.tune, settings, {"backbone": first}, code=code, cost=recipe.tuning.steps * 0.04)
    draws = [
        _pairs_task(recipe, policy, f"draw{i}", recipe.labels.pairs, recipe.labels)
        for i in range(recipe.replicates.draws)
    ]
    clean = replace(recipe.labels, temperature=0.0, flips=0.0)
    return policy, backbones, draws, _pairs_task(recipe, policy, "heldout", recipe.labels.heldout, clean)


def _text_inputs(recipe: Recipe) -> tuple[Task, list[Task], list[Task], Task]:
    """The same of a text source: models from their folders, pairs from the file."""
    source, labels, code = recipe.source, recipe.labels, _source_code(recipe, "parts", "format")
    contents = dict(source.contents)
    policy = Task(load_model, LoadModel(source.policy, contents[source.policy]), cost=10)
    backbones = [
        Task(load_model, LoadModel(name, contents[name]), {"policy": policy}, cost=10)
        for name in source.backbones
    ]

    def pairs(name: str, count: int, flips: float) -> Task:
        settings = EncodePairs(source.for_evaluation, name, count, flips, recipe.seed)
        return Task(encode_pairs, settings, code=code, cost=5)

    draws = [pairs(f"draw{i}", labels.pairs, labels.flips) for i in range(recipe.replicates.draws)]
    return policy, backbones, draws, pairs("heldout", labels.heldout, 0.0)


def train_tasks(
    recipe: Recipe, shared: SharedInputs, specs: Iterable[TrainedSpec]
) -> dict[TrainedSpec, Task]:
    """The tasks that train scorers, and the single models that these are made of; each once."""
    tasks: dict[TrainedSpec, Task] = {}
    for spec in specs:
        _train_task(recipe, shared, spec, tasks)
    return tasks


def _train_task(
    recipe: Recipe, shared: SharedInputs, spec: TrainedSpec, tasks: dict[TrainedSpec, Task]
) -> Task:
    if spec in tasks:
        return tasks[spec]
    members = () if spec.method == SINGLE else tuple(singles_of(spec.method, dict(spec.options)))
    singles = [_train_task(recipe, shared, single, tasks) for single in start_of(recipe, spec)]
    backbone = shared.backbones[backbone_number(recipe, spec.draw, spec.backbone)]
    tasks[spec] = _member_task(recipe, spec, backbone, shared, members, singles)
    return tasks[spec]


def _member_task(
    recipe: Recipe,
    spec: TrainedSpec,
    backbone: Task,
    shared: SharedInputs,
    members: tuple[MemberSpec, ...] = (),
    singles: list[Task] | None = None,
) -> Task:
    text = isinstance(recipe.source, TextSource)
    settings = stages.TrainMember(
        spec.method,
        spec.options,
        recipe.training if text else at_size(recipe.training, recipe.size),
        spec.draw,
        (backbone_number(recipe, spec.draw, spec.backbone),),
        spec.finetune,
        recipe.seed,
        members,
    )
    read = {
        "backbones": [backbone],
        "pairs": shared.pairs[spec.draw],
        "heldout": shared.heldout,
        "singles": singles or [],
    }
    train, _ = relative_cost(recipe, spec.method, dict(spec.options))
    cost = model_units(recipe.size) * train * recipe.labels.pairs * recipe.training.epochs / 900
    return Task(stages.train_member, settings, read, code=(training_code(spec.method),), cost=cost)


def at_size(settings: Pretraining | Training, size: Size) -> Pretraining | Training:
    """The same settings with AdamW's rate, which is that of a hidden size of 64, lower for what is wider than that."""
    return replace(settings, lr=settings.lr * min(1.0, 64 / size.hidden))


def training_code(method: str) -> str:
    """The function that trains a scorer, as a key names it: of a single model, or of the method's module."""
    return "rmlab.reward.single:train_member" if method == SINGLE else f"{METHODS[method].module}:train"


def _score_task(recipe: Recipe, shared: SharedInputs, spec: TrainedSpec, member: Task) -> Task:
    _, score = relative_cost(recipe, spec.method, dict(spec.options))
    cost = model_units(recipe.size) * score * recipe.pool.prompts * recipe.pool.answers / 9000
    read = {"member": member, "pool": shared.pool, "prompts": shared.prompts}
    return Task(stages.score_pool, stages.ScorePool(), read, cost=cost)


def _probe_task(recipe: Recipe, shared: SharedInputs, member: Task) -> Task:
    settings, read = stages.ScoreProbes(recipe.source), {"member": member, "prompts": shared.prompts}
    return Task(stages.score_probes, settings, read, code=_source_code(recipe, "probes"), cost=1)


def _backbone_task(recipe: Recipe, size: Size, index: int) -> Task:
    sight = recipe.pretraining.sight if index > 0 else 0.0  # the policy, number 0, copies and checks nothing
    pretraining = replace(at_size(recipe.pretraining, size), sight=sight)
    settings = stages.Pretrain(recipe.source, size, pretraining, recipe.seed, index)
    steps = pretraining.record_steps + pretraining.answer_steps
    code = _source_code(recipe, "documents")
    return Task(stages.pretrain, settings, code=code, cost=steps * 0.04 * model_units(size))


def _prompts_task(recipe: Recipe, purpose: tuple[str, ...], count: int, start: int = 0) -> Task:
    settings = stages.DrawPrompts(recipe.source.for_evaluation, recipe.seed, purpose, count, start)
    return Task(stages.draw_prompts, settings, code=_source_code(recipe, "prompts"), cost=0.2)


def _answers_task(
    recipe: Recipe, policy: Task, prompts: Task, answers: int, purpose: tuple[object, ...]
) -> Task:
    settings = stages.SampleAnswers(answers, recipe.source.max_new_tokens, recipe.seed, purpose)
    cost = answers * prompts.settings.count / 2500
    return Task(stages.sample_answers, settings, {"policy": policy, "prompts": prompts}, cost=cost)


def _pairs_task(recipe: Recipe, policy: Task, name: str, count: int, labels: Labels) -> Task:
    prompts = _prompts_task(recipe, ("pairs", name), count)
    answers = _answers_task(recipe, policy, prompts, 2, ("pairs", name))
    settings = stages.Label(recipe.source, name, labels.temperature, labels.flips, recipe.seed)
    read = {"answers": answers, "prompts": prompts}
    return Task(
        stages.label, settings, read, code=_source_code(recipe, "gold", "gold_terms"), cost=count / 2000
    )


def _check_tasks(recipe: Recipe, shared: SharedInputs) -> list[Task]:
    """How well each backbone counts facts, of a source that can say."""
    if not recipe.source.checking_ids:
        return []
    settings, code = stages.ReadChecks(recipe.source, recipe.seed), _source_code(recipe, "unchecked_answers")
    return [Task(stages.read_checks, settings, {"backbone": b}, code=code, cost=1) for b in shared.backbones]


def _distance_tasks(recipe: Recipe, shared: SharedInputs, trained: dict[TrainedSpec, Task]) -> list[Task]:
    """How far the pool is from the training answers of each replicate's first single model, where that is measured."""
    if not MEASUREMENTS["uncertainty"].applies(recipe):
        return []
    first = [i for i in instances_of(recipe) if i.spec.name == SINGLE and i.number == 0]
    cost = 2 + model_units(recipe.size) * recipe.pool.prompts * recipe.pool.answers / 9000
    out = []
    for instance in first:
        read = {"member": trained[instance.parts[0]], "pairs": shared.pairs[instance.replicate]}
        read |= {"pool": shared.pool, "prompts": shared.prompts}
        settings = ScoreDistances(recipe.seed, instance.replicate)
        out.append(Task(score_distances, settings, read, cost=cost))
    return out


def _ppo_tasks(recipe: Recipe, shared: SharedInputs, trained: dict[TrainedSpec, Task]) -> list[Task]:
    """One run an ensemble, replicate, aggregator and KL penalty, and the long ones; of the single model `rivals` runs."""
    study, out = recipe.ppo_study, []
    prompts = _prompts_task(recipe, ("pressure", "watched"), study.prompts)
    for instance in instances_of(recipe):
        if instance.number >= (study.rivals if instance.spec.name == SINGLE else 1):
            continue
        k = sum(members_of(p.method, dict(p.options)) for p in instance.parts)
        rules = study.rules_of(instance.spec.name, k)
        runs = [(rule, kl_coef, 1) for rule in rules for kl_coef in study.kl_coefs]
        runs += [
            (rule, 0.0, study.step_multiplier) for name, rule in study.long if name == instance.spec.name
        ]
        out += [_ppo_task(recipe, shared, prompts, instance, k, trained, *run) for run in runs]
    return out


def _ppo_task(
    recipe: Recipe,
    shared: SharedInputs,
    prompts: Task,
    instance: Instance,
    k: int,
    trained: dict[TrainedSpec, Task],
    aggregator: str,
    kl_coef: float,
    step_multiplier: int,
) -> Task:
    study, spec = recipe.ppo_study, instance.spec
    ppo = replace(study.ppo, kl_coef=kl_coef, steps=study.ppo.steps * step_multiplier)
    keys = {"ensemble": spec.name, "method": spec.method, "k": k, "aggregator": aggregator}
    keys |= {"kl_coef": kl_coef, "step_multiplier": step_multiplier}
    keys |= {"number": instance.number} if instance.number else {}
    settings = stages.PpoRun(
        recipe.source.for_training,
        ppo,
        aggregator,
        usual_strength(aggregator),
        instance.replicate,
        study.answers,
        recipe.seed,
        tuple(keys.items()),
    )
    read = {
        "policy": shared.policy,
        "reward_models": [trained[p] for p in instance.parts],
        "prompts": prompts,
    }
    cost = model_units(recipe.size) * ppo.steps * ppo.batch / 200 * (1 + len(instance.parts) / 8)
    gold = ("gold_terms", "bill") if recipe.source.bill else ("gold", "special", "text")
    code = _source_code(recipe, "prompts", *gold)
    return Task(stages.ppo_run, settings, read, code=code, cost=cost)


def _view_task(recipe: Recipe, shared: SharedInputs, trained: dict[TrainedSpec, Task], run: Task) -> Task:
    """What single models of its replicate that a run was not optimised against, and distances, say of its answers."""
    optimised, draw = run.inputs["reward_models"], run.settings.replicate
    parts = [spec for spec, task in trained.items() if task in optimised]
    parts += [single for spec in list(parts) for single in start_of(recipe, spec)]
    singles = [s for s in trained if s.method == SINGLE and s.draw == draw and not s.options]
    judges = outside_judges(parts, singles)
    read = {
        "run": run,
        "reward_model": optimised[0],
        "judges": [trained[s] for s in judges],
        "pairs": shared.pairs[draw],
        "prompts": run.inputs["prompts"],
    }
    settings = ScoreRun(recipe.ppo_study.answers, tuple(s.id for s in judges))
    return Task(score_run, settings, read, cost=run.cost / 20)


def _source_code(recipe: Recipe, *names: str) -> tuple:
    """The source's methods that decide a stage's bytes."""
    found = (getattr(type(recipe.source), name) for name in names)
    return tuple(m.fget if isinstance(m, property) else m for m in found)
