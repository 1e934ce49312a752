"""The grid: recipe -> artifacts -> rows.

Each stage is a function that writes files into a folder; what it imports in its body is what it depends on.
Stages run in one-thread processes side by side, so the number of workers changes the time and no byte.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rmlab.recipe import Recipe
from rmlab.store import Store, Task, versions, write_atomic
from rmlab.study.executor import all_tasks, cores, execute

PROMPTS_A_PART = 8


def run(
    recipe: Recipe,
    out: str | Path,
    artifacts: str | Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
    plan: Callable[[Recipe], dict[str, Task]] | None = None,
) -> Path:
    """Run a study and write its rows into `out`; whatever is done already is kept.

    Parameters
    ----------
    recipe : what to run
    out : folder for `results/` (`curves.csv`, `units.csv`, ..., `provenance.json`) and `pool/explorer.npz`
    artifacts : folder for the cache, `_build/artifacts` unless said
    workers : processes, the number of cores unless said
    plan : recipe -> {folder of `out`: task whose tables go there}, the rows first; the grid's unless said

    Returns
    -------
    Path of `out`.
    """
    recipe.validate()
    out = Path(out)
    store = Store(artifacts or Path("_build") / "artifacts")
    workers = workers or cores()
    last = (plan or grid_plan)(recipe)
    started = time.perf_counter()
    execute(list(last.values()), store, workers, quiet)
    for name, task in last.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for file in sorted(store.path(task).iterdir()):
            if file.suffix in {".csv", ".npz"}:
                write_atomic(out / name / file.name, file.read_bytes())
    tasks = all_tasks(list(last.values()))
    seconds = {t.key: store.seconds(t) for t in tasks}
    rows = next(iter(last))
    write_atomic(
        out / rows / "provenance.json",
        json.dumps(
            {
                "study": recipe.name, "recipe": recipe.id, "settings": dataclasses.asdict(recipe), "rows": last[rows].key,
                "versions": versions(), "workers": workers, "tasks": len(seconds),
                "core_seconds": round(sum(seconds.values())), "wall_seconds_this_run": round(time.perf_counter() - started),
            },
            indent=1,
        ),
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class Ground:
    """What every member of a study stands on: tasks."""

    backbones: list[Task]
    policy: Task
    draws: list[Task]  # label sets
    heldout: Task
    parts: list[Task]  # of the pool


def ground(r: Recipe) -> Ground:
    """Backbones, policy, pairs and pool of a recipe."""
    d = dataclasses.asdict(r)
    shape = {"size": d["size"], "pretraining": d["pretraining"], "world": d["world"], "seed": r.seed}
    steps = r.pretraining.recap_steps + r.pretraining.answer_steps
    first, *backbones = (backbone_task(shape, i, steps, heavy(r)) for i in range(r.members.pretrain + 1))
    sft = {"sft": d["sft"], "world": d["world"], "seed": r.seed}
    tuned = {"policy": Task(policy, sft, {"base": first}, cost=r.sft.steps * 0.04)}
    told = {k: d["labels"][k] for k in ("temperature", "flips")}
    asked = {"max_answer": r.world.max_answer, "seed": r.seed}

    def labelled(name: str, count: int, told: dict) -> Task:
        return Task(pairs, {**asked, **told, "name": name, "count": count}, tuned, cost=count / 400)

    return Ground(
        backbones,
        tuned["policy"],
        [labelled(f"draw{i}", r.labels.pairs, told) for i in range(r.labels.draws)],
        labelled("heldout", r.labels.heldout, {"temperature": 0.0, "flips": 0.0}),
        [
            Task(pool_part, {**asked, "prompts": r.pool.prompts, "start": i, "answers": r.pool.answers}, tuned, cost=r.pool.answers * PROMPTS_A_PART / 2500)
            for i in range(0, r.pool.prompts, PROMPTS_A_PART)
        ],
    )  # fmt: skip


def heavy(r: Recipe) -> float:
    """How dear a model of this size is, in units of 64 x 2."""
    return r.size.hidden * r.size.layers / 128


def grid_plan(recipe: Recipe) -> dict[str, Task]:
    """The recipe as a graph of tasks; returns the last ones: `results` writes the rows, `pool` the explorer's answers."""
    from rmlab.reward.grid import models

    r, g, d = recipe, ground(recipe), dataclasses.asdict(recipe)
    grid = models(r.members, r.labels.draws)
    scored = r.pool.prompts * r.pool.answers
    cost = heavy(r) * (r.labels.pairs * r.training.epochs / 600 + scored / 9000)
    trained = [
        member_task(r, m, g.backbones[m.backbone], g.draws[m.draw], g.heldout, g.parts, cost) for m in grid
    ]
    sights = [t for size in r.sight.sizes for t in sight_tasks(r, d, size, g.policy, g.heldout)]
    given = {"parts": g.parts, "members": trained}
    return {
        "results": Task(
            rows, {"recipe": d, "id": r.id}, {**given, "sights": sights}, cost=scored * len(grid) / 3e6
        ),
        "pool": Task(compact, {"prompts": r.pool.prompts, "seed": r.seed}, given, cost=5),
    }


