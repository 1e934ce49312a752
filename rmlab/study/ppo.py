"""The study of optimisation pressure: PPO against every construction, aggregator and price of KL.

A run's replicate decides the label draw and the home backbone of its reward models, as in the study of constructions, and the
streams of PPO; the policy that it starts from is one for all. Runs that differ only in the reward see the same prompts.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rmlab.recipe import Recipe, require
from rmlab.reward.aggregate import AGGREGATORS
from rmlab.reward.methods import members_of
from rmlab.store import Task
from rmlab.study import constructions
from rmlab.study import grid as study


def run(recipe: Recipe, out: str | Path, artifacts=None, workers=None, quiet: bool = False) -> Path:
    """Run a study of PPO; see `study.run`. Rows go to `out/ppo/`."""
    constructions.validate(recipe)
    recipe.validate()
    names = [x.name for x in recipe.lines]
    unknown = sorted({name for name, _ in recipe.pressure.long} - set(names))
    require(not unknown, "pressure.long", unknown, f"lines among {', '.join(names)}")
    for how in (*recipe.pressure.hows, *(how for _, how in recipe.pressure.long)):
        require(how in AGGREGATORS, "pressure.hows", how, f"one of {', '.join(AGGREGATORS)}")
    return study.run(recipe, out, artifacts, workers, quiet, plan)


def plan(recipe: Recipe) -> dict[str, Task]:
    """The recipe as a graph of tasks: `ppo` writes the rows."""
    r, p, g = recipe, recipe.pressure, study.ground(recipe)
    made = [constructions.replicate_tasks(r, g, s) for s in range(r.labels.draws)]
    found = [{constructions.identity(t.settings["what"]): t for t in some} for some in made]
    settings = dataclasses.asdict(p.ppo)
    cost = study.heavy(r) * p.ppo.steps * p.ppo.batch / 200
    tasks = []
    for s in range(r.labels.draws):
        for x in r.lines:
            judges = [
                found[s][constructions.identity(w)] for w in constructions.wanted(x.kind, dict(x.options))
            ]
            hows = p.hows if members_of(x.kind, dict(x.options)) > 1 else ("mean",)
            asked = [(how, beta, 1) for how in hows for beta in p.betas]
            asked += [(how, 0.0, p.longer) for name, how in p.long if name == x.name]
            for how, beta, longer in asked:
                what = {"line": x.name, "kind": x.kind, "how": how, "replicate": s, "longer": longer}
                own = {**settings, "beta": beta, "steps": settings["steps"] * longer}
                given = {
                    "what": what,
                    "ppo": own,
                    "requests": p.requests,
                    "answers": p.answers,
                    "seed": r.seed,
                }
                tasks.append(
                    Task(
                        pressed,
                        given,
                        {"policy": g.policy, "judges": judges},
                        cost * longer * (1 + len(judges) / 8),
                    )
                )
    given = {"runs": tasks, "parts": g.parts, "made": [t for some in made for t in some]}
    return {"ppo": Task(rows, {"recipe": dataclasses.asdict(r), "id": r.id}, given, cost=120)}


# ---- stages: each runs in a process of its own, and writes into the folder `out`


def pressed(
    out: Path, policy: Path, judges: list[Path], what: dict, ppo: dict, requests: int, answers: int, seed: int
) -> None:  # fmt: skip
    """One PPO run, watched from its own sampler: what every judge and gold say, and a few answers as text."""
    import numpy as np

    from rmlab.backbone import load
    from rmlab.optimise import ppo as algorithm
    from rmlab.optimise.evaluate import watch
    from rmlab.optimise.reward import member_scores
    from rmlab.recipe import Ppo, stream, stream_seed
    from rmlab.reward.aggregate import AGGREGATORS, aggregate
    from rmlab.reward.methods import load as load_scorer
    from rmlab.sources.sandbox.world import requests as ask

    scorers = [load_scorer(j / "model") for j in judges]
    start = load(policy)
    rule = AGGREGATORS[what["how"]]
    lam = rule.lam[2] if rule.lam else 1.0

    def members(prompts, given):
        return np.concatenate([member_scores(s, prompts, given) for s in scorers], 1)

    def prompts(rng, count):
        return [r.ids() for r in ask(count, rng)]

    texts: list[dict] = []
    shown = ask(requests, stream(seed, "pressure", "watched"))
    look = watch(shown, answers, members, what["how"], lam, stream_seed(seed, "watch"), texts)
    own = stream_seed(seed, "pressure", what["replicate"])
    table = algorithm.train(
        start, prompts, lambda p, a: aggregate(members(p, a), what["how"], lam), Ppo(**ppo), own, look
    )
    (out / "run.json").write_text(
        json.dumps({"what": what, "beta": ppo["beta"], "rows": table, "texts": texts})
    )


def rows(out: Path, runs: list[Path], parts: list[Path], made: list[Path], recipe: dict, id: str) -> None:
    from rmlab.measure import frontier, pressure
    from rmlab.optimise.pool import Pool
    from rmlab.study.constructions import assemble

    pool = Pool.load([p / "pool.npz" for p in parts])
    lines, hows, draws = assemble(recipe, made), recipe["pressure"]["hows"], recipe["labels"]["draws"]
    exact = frontier.table(lines, pool.gold, pool.ended, tuple(hows), draws, recipe["seed"])
    pressure.write(out, runs, exact, recipe, id)
