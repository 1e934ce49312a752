"""The stages of a study, each a function of typed settings and input folders that writes files into the folder `out`.

A stage does one thing. It runs in a process of its own; what decides its bytes is its settings, its inputs and its code.
In the order of the flow: draw_prompts, pretrain, read_checks, tune, sample_answers, label, score_gold, train_member, score_pool,
score_probes, ppo_run; what others say of a run's answers is in `run_scores.py`. What is measured on their results is in `results.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmlab.recipe import Ppo, Pretraining, Size, Training, Tuning, stream, stream_seed
from rmlab.reward.methods import MemberSpec
from rmlab.sources.base import Source, load_prompts, save_prompts


@dataclass(frozen=True)
class DrawPrompts:
    """`count` prompts of a source from number `start` on, of the stream named by (seed, purpose)."""

    source: Source
    seed: int
    purpose: tuple[str, ...]
    count: int
    start: int = 0


def draw_prompts(out: Path, settings: DrawPrompts) -> None:
    """Write `prompts.jsonl`; the first prompts of a stream do not depend on how many are drawn."""
    rng = stream(settings.seed, *settings.purpose)
    save_prompts(out, settings.source.prompts(settings.start + settings.count, rng)[settings.start :])


@dataclass(frozen=True)
class Pretrain:
    """Backbone number `index`: a pretraining seed."""

    source: Source
    size: Size
    pretraining: Pretraining
    seed: int
    index: int


def pretrain(out: Path, settings: Pretrain) -> None:
    """Write a language model's Hugging Face folder, pretrained from scratch."""
    from rmlab import backbone

    s = settings
    backbone.pretrain(s.source, s.size, s.pretraining, s.seed, s.index).save_pretrained(out)


@dataclass(frozen=True)
class ReadChecks:
    """How well a backbone counts the right and the wrong facts of `rows` answers that nobody checked."""

    source: Source
    seed: int
    rows: int = 1000


def read_checks(out: Path, settings: ReadChecks, backbone: Path) -> None:
    """Write `checks.json`: the share of rows whose count of right and of wrong values is the model's first guess, and the
    share that the commonest count has.
    """
    from rmlab.backbone import load, next_token_shares

    s = settings
    rows, counts = s.source.unchecked_answers(s.rows, stream(s.seed, "checks"))
    group = s.source.checking_ids[-1]
    side = round(len(group) ** 0.5)
    shares = next_token_shares(load(backbone), rows, group, s.source.special.pad).reshape(-1, side, side)
    found = {}
    for name, column, other in (("right", 0, 2), ("wrong", 1, 1)):
        guess = shares.sum(other).argmax(1).numpy()
        found[name] = float((guess == counts[:, column]).mean())
        found[f"{name}_commonest"] = float(np.bincount(counts[:, column]).max() / len(counts))
    (out / "checks.json").write_text(json.dumps(found))


@dataclass(frozen=True)
class Tune:
    """The policy, from a backbone of its own."""

    source: Source
    tuning: Tuning
    seed: int


def tune(out: Path, settings: Tune, backbone: Path) -> None:
    """Write the policy's Hugging Face folder."""
    from rmlab.backbone import load
    from rmlab.backbone import tune as tune_model

    model = load(backbone)
    tune_model(model, settings.source, settings.tuning, settings.seed).save_pretrained(out)


@dataclass(frozen=True)
class SampleAnswers:
    """`answers` sampled answers to every prompt, from the stream named by (seed, purpose)."""

    answers: int
    max_new_tokens: int
    seed: int
    purpose: tuple[object, ...]


def sample_answers(out: Path, settings: SampleAnswers, policy: Path, prompts: Path) -> None:
    """Write `pool.npz`: the policy's answers, not yet judged."""
    from rmlab.backbone import load
    from rmlab.optimise.pool import sample_pool

    s = settings
    model, own = load(policy), stream_seed(s.seed, *s.purpose)
    sample_pool(model, load_prompts(prompts), s.answers, s.max_new_tokens, own).save(out / "pool.npz")


@dataclass(frozen=True)
class Label:
    """Preference pairs from two answers a prompt: gold's order, spoilt as `Labels` says; `name` begins the pairs' ids."""

    source: Source
    name: str
    temperature: float
    flips: float
    seed: int


