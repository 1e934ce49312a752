"""Where results live: artifacts by content hash, written whole or not at all.

An artifact's key hashes what decides its bytes: the stage's own code and that of every rmlab module it
imports (comments and docstrings aside), its settings, and the keys of its inputs. A change invalidates
what depends on it and nothing else, and a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rmlab.recipe import digest

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Task:
    """A stage to run: `stage(out, **settings, **inputs)` writes files into the folder `out`.

    `inputs` maps argument names to tasks or lists of tasks; the stage receives their folders. `cost` is a
    guess in seconds, for the progress bar alone.
    """

    stage: Callable
    settings: dict
    inputs: dict[str, Task | list[Task]] = field(default_factory=dict)
    cost: float = 1.0

    @functools.cached_property
    def key(self) -> str:
        known = {name: [t.key for t in _listed(given)] for name, given in self.inputs.items()}
        return digest([self.stage.__name__, fingerprint(self.stage), self.settings, known])[:20]

    @property
    def parents(self) -> list[Task]:
        return [t for given in self.inputs.values() for t in _listed(given)]


class Store:
    """Artifacts under a folder, `<stage>-<key>/`; a folder that exists is complete."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def path(self, task: Task) -> Path:
        return self.root / f"{task.stage.__name__}-{task.key}"

    def has(self, task: Task) -> bool:
        return self.path(task).is_dir()

    def run(self, task: Task) -> Path:
        """Run a task whose inputs exist, in a folder aside, and move it into place when it is whole."""
        final = self.path(task)
        if final.is_dir():
            return final
        self.root.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=self.root))
        inputs = {
            name: [self.path(t) for t in given] if isinstance(given, list) else self.path(given)
            for name, given in task.inputs.items()
        }
        started = time.perf_counter()
        try:
            task.stage(aside, **task.settings, **inputs)
            facts = {
                "stage": task.stage.__name__,
                "key": task.key,
                "seconds": round(time.perf_counter() - started, 2),
            }
            (aside / "done.json").write_text(json.dumps(facts))
            os.replace(aside, final)
        except OSError:
            if not final.is_dir():  # another process may have finished the same artifact first
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return final

    def seconds(self, task: Task) -> float:
        """How long the task took when it ran."""
        return json.loads((self.path(task) / "done.json").read_text())["seconds"]

    def sweep(self) -> None:
        """Remove what a killed run left half done."""
        for part in self.root.glob(".part-*"):
            shutil.rmtree(part, ignore_errors=True)


@functools.cache
def fingerprint(stage: Callable) -> str:
    """Hash of a stage's code and of every rmlab definition it reaches, without comments and docstrings.

    A stage names what it depends on by importing it in its own body. `from rmlab.x import y` reaches y and
    what y uses; `from rmlab import x` reaches all of x.
    """
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(stage)))
    seen: dict[tuple[str, str], str] = {}
    todo = list(_imports(tree).values())
    while todo:
        module, name = todo.pop()
        if (module, name) in seen or (path := _module_path(module)) is None:
            continue
        if name != "*" and _module_path(f"{module}.{name}"):
            todo.append((f"{module}.{name}", "*"))
            continue
        known = _definitions(path)
        if name == "*":
            seen[module, name] = ""
            todo += [(module, n) for n in known]
            continue
        outside = _imports(ast.parse(path.read_text(encoding="utf-8")), deep=False)
        nodes = known.get(name, [])
        seen[module, name] = " ".join(_essence(n) for n in nodes)
        for node in nodes:
            todo += _imports(node).values()
            used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            todo += [(module, n) for n in used if n in known] + [outside[n] for n in used if n in outside]
        if name in outside:
            todo.append(outside[name])
    return digest([_essence(tree), sorted((*where, code) for where, code in seen.items())])


def versions() -> dict[str, str]:
    """Versions of what decides numbers, for provenance."""
    from importlib.metadata import version

    names = ("torch", "transformers", "numpy", "pandas", "scipy")
    return {
        "python": platform.python_version(),
        **{n: version(n) for n in names},
        "machine": platform.machine(),
    }


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(aside, path)


def _listed(given: Task | list[Task]) -> list[Task]:
    return given if isinstance(given, list) else [given]


def _imports(tree: ast.AST, deep: bool = True) -> dict[str, tuple[str, str]]:
    """Names that rmlab imports bind, in a tree (or at its top level): {bound name: (module, name or "*")}."""
    found = {}
    for node in ast.walk(tree) if deep else ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rmlab":
            found |= {a.asname or a.name: (node.module, a.name) for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.asname or a.name: (a.name, "*") for a in node.names if a.name.split(".")[0] == "rmlab"
            }
    return found


@functools.cache
def _definitions(path: Path) -> dict[str, list[ast.AST]]:
    """A module's top-level names and the statements that make each: definitions, assignments, item assignments."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = {node.name}
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        else:
            continue
        for name in names:
            found.setdefault(name, []).append(node)
    return found


def _module_path(name: str) -> Path | None:
    inside = PACKAGE.parent / Path(*name.split("."))
    for path in (inside.with_suffix(".py"), inside / "__init__.py"):
        if path.is_file():
            return path
    return None


def _essence(tree: ast.AST) -> str:
    """The tree's code without docstrings; comments are gone already."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            if isinstance(body[0].value.value, str):
                node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)