def backbone_task(shape: dict, index: int, steps: int, dear: float) -> Task:
    return Task(backbone, {**shape, "index": index}, cost=steps * 0.04 * dear)


def member_task(
    r: Recipe, m, base: Task, labels: Task, heldout: Task, parts: list[Task], cost: float
) -> Task:
    settings = {
        "model": dataclasses.asdict(m),
        "training": dataclasses.asdict(r.training),
        "prompts": r.pool.prompts,
        "seed": r.seed,
    }
    return Task(
        member, settings, {"base": base, "labels": labels, "heldout": heldout, "parts": parts}, cost=cost
    )


def sight_tasks(r: Recipe, d: dict, size, policy_task: Task, heldout: Task) -> list[Task]:
    """Members of one size on growing sets of clean pairs, probed but not optimised against."""
    from rmlab.reward.grid import Model

    dear = size.hidden * size.layers / 128
    pretraining = {**d["pretraining"], "lr": d["pretraining"]["lr"] * min(1.0, 64 / size.hidden)}
    training = dataclasses.replace(r.training, lr=r.training.lr * min(1.0, 64 / size.hidden))
    shape = {
        "size": dataclasses.asdict(size),
        "pretraining": pretraining,
        "world": d["world"],
        "seed": r.seed,
    }
    steps = r.pretraining.recap_steps + r.pretraining.answer_steps
    out = []
    for count in r.sight.pairs:
        told = {"max_answer": r.world.max_answer, "seed": r.seed, "temperature": 0.0, "flips": 0.0}
        labels = Task(
            pairs, {**told, "name": "sight", "count": count}, {"policy": policy_task}, cost=count / 400
        )
        for i in range(1, r.sight.seeds + 1):
            base = backbone_task(shape, i, steps, dear)
            small = dataclasses.replace(r, training=training)
            out.append(member_task(small, Model(0, i - 1, 0), base, labels, heldout, [], dear * count / 300))
    return out


# ---- stages: each runs in a process of its own, and writes into the folder `out`


def backbone(out: Path, size: dict, pretraining: dict, world: dict, seed: int, index: int) -> None:
    from rmlab.backbone import pretrain
    from rmlab.recipe import Pretraining, Size, World

    pretrain(Size(**size), Pretraining(**pretraining), World(**world), seed, index).save_pretrained(out)


def policy(out: Path, base: Path, sft: dict, world: dict, seed: int) -> None:
    from rmlab import backbone as lm
    from rmlab.recipe import Sft, World

    lm.sft(lm.load(base).to(lm.device_of()), Sft(**sft), World(**world), seed).save_pretrained(out)


