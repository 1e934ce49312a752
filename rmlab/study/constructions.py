"""The study of constructions: every way to make members, on the same pairs and the same pool.

A replicate is a label draw with a home backbone of its own (draw s, pretraining seed s, in turn): what differs between
replicates is everything that chance decides. Within one, every line reads the same pairs. Single models are
trained once and are members of every union that holds them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rmlab.recipe import Line, Recipe, require, stream_seed
from rmlab.reward.methods import CONSTRUCTIONS, Single, atoms, check
from rmlab.store import Task
from rmlab.study import grid as study
from rmlab.study.cost import estimate


def run(recipe: Recipe, out: str | Path, artifacts=None, workers=None, quiet: bool = False) -> Path:
    """Run a study of constructions, after saying what it will take; see `study.run`.

    Rows go to `out/constructions/`, the explorer's pool to `out/pool/constructions.npz`.
    """
    validate(recipe)
    if not quiet:
        print(estimates(recipe), flush=True)
    return study.run(recipe, out, artifacts, workers, quiet, plan)


def validate(recipe: Recipe) -> None:
    """Raise a `ValueError` that names the line and what is wrong with it."""
    names = [x.name for x in recipe.lines]
    twice = sorted({n for n in names if names.count(n) > 1})
    require(not twice, "names of lines", twice, "every line a name of its own")
    require(
        "single" in names, "names of lines", names, "a line named single, which the others are compared with"
    )
    for x in recipe.lines:
        try:
            check(x.kind, dict(x.options))
        except ValueError as error:
            raise ValueError(f"line {x.name}: {error}") from error
        for s in singles_of(x):
            known = recipe.members.pretrain
            require(s.backbone < known, f"backbone of line {x.name}", s.backbone, f"one of {known}, counted from 0, or raise members.pretrain")  # fmt: skip


def estimates(recipe: Recipe) -> str:
    """What every line will take on one replicate, as text."""
    from rmlab.sources.sandbox.world import VOCAB

    rows = [
        f"{'line':<26}{'K':>3} {'parameters':>11} {'memory':>8} {'training':>12} {'scoring':>12}",
    ]
    for x in recipe.lines:
        e = estimate(recipe, len(VOCAB), x.kind, dict(x.options))
        rows.append(
            f"{x.name:<26}{e['members']:>3} {e['parameters']:>11,} {e['memory_mb']:>5.0f} MB {e['train_gflop']:>7.0f} GFLOP {e['score_gflop']:>6.0f} GFLOP"
        )
    rows.append(f"Estimated, for each of {recipe.labels.draws} replicates; unions share their single models, which are trained once.")  # fmt: skip
    return "\n".join(rows)


def singles_of(x: Line) -> list[Single]:
    """Every single model that a line needs, as a member or to be made of."""
    singles, alone = atoms(x.kind, dict(x.options))
    return singles + [s for kind, some in alone for s in CONSTRUCTIONS[kind].singles(**some)]


def plan(recipe: Recipe) -> dict[str, Task]:
    """The recipe as a graph of tasks: `constructions` writes the rows, `pool` the explorer's answers."""
    r, g, d = recipe, study.ground(recipe), dataclasses.asdict(recipe)
    trained = [t for s in range(r.labels.draws) for t in replicate_tasks(r, g, s)]
    given = {"parts": g.parts, "made": trained}
    pool = {"recipe": d, "prompts": r.pool.prompts, "seed": r.seed}
    return {
        "constructions": Task(rows, {"recipe": d, "id": r.id}, given, cost=60 * len(trained) / 150),
        "pool": Task(compact, pool, given, cost=10),
    }


def replicate_tasks(r: Recipe, g: study.Ground, s: int) -> list[Task]:
    """What is trained for one replicate, each thing once: single models, then whatever else the lines need."""
    count = len(g.backbones)
    home = [g.backbones[(s + i) % count] for i in range(count)]
    settings = {"training": dataclasses.asdict(r.training), "prompts": r.pool.prompts, "replicate": s, "seed": r.seed}  # fmt: skip
    inputs = {"bases": home, "labels": g.draws[s], "heldout": g.heldout, "parts": g.parts}
    train, score = r.labels.pairs * r.training.epochs / 900, r.pool.prompts * r.pool.answers / 9000
    singles: dict[Single, Task] = {}
    others: dict[str, Task] = {}
    for x in r.lines:
        for one in singles_of(x):
            what = {"single": dataclasses.asdict(one)}
            singles[one] = Task(atom, {**settings, "what": what}, {**inputs, "made": []}, study.heavy(r) * (train + score))  # fmt: skip
    for x in r.lines:
        for kind, options in atoms(x.kind, dict(x.options))[1]:
            work = CONSTRUCTIONS[kind].work(lambda *_: 0, **options)
            made = [singles[one] for one in CONSTRUCTIONS[kind].singles(**options)]
            cost = study.heavy(r) * (work[0] * train * (not made) + work[1] * score)
            what = {"kind": kind, "options": options}
            others[identity(what)] = Task(atom, {**settings, "what": what}, {**inputs, "made": made}, cost)
    return [*singles.values(), *others.values()]


def wanted(kind: str, options: dict) -> list[dict]:
    """What is trained for a line, in the order of its members."""
    singles, others = atoms(kind, options)
    return [{"single": dataclasses.asdict(one)} for one in singles] + [
        {"kind": part, "options": some} for part, some in others
    ]


