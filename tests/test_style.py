"""The house rules, read off the syntax trees: names, lengths, documentation, imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "rmlab").rglob("*.py"))
PRIVATE = set("asked told given made what drawn wanted hows atom pressed".split())  # they need decoding
SHORT = {"how", "lam"}  # and in the package these
FLOORS = [  # from the ground up; imports go down only
    {"recipe", "store", "files", "fingerprint", "syntax", "tokens", "noise"},
    {"text", "tables", "dialogues", "pairs", "collection", "truncation", "sources", "backbone", "fast"},
    {"reward"},
    {"optimise"},
    {"measure"},
    {"preferences"},
    {"study"},
    {"show", "workbench", "cli", "__main__"},
]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def floor(module: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if module.split(".")[1] in names)


def imports(tree: ast.Module) -> set[str]:
    """Modules of ours that a tree imports, inside functions too; names for annotations alone do not count."""
    out, typing = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typing |= set(ast.walk(node))
    for node in (n for n in ast.walk(tree) if n not in typing):
        if isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{a.name}" for a in node.names]
            out |= {
                n if (ROOT / Path(*n.split("."))).with_suffix(".py").is_file() else node.module for n in names
            }
    known = {name_of(p) for p in MODULES}
    return {n for n in out if n in known and n != "rmlab"}


def names_in(path: Path) -> set[str]:
    """Every identifier of a file, but for other people's: `hypothesis.given`."""
    out = set()
    for node in ast.walk(tree_of(path)):
        theirs = isinstance(node, ast.Attribute) and ast.unparse(node) == "hypothesis.given"
        out |= {getattr(node, field, None) for field in ("id", "arg", "attr", "name", "asname") if not theirs}
    return out


@pytest.mark.parametrize("folder", ["rmlab", "tests", "benchmarks", "scripts"])
def test_no_name_needs_decoding(folder):
    private = PRIVATE | (SHORT if folder == "rmlab" else set())
    bad = {p.relative_to(ROOT).as_posix(): names_in(p) & private for p in (ROOT / folder).rglob("*.py")}
    assert not {path: names for path, names in bad.items() if names}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_are_small(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_is_documented_and_typed(path):
    tree = tree_of(path)
    assert (path.name == "__init__.py" and not tree.body) or ast.get_docstring(tree), "the module"

    def check(body: list[ast.stmt], inside: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{inside}{node.name}"
                check(node.body, f"{inside}{node.name}.")
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                overload = any("overrid" in ast.unparse(d) for d in node.decorator_list)
                assert overload or ast.get_docstring(node), f"{inside}{node.name}"
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                bare = [
                    a.arg for a in arguments if a.annotation is None and a.arg not in {"self", "cls", "ctx"}
                ]
                assert not bare, f"{inside}{node.name}: {bare}"

    check(tree.body, "")


def test_imports_go_down_only():
    wrong = []
    for path in MODULES:
        here = name_of(path)
        if here.count("."):
            wrong += [
                f"{here} imports {n}"
                for n in imports(tree_of(path))
                if n.count(".") and floor(n) > floor(here)
            ]
    assert not wrong


def test_no_import_cycles():
    graph = {name_of(p): imports(tree_of(p)) - {name_of(p)} for p in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_presets_import_the_sandbox():
    users = {
        name_of(p) for p in MODULES if any(n.startswith("rmlab.sources.sandbox") for n in imports(tree_of(p)))
    }
    assert {u for u in users if not u.startswith("rmlab.sources.sandbox")} == {"rmlab.study.presets"}


def test_formatter_is_skipped_on_tables_only():
    marks = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in ROOT.rglob("*.py")
        if not {".venv", "_build", "build"} & set(p.relative_to(ROOT).parts)
        for i, line in enumerate(p.read_text("utf-8").splitlines(), 1)
        if "# fmt: " + "skip" in line or "# fmt: " + "off" in line
    ]
    assert len(marks) <= 5, marks


def test_the_formatter_has_nothing_to_say():
    ruff = [sys.executable, "-m", "ruff"]
    done = subprocess.run([*ruff, "format", "--check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([*ruff, "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_module_has_a_test_of_its_name():
    missing = []
    for path in MODULES:
        if path.name.startswith("__"):
            continue
        inside = path.relative_to(ROOT / "rmlab").parent
        if not (ROOT / "tests" / inside / f"test_{path.name}").is_file():
            missing.append(path.relative_to(ROOT).as_posix())
    assert not missing
