"""Synthetic studies: gold plus errors that members share to a chosen degree, with one instance a replicate or several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rmlab.measure.ensembles import EnsembleResult, MemberScores, RunResult, StudyScores
from rmlab.recipe import Recipe, Replicates

P, N, M = 12, 64, 200  # prompts, answers a prompt, held-out pairs
PROBES = ("base", "wrong", "one_wrong", "missing")
SHARED = {"heads": 0.9, "lora": 0.7}  # of the errors' variance on one label draw; 0.4 for any other method


class LabelDraw:
    """One label draw, whose members share a part of their errors."""

    def __init__(self, draw: int, rng: np.random.Generator, gold: np.ndarray):
        self.draw, self.rng, self.gold = draw, rng, gold
        self.pool, self.heldout = rng.normal(size=(P, N, 1)), rng.normal(size=(M, 2, 1))

    def errors(self, common: np.ndarray, method: str, k: int) -> np.ndarray:
        share = SHARED.get(method, 0.4)
        return np.sqrt(share) * common + np.sqrt(1 - share) * self.rng.normal(size=(*common.shape[:2], k))

    def member(
        self, method: str, backbone: int, finetune: int = 0, k: int = 1, name: str = ""
    ) -> MemberScores:
        draw = self.draw
        stem = f"d{draw}/p{backbone}/"
        return MemberScores(
            stem + (f"f{finetune}" if method == "single" else name),
            method,
            draw,
            backbone,
            finetune,
            facts={"hidden": 64, "layers": 2, "parameters": 100 * k, "pairs": 990 + backbone},
            cost={
                "parameters": 100 * k,
                "trained_parameters": 90 * k,
                "train_seconds": 2.0 * k + draw,
                "score_seconds": 1.0,
                "peak_mb": 50.0 + k,
            },
            heldout=(np.array([[[0.7], [0]]]) + self.errors(self.heldout, method, k)).astype(np.float32),
            pool=(self.gold[..., None] + self.errors(self.pool, method, k)).astype(np.float32),
            probes=self.rng.normal(size=(P, len(PROBES), k)).astype(np.float32),
            heads=self.rng.normal(size=(k, 8)) if method in {"single", "heads"} else None,
            scale=np.ones(k),
        )


def in_step(replicates: int = 3) -> StudyScores:
    """A study whose replicates hold every ensemble once, beside one single model. Penalties are matched."""
    rng = np.random.default_rng(0)
    gold, ended = rng.normal(size=(P, N)), rng.random((P, N)) < 0.9
    members, ensembles = [], []
    for s in range(replicates):
        labels = LabelDraw(s, rng, gold)
        seeds = [labels.member("single", 0, f) for f in range(5)]
        others = [labels.member("single", i) for i in (1, 2)]
        heads = {k: labels.member("heads", 0, k=k, name=f"heads{k}") for k in (2, 5)}
        lora = labels.member("lora", 0, k=2, name="lora2")
        average = labels.member("average", 0, name="average5")
        members += [*seeds, *others, *heads.values(), lora, average]
        parts = {
            ("single", "single"): seeds[:1],
            ("finetune5", "finetune"): seeds,
            ("finetune3", "finetune"): seeds[:3],
            ("pretrain3", "pretrain"): [seeds[0], *others],
            ("heads2", "heads"): [heads[2]],
            ("heads5", "heads"): [heads[5]],
            ("lora2", "lora"): [lora],
            ("average5", "average"): [average],
            ("mixed7", "mixed"): [*seeds, lora],
        }
        for (name, method), group in parts.items():
            ensembles.append(EnsembleResult(name, method, s, 0, tuple(group), (seeds[0],)))
    recipe = Recipe("in_step", None, replicates=Replicates(replicates, 3, 1), matched=True)
    return StudyScores(recipe, members, ensembles, gold, ended, *_probes())


def grid(draws: int = 2, backbones: int = 3, finetune: int = 2) -> StudyScores:
    """A study whose replicates hold an ensemble several times: single models on every backbone with every seed."""
    rng = np.random.default_rng(1)
    gold, ended = rng.normal(size=(P, N)), rng.random((P, N)) < 0.9
    seeds: dict[tuple[int, int, int], MemberScores] = {}
    heads: dict[tuple[int, int, int], MemberScores] = {}
    for d in range(draws):
        labels = LabelDraw(d, rng, gold)
        for p in range(backbones):
            seeds |= {(d, p, f): labels.member("single", p, f) for f in range(finetune)}
            heads |= {(d, p, k): labels.member("heads", p, k=k, name=f"heads{k}") for k in (2, 4)}
    ensembles = []
    for d in range(draws):
        alike = [tuple(seeds[d, p, f] for f in range(finetune)) for p in range(backbones)]
        every = tuple(m for group in alike for m in group)
        parts: dict[tuple[str, str], list[tuple]] = {("single", "single"): [((m,), (m,)) for m in every]}
        parts[f"finetune{finetune}", "finetune"] = [(group, group) for group in alike]
        for k in (2, 4):
            parts[f"heads{k}", "heads"] = [((heads[d, p, k],), alike[p]) for p in range(backbones)]
        rings = [tuple(seeds[d, p, f] for p in range(backbones)) for f in range(finetune)]
        parts[f"pretrain{backbones}", "pretrain"] = [(ring, every) for ring in rings]
        for (name, method), groups in parts.items():
            for i, (group, rivals) in enumerate(groups):
                ensembles.append(EnsembleResult(name, method, d, i, group, rivals))
    recipe = Recipe("grid", None, replicates=Replicates(draws, backbones, finetune))
    members = [*seeds.values(), *heads.values()]
    return StudyScores(recipe, members, ensembles, gold, ended, *_probes())


def with_copies(scores: StudyScores, of: str = "heads5", name: str = "copies5") -> StudyScores:
    """The study with one more ensemble, or another in the place of its own, whose members are one member again and again."""
    copies = []
    for e in scores.ensembles:
        if e.name == of:
            pool, heldout = (np.repeat(x[..., :1], e.k, -1) for x in (e.pool, e.heldout))
            heads = np.ones((e.k, 8))
            part = replace(e.parts[0], id=f"d{e.replicate}/{name}", pool=pool, heldout=heldout, heads=heads)
            copies.append(replace(e, name=name, parts=(part,)))
    return replace(scores, ensembles=[e for e in scores.ensembles if e.name != name] + copies)


def only(scores: StudyScores, *names: str) -> StudyScores:
    """The study with those ensembles alone."""
    return replace(scores, ensembles=[e for e in scores.ensembles if e.name in names])


def with_runs(scores: StudyScores, *settings: tuple[str, str, float, int]) -> StudyScores:
    """The study with a PPO run on every instance for each (ensemble, aggregator, kl_coef, step_multiplier)."""
    rng = np.random.default_rng(2)
    runs = []
    for name, aggregator, kl_coef, step_multiplier in settings:
        for e in scores.ensembles:
            if e.name == name:
                runs.append(_run(rng, e, aggregator, kl_coef, step_multiplier))
    return replace(scores, ppo_runs=runs)


def _run(
    rng: np.random.Generator, e: EnsembleResult, aggregator: str, kl_coef: float, step_multiplier: int
) -> RunResult:
    steps = range(0, 12 * step_multiplier + 1, 3)
    names = "reward length gold_length eval_k1 eval_k3 eval_length eval_ended disagreement".split()
    numbers = [dict(zip(names, rng.random(len(names)).tolist(), strict=True)) for _ in steps]
    rows = [{"step": t, "kl_coef": kl_coef + t / 100, **x} for t, x in zip(steps, numbers, strict=True)]
    text = {"prompt": "a", "answer": "b", "gold": 1.0, "proxy": 2.0, "tokens": [["b", 0.1, 0.2, 0.3]]}
    gold, proxy = rng.normal(size=(2, 7, len(steps)))
    texts = [{"step": step, **text} for step in steps]
    return RunResult(
        e.name, e.replicate, e.number, aggregator, kl_coef, step_multiplier, rows, gold, proxy, texts
    )


def _probes() -> tuple[tuple[str, ...], dict[str, str], np.ndarray]:
    """Names, labels and gold of the probes."""
    return (
        PROBES,
        {"wrong": "every fact stated wrong"},
        np.random.default_rng(3).normal(size=(P, len(PROBES))),
    )
