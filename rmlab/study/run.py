"""Running a study: recipe to tables in a folder, whatever is done already kept."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from pathlib import Path

import pandas as pd

from rmlab.measure.by_prompt import ByPrompt
from rmlab.store import Store, Task, write_atomic
from rmlab.study.checkout import claims_in_force, commit_of
from rmlab.study.executor import all_tasks, execute
from rmlab.study.plan import plan
from rmlab.study.sweep import Study, Sweep, base_of, parts_of

Plans = list[
    tuple[dict[str, object], dict[str, Task]]
]  # labels of a recipe's rows, and its last tasks by name


def run(
    study: Study,
    out: str | Path,
    artifacts: str | Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Path:
    """Run a study and write its tables, `by_prompt.npz`, `provenance.json` and `explorer.npz` into a folder of `out`.

    Parameters
    ----------
    study : what to run: a recipe, or a sweep, whose tables are its recipes' with the columns `axis` and `value` before
        them, and which has no explorer
    out : the tables' folder is in there and has the study's name
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
    planned = plans(study)
    folder = Path(out) / study.name
    store = Store(artifacts or Path("_build") / "artifacts")
    code = {"commit": commit_of(), "claims": claims_in_force(study.name)}  # before anything is known
    started = time.perf_counter()
    execute(last_tasks(planned), store, workers, quiet)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(study, Sweep):
        _write_joined(folder, planned, store)
    else:
        for task in planned[0][1].values():
            for file in _results(store, task):
                write_atomic(folder / file.name, file.read_bytes())
    about = provenance(study, planned, store, round(time.perf_counter() - started), code)
    write_atomic(folder / "provenance.json", json.dumps(about, indent=1))
    return folder


def plans(study: Study) -> Plans:
    """What a study runs: the last tasks of each of its recipes, equal recipes planned once."""
    parts, known = parts_of(study), {}
    for _, recipe in parts:
        if recipe.id not in known:
            known[recipe.id] = plan(recipe)
            if isinstance(study, Sweep):
                known[recipe.id].pop("explorer", None)
    return [(labels, known[recipe.id]) for labels, recipe in parts]


def last_tasks(planned: Plans) -> list[Task]:
    """Every last task of a study."""
    return [task for _, last in planned for task in last.values()]


def provenance(study: Study, planned: Plans, store: Store, seconds: int, code: dict[str, object]) -> dict:
    """Where tables come from: the recipe, the keys of their tasks, the versions that made them, and the time it took.

    The keys are one a table; of a sweep a list, a recipe each. `code` is the commit of the package and the claims about the
    study when it was started (`rmlab.study.checkout`); what it took from the cache may be older.
    """
    tasks = all_tasks(last_tasks(planned))
    cards = [facts for facts in map(store.facts, tasks) if facts]
    made_with = sorted({json.dumps(card["versions"], sort_keys=True) for card in cards})
    keys = {name: [last[name].key for _, last in planned if name in last] for name in planned[0][1]}
    return {
        "study": study.name,
        "recipe": study.id,
        "source": type(base_of(study).source).__name__,
        **code,
        "settings": dataclasses.asdict(study),
        "tables": keys if isinstance(study, Sweep) else {name: key for name, (key,) in keys.items()},
        "versions": [json.loads(x) for x in made_with],
        "tasks": len(tasks),
        "core_seconds": round(sum(card["seconds"] for card in cards)),
        "wall_seconds_this_run": seconds,
    }


def _write_joined(folder: Path, planned: Plans, store: Store) -> None:
    """Write the recipes' tables below each other, led by their labels, digits as they are; and gold by prompt as one."""
    frames: dict[str, list[pd.DataFrame]] = {}
    by_prompt = []
    for labels, last in planned:
        for file in (file for task in last.values() for file in _results(store, task)):
            if file.suffix == ".npz":
                by_prompt.append((labels, ByPrompt.load(file)))
                continue
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            for column, value in reversed(labels.items()):
                table.insert(0, column, str(value))
            frames.setdefault(file.name, []).append(table)
    for name, tables in frames.items():
        text = pd.concat(tables, ignore_index=True).to_csv(index=False, lineterminator="\n")
        write_atomic(folder / name, text)
    with io.BytesIO() as content:
        ByPrompt.join(by_prompt).save(content)
        write_atomic(folder / "by_prompt.npz", content.getvalue())


def _results(store: Store, task: Task) -> list[Path]:
    """The tables and arrays that a last task wrote."""
    return sorted(f for f in store.path(task).iterdir() if f.suffix in {".csv", ".npz"})