def pairs(
    out: Path,
    policy: Path,
    name: str,
    count: int,
    temperature: float,
    flips: float,
    max_answer: int,
    seed: int,
) -> None:
    import numpy as np

    from rmlab.backbone import device_of, load
    from rmlab.noise import bradley_terry_flips, flip_mask
    from rmlab.optimise.pool import sample_pool
    from rmlab.recipe import stream, stream_seed
    from rmlab.sources.sandbox.world import requests

    asked = requests(count, stream(seed, "pairs", name))
    drawn = sample_pool(load(policy).to(device_of()), asked, 2, max_answer, seed, "pairs", name)
    margin = drawn.gold[:, 0] - drawn.gold[:, 1]
    ids = [f"{name}-{i}" for i in range(count)]
    turned = flip_mask(ids, flips, stream_seed(seed, "flips"))
    if temperature:
        turned ^= bradley_terry_flips(np.abs(margin), ids, temperature, stream_seed(seed, "bradley-terry"))
    first = (margin > 0) ^ turned
    keep = (margin != 0) & (drawn.tokens[:, 0] != drawn.tokens[:, 1]).any(-1)
    chosen = np.where(first[:, None], drawn.tokens[:, 0], drawn.tokens[:, 1])
    rejected = np.where(first[:, None], drawn.tokens[:, 1], drawn.tokens[:, 0])
    prompts = np.zeros((count, 40), np.uint8)
    for i, request in enumerate(asked):
        prompts[i, : len(request.ids())] = request.ids()
    index = np.flatnonzero(keep)
    margin = np.where(first, margin, -margin)
    np.savez_compressed(
        out / "pairs.npz",
        index=index,
        prompts=prompts[keep],
        chosen=chosen[keep],
        rejected=rejected[keep],
        margin=margin[keep],
    )


def pool_part(
    out: Path, policy: Path, prompts: int, start: int, answers: int, max_answer: int, seed: int
) -> None:
    from rmlab.backbone import device_of, load
    from rmlab.optimise.pool import sample_pool
    from rmlab.recipe import stream
    from rmlab.sources.sandbox.world import requests

    asked = requests(prompts, stream(seed, "pool"))[start : start + 8]
    sample_pool(load(policy).to(device_of()), asked, answers, max_answer, seed, "pool", start).save(
        out / "pool.npz"
    )


def member(
    out: Path,
    base: Path,
    labels: Path,
    heldout: Path,
    parts: list[Path],
    model: dict,
    training: dict,
    prompts: int,
    seed: int,
) -> None:
    import numpy as np

    from rmlab.backbone import device_of, load
    from rmlab.optimise.pool import Pool
    from rmlab.recipe import Training, stream
    from rmlab.reward.grid import Model, train_one
    from rmlab.reward.training import PairIds, score_pairs
    from rmlab.sources.sandbox.probes import table
    from rmlab.sources.sandbox.world import requests

    told = PairIds.load(labels)
    reward = train_one(Model(**model), load(base).to(device_of()), told, Training(**training), seed)
    held = score_pairs(reward, PairIds.load(heldout))
    reward.align(held.reshape(-1, reward.members))
    reward.save(out / "model")
    centre, scale = reward.centre.cpu().numpy(), reward.scale.cpu().numpy()
    asked = requests(prompts, stream(seed, "pool"))
    _, tokens, _ = table(asked)
    probed = np.stack(
        [reward.score(r.ids(), t, (t != 0).sum(-1)) for r, t in zip(asked, tokens, strict=True)]
    )
    scores = np.zeros((0, 0, reward.members), np.float32)
    if parts:
        pool = Pool.load([p / "pool.npz" for p in parts])
        scores = np.stack(
            [reward.score(r.ids(), t, n) for r, t, n in zip(asked, pool.tokens, pool.lengths, strict=True)]
        )
    aligned = {"pool": scores, "heldout": held, "probes": probed}
    np.savez(out / "scores.npz", **{k: ((v - centre) / scale).astype(np.float32) for k, v in aligned.items()})
    config = reward.model.config
    size = {
        "hidden": config.hidden_size,
        "layers": config.num_hidden_layers,
        "parameters": sum(p.numel() for p in reward.parameters()),
    }
    (out / "model.json").write_text(json.dumps({**model, **size, "pairs": len(told)}))


def rows(
    out: Path, parts: list[Path], members: list[Path], sights: list[Path], recipe: dict, id: str
) -> None:
    from rmlab.measure.tables import write

    write(out, parts, members, sights, recipe, id)


def compact(out: Path, parts: list[Path], members: list[Path], prompts: int, seed: int) -> None:
    from rmlab.measure.corner import of_grid
    from rmlab.recipe import stream
    from rmlab.sources.sandbox.world import requests

    of_grid(parts, members, requests(prompts, stream(seed, "pool"))).save(out / "explorer.npz")