def label(out: Path, settings: Label, answers: Path, prompts: Path) -> None:
    """Write `pairs.npz`: prompts, chosen and rejected answers as ids, without pairs that gold cannot tell apart."""
    from rmlab.noise import label_pairs
    from rmlab.optimise.pool import Pool
    from rmlab.reward.training import PairIds

    s, listed = settings, load_prompts(prompts)
    pool = Pool.load([answers / "pool.npz"]).with_gold(s.source, listed)
    ids = [f"{s.name}-{i}" for i in range(len(listed))]
    first, keep, _ = label_pairs(pool.gold, ids, s.flips, s.temperature, s.seed)
    rows = [
        [pool.ids[i, side, : pool.lengths[i, side]].tolist() for side in (0, 1)] for i in range(len(listed))
    ]
    kept = np.flatnonzero(keep)
    chosen, rejected = ([rows[i][side if first[i] else 1 - side] for i in kept] for side in (0, 1))
    PairIds([list(listed[i].ids) for i in kept], chosen, rejected).save(out)


@dataclass(frozen=True)
class ScoreGold:
    """Gold of a pool's answers."""

    source: Source


def score_gold(out: Path, settings: ScoreGold, answers: Path, prompts: Path) -> None:
    """Write `pool.npz` again, with gold and the counts of its terms."""
    from rmlab.optimise.pool import Pool

    pool = Pool.load([answers / "pool.npz"])
    pool.with_gold(settings.source, load_prompts(prompts)).save(out / "pool.npz")


@dataclass(frozen=True)
class TrainMember:
    """One scorer: a method with its options on a label draw; `backbones` are numbers of the input folders, home first.

    singles : which single models the inputs of that name are, counted from home as the method does
    """

    method: str
    options: tuple[tuple[str, object], ...]
    training: Training
    draw: int
    backbones: tuple[int, ...]
    finetune: int
    seed: int
    singles: tuple[MemberSpec, ...] = ()


def train_member(
    out: Path, settings: TrainMember, backbones: list[Path], pairs: Path, heldout: Path, singles: list[Path]
) -> None:
    """Train one scorer, align it on the answers of the held-out pairs and save it.

    Writes `model/`, `heldout.npy` (M, 2, K) aligned scores, `heads.npy` (K, D) where members are linear heads on one
    encoder, and `member.json`: sizes, and what it cost, with what its single models had cost.
    """
    from rmlab.backbone import device_of, load
    from rmlab.reward.ensemble import load as load_ensemble
    from rmlab.reward.methods import TrainingInputs, train_ensemble
    from rmlab.reward.model import RewardModel
    from rmlab.reward.single import train_member as train_single
    from rmlab.reward.training import PairIds, raw_score_pairs, score_pairs
    from rmlab.study.cost import Meter

    s, device = settings, device_of()
    trained = {
        spec: load_ensemble(f / "model").to(device) for spec, f in zip(s.singles, singles, strict=True)
    }
    data = PairIds.load(pairs)
    models = [load(b) for b in backbones]
    inputs = TrainingInputs(models, data, s.training, s.seed, s.draw, s.backbones, trained=trained)
    with Meter() as meter:
        if s.method == "single":
            ensemble = train_single(inputs, MemberSpec(0, s.finetune, dict(s.options).get("epochs")))
        else:
            ensemble = train_ensemble(s.method, inputs, **dict(s.options))
    reference = PairIds.load(heldout)
    ensemble.align(raw_score_pairs(ensemble, reference).reshape(-1, ensemble.members))
    ensemble.save(out / "model")
    np.save(out / "heldout.npy", score_pairs(ensemble, reference))
    if isinstance(ensemble, RewardModel) and ensemble.mlp is None:
        np.save(out / "heads.npy", ensemble.model.score.weight.detach().cpu().numpy())
    before = sum(json.loads((f / "member.json").read_text())["cost"]["train_seconds"] for f in singles)
    parameters, config = ensemble.parameter_count(), models[0].config
    cost = {"parameters": parameters, "trained_parameters": parameters - ensemble.untrained}
    cost |= {"train_seconds": meter.seconds + before, "peak_mb": meter.peak_mb}
    facts = {"hidden": config.hidden_size, "layers": config.num_hidden_layers, "parameters": parameters}
    (out / "member.json").write_text(json.dumps({"facts": {**facts, "pairs": len(data)}, "cost": cost}))


