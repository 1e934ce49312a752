"""What code decides a number: a hash of a function and of every definition that it reaches.

Definitions are followed statically, in rmlab and in the function's own package: names of its module however they are
bound, imports at the top and in bodies, `self.x` of a method. Comments, docstrings, annotations and words for people are no
part of it, nor is what lies outside: versions cover libraries. Each module is parsed once and each definition read once.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rmlab.recipe import require
from rmlab.syntax import FUNCTIONS, Import, Module, bound, locate, parse, touched

PACKAGE = Path(__file__).parent
SELF = object()  # what a method's first argument is bound to


class Lookup(dict):
    """A table that code keys do not follow: who looks an entry up adds that entry's code to the key."""


def code_fingerprint(target: Callable | str) -> str:
    """Hash of the code that computes numbers: of a function, method or class, and of all that it reaches.

    target : a function, method or class of a module; or its name, "rmlab.reward.heads:train", which imports nothing
        ("rmlab.reward.heads": the whole module). A method reaches what it uses of its class, a class used as a value
        is taken whole with its bases, a `Lookup` is not followed. ValueError: it has no place in a file.
    """
    return _closure(_definition_of(target))[0]


def source_stamps(target: Callable | str) -> dict[str, tuple[int, int]]:
    """The files that `code_fingerprint` read for a target: {path: (mtime in ns, bytes) when they were read}."""
    return _closure(_definition_of(target))[1]


class _Definition(NamedTuple):
    """A top-level name of a module, "class.member", or "" for the whole module; no module: a name from outside."""

    module: Module | None
    name: str


def _definition_of(target: Callable | str) -> _Definition:
    """Where a target is defined."""
    if isinstance(target, str):
        home, _, name = target.partition(":")
        module = locate(PACKAGE.parent, home) if home.split(".")[0] == "rmlab" else None
    else:
        function = inspect.unwrap(target)
        holder, name = function, getattr(function, "__qualname__", "<nameless>")
        if inspect.ismethod(function):
            holder = function.__self__ if inspect.isclass(function.__self__) else type(function.__self__)
            name = f"{holder.__qualname__}.{function.__name__}"
        home = getattr(holder, "__module__", "")
        file = Path(getattr(sys.modules.get(home), "__file__", None) or "")
        module = parse(file, file.stem if home == "__main__" else home) if file.suffix == ".py" else None
    known = module is not None and (not name or name.split(".")[0] in module.names) and name.count(".") < 2
    mend = "a function, a method or a class at the top level of a module that has a file"
    require(known, "code", target, mend)
    return _Definition(module, name)


@functools.cache
def _closure(start: _Definition) -> tuple[str, dict[str, tuple[int, int]]]:
    """The hash and the files of all that a definition reaches."""
    seen, todo, stamps = {}, [start], {}
    while todo:
        definition = todo.pop()
        if definition not in seen:
            seen[definition], reached, modules = _read(definition)
            todo += reached
            stamps |= {str(module.path): module.stamp for module in modules}
    lines = sorted(f"{d.module.name if d.module else ''}:{d.name}:{code}" for d, code in seen.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), stamps


@functools.cache
def _read(definition: _Definition) -> tuple[str, set[_Definition], set[Module]]:
    """A definition's own code, the definitions that it names, and the modules that it stands in."""
    module, name = definition
    if module is None:
        return "", set(), set()
    head, _, member = name.partition(".")
    pieces = _members(module, head, member) if member else []
    if not pieces:
        entries = module.names.get(head, ()) if name else module.body
        pieces = [(module, None, entry) for entry in entries if not isinstance(entry, Import)]
    reached, modules = set(), {module}
    for home, owner, statement in pieces:
        modules.add(home)
        reader = _Reader(home, definition, owner, statement)
        reader.visit(statement)
        reached |= reader.reached
    return " ".join(ast.dump(piece, annotate_fields=False) for *_, piece in pieces), reached, modules


def _members(module: Module, owner: str, member: str) -> list[tuple[Module, ast.ClassDef, ast.stmt]]:
    """What binds a member of a class, in the class itself or in the first base that has it.

    What no class statement binds is set by a constructor, if the class has one.
    """
    for home, node in _classes(module, owner):
        pieces = [(home, node, statement) for statement in node.body if member in touched(statement)]
        if pieces:
            return pieces
    if member in ("__init__", "__post_init__"):
        return []
    return [*_members(module, owner, "__init__"), *_members(module, owner, "__post_init__")]


def _classes(module: Module, name: str) -> Iterator[tuple[Module, ast.ClassDef]]:
    """A class and its bases as far as they are followed."""
    for node in module.names.get(name, ()):
        if isinstance(node, ast.ClassDef):
            yield module, node
            for base in node.bases:
                reader = _Reader(module)
                reader.visit(base)
                for definition in sorted(reader.reached, key=lambda d: d.name):
                    if definition.module and definition != (module, name):
                        yield from _classes(*definition)


