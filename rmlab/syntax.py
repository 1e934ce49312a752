"""A module as code keys see it: its statements without words for people, and what binds each of its names."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

WORDS = {
    "label",
    "origin",
    "source",
    "title",
    "help",
    "formula",
    "description",
}  # keyword arguments, when text
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
SCOPES = FUNCTIONS | ast.ClassDef | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True, eq=False)
class Module:
    """A parsed module; two are equal when they are one."""

    name: str
    path: Path
    stamp: tuple[int, int]  # mtime in ns and bytes of the file when it was read
    body: list[ast.stmt]  # but for `Lookup` tables
    names: dict[str, list]  # top-level name -> what binds or changes it: statements and `Import`s
    stars: list[str]  # modules whose every name it imports


class Import(NamedTuple):
    """`from module import name`, or with no name the module itself."""

    module: str
    name: str | None


@functools.cache
def locate(root: Path, dotted: str) -> Module | None:
    """The module of a dotted name under a folder, None where there is none."""
    inside = root.joinpath(*dotted.split("."))
    files = (inside.with_suffix(".py"), inside / "__init__.py") if dotted else ()
    return next((parse(path, dotted) for path in files if path.is_file()), None)


@functools.cache
def parse(path: Path, name: str) -> Module:
    """Read a module, once in a process."""
    status = path.stat()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    body = _WithoutWords(package).visit(ast.parse(path.read_bytes())).body
    lookups = {s.targets[0].id for s in body if _is_lookup(s)}
    names: dict[str, list] = {name: [] for name in lookups}
    stars, kept = [], []
    for statement in body:
        bindings = bound([statement])
        stars += [b.module for b in bindings.values() if b and b.name == "*"]
        keys = touched(statement)
        if not keys or keys - lookups:
            kept.append(statement)
        for key in keys - lookups:
            if bindings.get(key):
                names.setdefault(key, []).append(bindings[key])
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                names.setdefault(key, []).append(statement)
    return Module(name, path, (status.st_mtime_ns, status.st_size), kept, names, stars)


def touched(statement: ast.stmt) -> set[str]:
    """Names that a statement binds or changes: `x = 1`, `x[0] = 1`, `x.append(1)`, also inside `if`, `for`, `with`, `try`."""
    keys = set(bound([statement]))
    for node in _same_scope([statement]):
        changed = node.targets if isinstance(node, ast.Assign) else []
        changed = [node] if isinstance(node, ast.Expr) else changed
        keys |= {n.id for c in changed for n in ast.walk(c) if isinstance(n, ast.Name)}
    return keys


def bound(nodes: Iterable[ast.AST]) -> dict[str, Import | None]:
    """Names that nodes bind in their own scope, with the import where it is one."""
    bindings: dict[str, Import | None] = {}
    outside: set[str] = set()
    for node in _same_scope(nodes):
        if isinstance(node, ast.Import):
            for a in node.names:
                top = a.name.split(".")[0]
                bindings[a.asname or top] = Import(a.name if a.asname else top, None)
        elif isinstance(node, ast.ImportFrom):
            bindings |= {a.asname or a.name: Import(node.module or "", a.name) for a in node.names}
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outside |= set(node.names)
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                bindings.setdefault(node.id, None)
        elif isinstance(getattr(node, "name", None), str) and not isinstance(node, ast.alias):
            bindings.setdefault(node.name, None)  # a function, a class, a caught exception, a matched part
    return {key: value for key, value in bindings.items() if key not in outside}


def _same_scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes and all below them, without what is inside functions, classes and comprehensions."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, SCOPES):
            todo += ast.iter_child_nodes(node)


def _is_lookup(statement: ast.stmt) -> bool:
    """Whether it is `NAME = Lookup(...)`."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
        return False
    return _last_name(statement.value.func) == "Lookup" and isinstance(statement.targets[0], ast.Name)


class _WithoutWords(ast.NodeTransformer):
    """Takes out docstrings, annotations and what is said to people (comments are gone already); makes imports absolute."""

    def __init__(self, package: str):
        self.package, self.in_class = package, False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """`from .x import y` as `from package.x import y`."""
        if node.level:
            parts = self.package.split(".")
            above = parts[: len(parts) - node.level + 1]
            node.module, node.level = ".".join([*above, *filter(None, [node.module])]), 0
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Annotations make fields in it."""
        return self.within(node, True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Takes out what it says it returns."""
        node.returns = None
        return self.within(node, False)

    visit_AsyncFunctionDef = visit_FunctionDef

    def within(self, node: ast.AST, in_class: bool) -> ast.AST:
        """Visit what a definition holds."""
        before, self.in_class = self.in_class, in_class
        self.generic_visit(node)
        self.in_class = before
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Takes out what an argument is said to be."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """`x: int = 1` as `x = 1`; in a class it stays a field, of no type."""
        self.generic_visit(node)
        if self.in_class:
            node.annotation = ast.Constant(None)
            return node
        return node.value and ast.Assign([node.target], node.value)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Takes out docstrings."""
        return None if _is_text(node.value) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keeps an error's type."""
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Keeps the condition."""
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Takes out arguments that are words."""
        name = _last_name(node.func)
        if name == "require":
            node.args, node.keywords = node.args[:1], [k for k in node.keywords if k.arg == "ok"]
        elif name == "error_context" or (name in ("print", "warn") and _is_builtin_or_warnings(node.func)):
            node.args, node.keywords = [], []
        node.keywords = [k for k in node.keywords if k.arg not in WORDS or not _is_text(k.value)]
        return self.generic_visit(node)


def _is_builtin_or_warnings(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) or _last_name(function.value) == "warnings"


def _last_name(node: ast.AST) -> str:
    """`f` of `f` and of `a.b.f`."""
    return getattr(node, "id", None) or getattr(node, "attr", "")


def _is_text(node: ast.AST) -> bool:
    """Whether it is a text as it stands: a literal, formatted or joined."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) and _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