@dataclass(frozen=True)
class ScorePool:
    """A trained scorer on the pool: nothing to set."""


def score_pool(out: Path, settings: ScorePool, member: Path, pool: list[Path], prompts: list[Path]) -> None:
    """Write `scores.npy` (P, N, K) aligned float32, and `cost.json`: seconds and megabytes that it took."""
    from rmlab.backbone import device_of
    from rmlab.optimise.pool import Pool
    from rmlab.reward.ensemble import load
    from rmlab.study.cost import Meter

    ensemble = load(member / "model").to(device_of())
    answers, listed = Pool.load([p / "pool.npz" for p in pool]), [x for p in prompts for x in load_prompts(p)]
    rows = zip(listed, answers.ids, answers.lengths, strict=True)
    with Meter() as meter:
        scores = np.stack([ensemble.score(np.array(p.ids), ids, lengths) for p, ids, lengths in rows])
    np.save(out / "scores.npy", scores)
    (out / "cost.json").write_text(json.dumps({"score_seconds": meter.seconds, "peak_mb": meter.peak_mb}))


@dataclass(frozen=True)
class ScoreProbes:
    """A trained scorer on one change each in a good answer."""

    source: Source


def score_probes(out: Path, settings: ScoreProbes, member: Path, prompts: list[Path]) -> None:
    """Write `probes.npy` (P, C, K), aligned."""
    from rmlab.backbone import device_of
    from rmlab.reward.ensemble import load

    ensemble = load(member / "model").to(device_of())
    listed = [x for p in prompts for x in load_prompts(p)]
    probes = settings.source.probes(listed)
    rows = zip(listed, probes.ids, probes.lengths, strict=True)
    np.save(out / "probes.npy", np.stack([ensemble.score(np.array(p.ids), i, n) for p, i, n in rows]))


@dataclass(frozen=True)
class PpoRun:
    """One PPO run against one ensemble: its settings, and how it is evaluated.

    setting : the keys of its rows; purposes name the streams of evaluation and of the run
    """

    source: Source
    ppo: Ppo
    aggregator: str
    strength: float
    replicate: int
    answers: int
    seed: int
    setting: tuple[tuple[str, object], ...]


def ppo_run(out: Path, settings: PpoRun, policy: Path, reward_models: list[Path], prompts: Path) -> None:
    """Write `run.json`: a row a step, with what reward models and gold say at evaluations, and a few answers as text.

    And `evaluations.npz`: every evaluated answer and its numbers, see `rmlab.optimise.evaluate.save_records`.
    """
    from rmlab.backbone import device_of, load
    from rmlab.optimise.evaluate import evaluate, save_records
    from rmlab.optimise.ppo import train
    from rmlab.optimise.reward import member_scores
    from rmlab.reward.aggregate import aggregate
    from rmlab.reward.ensemble import load as load_ensemble

    s, device = settings, device_of()
    ensembles = [load_ensemble(f / "model").to(device) for f in reward_models]

    def members(prompts: list, answers: list) -> np.ndarray:
        return np.concatenate([member_scores(e, prompts, answers) for e in ensembles], 1)

    def draw(rng: np.random.Generator, count: int) -> list[list[int]]:
        return [list(p.ids) for p in s.source.prompts(count, rng)]

    texts: list[dict] = []
    records: list[dict] = []
    watched, own = load_prompts(prompts), stream_seed(s.seed, "watch")
    eval_fn = evaluate(s.source, watched, s.answers, members, s.aggregator, s.strength, own, texts, records)
    rows = train(
        load(policy),
        draw,
        lambda prompts, answers: aggregate(members(prompts, answers), s.aggregator, s.strength),
        s.ppo,
        stream_seed(s.seed, "pressure", s.replicate),
        eval_fn,
    )
    run = {"setting": dict(s.setting), "replicate": s.replicate, "rows": rows, "texts": texts}
    (out / "run.json").write_text(json.dumps(run))
    save_records(out / "evaluations.npz", records)