class _Reader(ast.NodeVisitor):
    """Collects the definitions that code of a module names; local names hide a module's as they do in Python."""

    def __init__(
        self,
        module: Module,
        definition: _Definition | None = None,
        owner: ast.ClassDef | None = None,
        statement: ast.stmt | None = None,
    ):
        self.module, self.definition, self.owner = module, definition, owner
        self.method = statement if owner and isinstance(statement, FUNCTIONS) else None
        self.scopes: list[dict] = []
        self.reached: set[_Definition] = set()

    def visit_Name(self, node: ast.Name) -> None:
        """A name that is read."""
        if isinstance(node.ctx, ast.Load):
            self.follow(node.id, ())

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """`x += 1` reads x too."""
        if isinstance(node.target, ast.Name):
            self.follow(node.target.id, ())
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """`a.b.c` is followed as far as its parts are modules."""
        rest: tuple[str, ...] = ()
        while isinstance(node, ast.Attribute):
            node, rest = node.value, (node.attr, *rest)
        if isinstance(node, ast.Name):
            self.follow(node.id, rest)
        else:
            self.visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A scope of its own; decorators and defaults stand outside."""
        decorators, arguments = getattr(node, "decorator_list", []), node.args
        for expression in filter(None, [*decorators, *arguments.defaults, *arguments.kw_defaults]):
            self.visit(expression)
        positional = [*arguments.posonlyargs, *arguments.args]
        others = [*arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
        names = {a.arg: None for a in [*positional, *others]}
        static = any(getattr(d, "id", "") == "staticmethod" for d in decorators)
        if node is self.method and positional and not static:
            names[positional[0].arg] = SELF
        body = node.body if isinstance(node.body, list) else [node.body]
        self.enter(names | bound(body), body)

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_ListComp(self, node: ast.ListComp) -> None:
        """A scope of its own, but for the first iterable."""
        self.visit(node.generators[0].iter)
        self.enter(bound([g.target for g in node.generators]), ast.iter_child_nodes(node))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def enter(self, names: dict, nodes: Iterable[ast.AST]) -> None:
        """Visit nodes in a scope of their own."""
        self.scopes.append(names)
        for node in nodes:
            self.visit(node)
        self.scopes.pop()

    def follow(self, head: str, rest: tuple[str, ...]) -> None:
        """Note what `head.rest` is, unless it is local."""
        names = next((names for names in reversed(self.scopes) if head in names), None)
        if names is None:
            if head == "super" and self.owner:
                for base in self.owner.bases:
                    self.visit(base)
            self.reached |= _resolve(self.module, head, rest)
        elif names[head] is SELF:
            home, owner = self.definition.module, self.definition.name.split(".")[0]
            whole = not rest or rest[0].startswith("__")  # it is handed on, or its class is asked for
            self.reached.add(_Definition(home, owner if whole else f"{owner}.{rest[0]}"))
        elif names[head]:
            self.reached |= _follow(self.module, names[head], rest)


def _resolve(module: Module, head: str, rest: tuple[str, ...]) -> set[_Definition]:
    """What a top-level name of a module is; a builtin is nothing."""
    if head not in module.names:
        return set().union(*(_follow(module, Import(star, head), rest) for star in module.stars))
    imports = [entry for entry in module.names[head] if isinstance(entry, Import)]
    return {_Definition(module, head)}.union(*(_follow(module, entry, rest) for entry in imports))


def _follow(module: Module, entry: Import, rest: tuple[str, ...]) -> set[_Definition]:
    """What an import binds, `rest` being the attributes that are taken of it."""
    dotted, chain = entry.module, (*((entry.name,) if entry.name else ()), *rest)
    root = _root(module, dotted)
    if root is None:
        return {_Definition(None, ".".join(filter(None, entry)))}
    home = locate(root, dotted)
    while chain and not (home and chain[0] in home.names) and locate(root, f"{dotted}.{chain[0]}"):
        dotted, chain = f"{dotted}.{chain[0]}", chain[1:]
        home = locate(root, dotted)
    if home is None:
        return {_Definition(None, ".".join(filter(None, entry)))}
    if not chain:
        return {_Definition(home, "")}
    if chain[0] not in home.names and "__getattr__" in home.names:  # loaded when it is first used: ask for it
        value = getattr(importlib.import_module(home.name), chain[0], None)
        home = locate(root, getattr(value, "__module__", None) or "")
        return _resolve(home, value.__qualname__, ()) if home else set()
    return _resolve(home, chain[0], chain[1:])


def _root(module: Module, dotted: str) -> Path | None:
    """The folder to look a dotted name up in: rmlab's, or that of the module's own package; None for all others."""
    names, top = module.name.split("."), dotted.split(".")[0]
    if top == "rmlab":
        return PACKAGE.parent
    depth = len(names) - (module.path.name != "__init__.py")
    return module.path.parents[depth] if top == names[0] else None
