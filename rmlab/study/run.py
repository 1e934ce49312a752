"""Running a study: recipe to tables in a folder, whatever is done already kept."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

from rmlab.recipe import Recipe
from rmlab.store import Store, Task, write_atomic
from rmlab.study.executor import all_tasks, execute
from rmlab.study.plan import plan


def run(
    recipe: Recipe,
    out: str | Path,
    artifacts: str | Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Path:
    """Run a study and write its tables, `provenance.json` and `explorer.npz` into a folder of `out`.

    Parameters
    ----------
    recipe : what to run
    out : the folder is `out/full` for crossed replicates, `out/constructions` for replicates in step, `out/ppo` with PPO
    artifacts : folder for the cache, `_build/artifacts` unless said
    workers : processes, the number of cores unless said

    Returns
    -------
    Path of the folder with the tables.

    Raises
    ------
    ValueError : a recipe that cannot run, named before anything does
    StudyFailed : some task failed twice; whatever did not depend on it is done
    """
    last = plan(recipe)
    folder = Path(out) / study_folder(recipe)
    store = Store(artifacts or Path("_build") / "artifacts")
    started = time.perf_counter()
    execute(list(last.values()), store, workers, quiet)
    folder.mkdir(parents=True, exist_ok=True)
    for task in last.values():
        for file in sorted(store.path(task).iterdir()):
            if file.suffix in {".csv", ".npz"}:
                write_atomic(folder / file.name, file.read_bytes())
    about = provenance(recipe, last, store, round(time.perf_counter() - started))
    write_atomic(folder / "provenance.json", json.dumps(about, indent=1))
    return folder


def study_folder(recipe: Recipe) -> str:
    """The folder of a study's tables: "full", "constructions" or "ppo"."""
    if recipe.ppo_study:
        return "ppo"
    return "full" if recipe.replicates.crossed else "constructions"


def provenance(recipe: Recipe, last: dict[str, Task], store: Store, seconds: int) -> dict:
    """Where tables come from: the recipe, the keys of their tasks, the versions that made them, and the time it took."""
    tasks = all_tasks(list(last.values()))
    cards = [facts for facts in map(store.facts, tasks) if facts]
    made_with = sorted({json.dumps(card["versions"], sort_keys=True) for card in cards})
    return {
        "study": recipe.name,
        "recipe": recipe.id,
        "source": type(recipe.source).__name__,
        "settings": dataclasses.asdict(recipe),
        "tables": {name: task.key for name, task in last.items()},
        "versions": [json.loads(x) for x in made_with],
        "tasks": len(tasks),
        "core_seconds": round(sum(card["seconds"] for card in cards)),
        "wall_seconds_this_run": seconds,
    }