def identity(what: dict) -> str:
    """What was trained, as one string: a single model, or a construction with its options."""
    return json.dumps(what, sort_keys=True)


# ---- stages: each runs in a process of its own, and writes into the folder `out`


def atom(
    out: Path, bases: list[Path], labels: Path, heldout: Path, parts: list[Path], made: list[Path], what: dict, training: dict,
    prompts: int, replicate: int, seed: int,
) -> None:  # fmt: skip
    """Make one scorer, align and save it, score the pool with it; what it cost goes with it."""
    import numpy as np

    from rmlab.backbone import device_of, load
    from rmlab.optimise.pool import Pool
    from rmlab.recipe import Training, stream
    from rmlab.reward.methods import HOME, Ingredients, Single, build
    from rmlab.reward.model import RewardModel
    from rmlab.reward.training import PairIds, score_pairs
    from rmlab.sources.sandbox.world import requests
    from rmlab.study.cost import Meter

    class Made(Ingredients):
        """Single models that are there already are read, not trained again."""

        def single(self, which: Single = HOME):
            at = folders.get(which)
            return RewardModel.load(at).to(device_of()) if at else super().single(which)

    cards = [json.loads((m / "atom.json").read_text()) for m in made]
    folders = {Single(**c["what"]["single"]): m / "model" for c, m in zip(cards, made, strict=True)}
    backbones = [load(b).to(device_of()) for b in bases]
    own = stream_seed(seed, "replicate", replicate)
    data = Made(backbones, PairIds.load(labels), Training(**training), own)
    held = PairIds.load(heldout)
    with Meter() as training_meter:
        alone = "single" in what
        scorer = data.single(Single(**what["single"])) if alone else build(what["kind"], data, **what["options"])  # fmt: skip
    raw = score_pairs(scorer, held)
    scorer.align(raw.reshape(-1, scorer.members))
    scorer.save(out / "model")
    pool = Pool.load([p / "pool.npz" for p in parts])
    asked = zip(requests(prompts, stream(seed, "pool")), pool.tokens, pool.lengths, strict=True)
    with Meter() as scoring_meter:
        scores = np.stack([scorer.score(r.ids(), t, n) for r, t, n in asked])
    centre, scale = scorer.centre.cpu().numpy(), scorer.scale.cpu().numpy()
    aligned = {k: ((v - centre) / scale).astype(np.float32) for k, v in (("pool", scores), ("heldout", raw))}
    linear = isinstance(scorer, RewardModel) and scorer.mlp is None
    heads = {"heads": scorer.model.score.weight.detach().cpu().numpy()} if linear else {}
    np.savez(out / "scores.npz", **aligned, **heads)
    cost = {
        "parameters": scorer.size(), "trained_parameters": scorer.size() - scorer.untrained,
        "train_seconds": training_meter.seconds + sum(c["cost"]["train_seconds"] for c in cards),
        "score_seconds": scoring_meter.seconds, "peak_mb": max(training_meter.peak_mb, scoring_meter.peak_mb),
    }  # fmt: skip
    (out / "atom.json").write_text(json.dumps({"what": what, "replicate": replicate, "cost": cost}))


def rows(out: Path, parts: list[Path], made: list[Path], recipe: dict, id: str) -> None:
    from rmlab.measure import league
    from rmlab.optimise.pool import Pool
    from rmlab.study.constructions import assemble

    pool = Pool.load([p / "pool.npz" for p in parts])
    about = {"study": recipe["name"], "recipe": id, "seed": recipe["seed"], "centring": "global"}
    lines = assemble(recipe, made)
    league.write(out, lines, pool.gold, pool.ended, recipe["labels"]["draws"], about, recipe["seed"])


def compact(out: Path, parts: list[Path], made: list[Path], recipe: dict, prompts: int, seed: int) -> None:
    from rmlab.measure.corner import of_lines
    from rmlab.optimise.pool import Pool
    from rmlab.recipe import stream
    from rmlab.sources.sandbox.world import requests
    from rmlab.study.constructions import assemble

    pool = Pool.load([p / "pool.npz" for p in parts])
    asked = requests(prompts, stream(seed, "pool"))
    of_lines(assemble(recipe, made), pool, asked).save(out / "constructions.npz")


def assemble(recipe: dict, made: list[Path]) -> list:
    """Every line of every replicate as a `league.Line`: scores side by side, costs added up."""
    import numpy as np

    from rmlab.measure import league

    found = {}
    for folder in made:
        card = json.loads((folder / "atom.json").read_text())
        found[card["replicate"], identity(card["what"])] = (card["cost"], np.load(folder / "scores.npz"))
    out = []
    for s in range(recipe["labels"]["draws"]):
        for x in recipe["lines"]:
            parts = wanted(x["kind"], dict(x["options"]))
            cards, scores = zip(*(found[s, identity(what)] for what in parts), strict=True)
            cost = {n: sum(c[n] for c in cards) for n in cards[0]}
            cost["peak_mb"] = max(c["peak_mb"] for c in cards)
            pool, heldout = (np.concatenate([f[n] for f in scores], -1) for n in ("pool", "heldout"))
            heads = scores[0]["heads"] if len(scores) == 1 and "heads" in scores[0] else None
            out.append(league.Line(x["name"], x["kind"], s, pool, heldout, cost, heads))
    return out
