"""A module as code keys see it."""

from __future__ import annotations

import ast

import pytest

from rmlab.syntax import locate, parse

TEXT = '''
"""Words."""
from rmlab.recipe import require
TABLE: Lookup = Lookup(a=1)
NUMBER = 1
if NUMBER:
    OTHER = 2

def f(x: int, scale: float = 2.0) -> float:
    """Words."""
    require(x > 0, "x", x, "a mend")
    if x > 9:
        raise ValueError(f"words about {x}")
    return g(x * scale, label="words")
'''


@pytest.fixture
def module(tmp_path):
    (tmp_path / "some.py").write_text(TEXT)
    return locate(tmp_path, "some")


def code(module) -> str:
    return "\n".join(ast.unparse(s) for s in module.body)


def test_words_for_people_are_left_out(module):
    text = code(module)
    assert not any(w in text for w in ("Words", "mend", "words", "int", "TABLE")) and "scale=2.0" in text
    assert "x > 0" in text and "raise ValueError" in text


def test_names_know_what_binds_them(module):
    assert {"f", "NUMBER", "OTHER", "require", "TABLE"} <= set(module.names) and module.names["TABLE"] == []
    assert (module.names["require"][0].module, module.names["require"][0].name) == ("rmlab.recipe", "require")


def test_a_module_is_read_once_and_not_found_is_none(module, tmp_path):
    assert locate(tmp_path, "some") is module is parse(tmp_path / "some.py", "some")
    assert locate(tmp_path, "none") is None and locate(tmp_path, "") is None
