"""Which edits move a code key: those that can move a number, wherever they stand, and no others."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from rmlab import fingerprint, syntax
from rmlab.fingerprint import code_fingerprint, source_stamps

FILES = {
    "__init__.py": """
_HOMES = {"train": "stages"}


def __getattr__(name):
    import importlib

    return getattr(importlib.import_module(f"rmlab.{_HOMES[name]}"), name)
""",
    "recipe.py": '''
def require(ok, name, value, mend):
    """Refuse."""
    if not ok:
        raise ValueError(f"{name} = {value!r}: give {mend}")
''',
    "maths.py": '''
"""Numbers."""
import math
from rmlab.recipe import require

RATE = 3
LIMITS = {"low": 0}
LIMITS["high"] = 10
LIMITS.update(middle=5)
for name in ("a", "b"):
    LIMITS[name] = RATE + 1
if RATE > 2:
    def scaled(x):
        return x * 2
else:
    def scaled(x):
        return x
try:
    from math import log2 as log
except ImportError:
    from math import log1p as log
with open("/dev/null") as nothing:
    OPENED = 5
FIRST, SECOND = 6, 7
UNUSED = 8


def helper(x: int) -> float:
    """Some words."""
    total: float = x * RATE
    require(x > 0, "x", x, "at least 1")
    if x > LIMITS["high"]:
        raise ValueError(f"too large: {x}")
    assert x < 50, "too small"
    print("going", x)
    return log(scaled(total)) + OPENED + SECOND


def local(helper, UNUSED=4):
    unused = [scaled for scaled in helper]
    return sum(unused) + 44


def _own(x):
    return x + 11


def counts(x):
    global RATE
    RATE += 1
    return [_own(y) for y in x]
''',
    "tables.py": """
from rmlab.fingerprint import Lookup
from rmlab.maths import helper

METHODS: Lookup[str, object] = Lookup(one=helper)
METHODS["two"] = 21
PLAIN = {"three": 22}
""",
    "models.py": """
from dataclasses import dataclass
from rmlab import maths
from rmlab.tables import METHODS, PLAIN


class Base:
    POWER = 31

    def power(self, x):
        return x**self.POWER

    def other(self, x):
        return 32


@dataclass
class Model(Base):
    width: int = 33

    def score(self, x):
        return self.power(x) + self.width + self._hidden(x)

    def _hidden(self, x):
        return 34

    def away(self, x):
        return maths.local(x) + 35

    def late(self, x):
        return self.cache + 38

    def __post_init__(self):
        self.cache = 39

    def whole(self, x):
        return other(self, x)


def other(model, x):
    return model.away(x) + 36


def spec(method):
    return Spec(METHODS[method], label="a label", source=f"paper {method}", size=37)


class Spec:
    def __init__(self, entry, label, source, size):
        self.entry, self.text, self.source, self.size = entry, label, source, size
""",
    "stages.py": """
from rmlab.recipe import require
from rmlab.models import spec


def train(out, settings, local=None):
    from rmlab.maths import helper

    with error_context(f"training {out}"):
        return helper(settings.x) + _mine(41)


def _mine(x):
    return x + 42


def error_context(text):
    yield


def table(out, settings):
    return spec(settings.method), dict(source=43, label=settings.x)


def model(out, settings, train):
    from rmlab.models import Model

    return Model(settings.x)


def modules(out, settings):
    from rmlab import maths as numbers
    import rmlab.models

    return numbers.local(rmlab.models.other)
""",
}
TARGETS = {
    "train": "rmlab.stages:train",
    "table": "rmlab.stages:table",
    "model": "rmlab.stages:model",
    "modules": "rmlab.stages:modules",
    "counts": "rmlab.maths:counts",
    "score": "rmlab.models:Model.score",
    "late": "rmlab.models:Model.late",
    "whole": "rmlab.models:Model.whole",
    "tables": "rmlab.tables",
}
EDITS = [  # file, old, new, the targets that move
    ("maths.py", "RATE = 3", "RATE = 4", {"train", "counts"}),
    ("maths.py", '{"low": 0}', '{"low": 1}', {"train"}),
    ("maths.py", '["high"] = 10', '["high"] = 12', {"train"}),
    ("maths.py", "middle=5", "middle=6", {"train"}),
    ("maths.py", 'in ("a", "b")', 'in ("a", "c")', {"train"}),
    ("maths.py", "RATE + 1\n", "RATE + 2\n", {"train"}),
    ("maths.py", "if RATE > 2", "if RATE > 3", {"train"}),
    ("maths.py", "return x * 2", "return x * 3", {"train"}),
    ("maths.py", "import log2 as log", "import log10 as log", {"train"}),
    ("maths.py", "OPENED = 5", "OPENED = 6", {"train"}),
    ("maths.py", "FIRST, SECOND = 6, 7", "FIRST, SECOND = 6, 8", {"train"}),
    ("maths.py", "UNUSED = 8", "UNUSED = 9", set()),
    ("maths.py", "require(x > 0", "require(x > 1", {"train"}),
    ("maths.py", "raise ValueError(", "raise TypeError(", {"train"}),
    ("maths.py", "x < 50", "x < 51", {"train"}),
    ("maths.py", "+ 44", "+ 45", {"model", "modules", "whole"}),
    ("maths.py", "UNUSED=4", "UNUSED=5", {"model", "modules", "whole"}),
    ("maths.py", "return x + 11", "return x + 12", {"counts"}),
    ("recipe.py", "if not ok", "if ok", {"train"}),
    ("tables.py", '{"three": 22}', '{"three": 23}', {"tables"}),
    ("models.py", "POWER = 31", "POWER = 30", {"model", "score", "whole"}),
    ("models.py", "return x**self.POWER", "return x*self.POWER", {"model", "score", "whole"}),
    ("models.py", "return 32", "return 30", {"model", "whole"}),
    ("models.py", "width: int = 33", "width: int = 30", {"model", "score", "whole"}),
    ("models.py", "return 34", "return 30", {"model", "score", "whole"}),
    ("models.py", "+ 35", "+ 30", {"model", "whole"}),
    ("models.py", "+ 36", "+ 30", {"model", "modules", "whole"}),
    ("models.py", "size=37", "size=30", {"table"}),
    ("models.py", "+ 38", "+ 30", {"model", "late", "whole"}),
    ("models.py", "self.cache = 39", "self.cache = 30", {"model", "late", "whole"}),
    ("models.py", "label, source, size\n", "source, label, size\n", {"table"}),
    ("stages.py", "_mine(41)", "_mine(40)", {"train"}),
    ("stages.py", "return x + 42", "return x + 40", {"train"}),
    ("stages.py", "source=43", "source=40", {"table"}),
    ("stages.py", "label=settings.x", "label=settings.y", {"table"}),
    # no number can move
    ("maths.py", '"""Numbers."""', '"""Other words."""', set()),
    ("maths.py", '"""Some words."""', '"""Other words."""', set()),
    ("maths.py", '    """Some words."""\n', "    # a comment\n", set()),
    ("maths.py", "x: int) -> float", "x: float) -> int", set()),
    ("maths.py", "total: float = x", "total = x", set()),
    ("maths.py", '"x", x, "at least 1"', '"y", x + 1, "more"', set()),
    ("maths.py", 'f"too large: {x}"', 'f"{x} is large", x', set()),
    ("maths.py", '"too small"', '"too large"', set()),
    ("maths.py", 'print("going", x)', "print()", set()),
    ("recipe.py", 'f"{name} = {value!r}: give {mend}"', "name", set()),
    ("tables.py", "one=helper", "one=None", set()),
    ("tables.py", '["two"] = 21', '["two"] = 20', set()),
    ("models.py", 'label="a label"', 'label="another"', set()),
    ("models.py", 'source=f"paper {method}"', 'source="paper"', set()),
    ("models.py", "width: int = 33", 'width: "float" = 33', set()),
    ("stages.py", 'error_context(f"training {out}")', "error_context()", set()),
]


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Fingerprints of `TARGETS` in a package in `tmp_path`, read anew at every call."""
    package = tmp_path / "rmlab"
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text)
    monkeypatch.setattr(fingerprint, "PACKAGE", package)

    def read() -> dict[str, str]:
        clear()
        return {name: code_fingerprint(target) for name, target in TARGETS.items()}

    yield read
    clear()


def clear() -> None:
    for cached in (fingerprint._closure, fingerprint._read, syntax.locate, syntax.parse):
        cached.cache_clear()


def test_an_edit_moves_the_keys_of_what_it_reaches_and_no_others(keys, tmp_path):
    before = keys()
    assert len(set(before.values())) == len(TARGETS)
    for file, old, new, moved in EDITS:
        path = tmp_path / "rmlab" / file
        text = path.read_text()
        assert old in text, (file, old)
        path.write_text(text.replace(old, new, 1))
        after = keys()
        assert {n for n in TARGETS if after[n] != before[n]} == moved, (file, old, new)
        path.write_text(text)
    assert keys() == before


def test_a_function_and_its_name_have_one_key():
    from rmlab.noise import flip_mask

    assert code_fingerprint(flip_mask) == code_fingerprint("rmlab.noise:flip_mask")
    assert next(iter(source_stamps(flip_mask))).endswith("noise.py")


OUTSIDE = {
    "__init__.py": "",
    "base.py": """
class Source:
    def gold(self, x):
        return self.scaled(x) + 1

    def scaled(self, x):
        return x
""",
    "stages.py": """
import rmlab
from .base import Source
from .numbers import *


def stage(out, settings):
    return _helper(rmlab.aggregate(out, "mean")) + STARRED


def _helper(x):
    return x + 2


class Text(Source):
    def scaled(self, x):
        return x + 3
""",
    "numbers.py": "STARRED = 4\n",
}


def test_a_package_outside_is_followed_as_rmlab_is(tmp_path, monkeypatch):
    """Its own helpers, relative and star imports, lazily loaded names of rmlab; a bound method's overridden parts."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "outside"
    package.mkdir()
    for name, text in OUTSIDE.items():
        (package / name).write_text(text)
    stages = importlib.import_module("outside.stages")
    targets = {"stage": stages.stage, "gold": stages.Text().gold}

    def keys():
        clear()
        return {name: code_fingerprint(target) for name, target in targets.items()}

    before = keys()
    files = {n: {"/".join(Path(f).parts[-2:]) for f in source_stamps(t)} for n, t in targets.items()}
    assert {"outside/stages.py", "outside/numbers.py", "reward/aggregate.py"} <= files["stage"]
    assert files["gold"] == {"outside/stages.py", "outside/base.py"}
    edits = [
        ("stages.py", "x + 2", "stage"),
        ("numbers.py", "= 4", "stage"),
        ("stages.py", "x + 3", "gold"),
        ("base.py", "+ 1", "gold"),
    ]
    for file, old, moved in edits:
        text = (package / file).read_text()
        (package / file).write_text(text.replace(old, old[:-1] + "9"))
        after = keys()
        assert [n for n in targets if after[n] != before[n]] == [moved], (file, old)
        (package / file).write_text(text)


def test_what_has_no_place_in_a_file_is_refused():
    def inner(out, settings):
        pass

    for target in (
        inner,
        lambda out: None,
        len,
        functools.partial(inner),
        "rmlab.nothing:f",
        "rmlab.noise:f",
        "json:dumps",
        3,
    ):
        with pytest.raises(
            ValueError, match=r"^code = .*: give a function, a method or a class at the top level"
        ):
            code_fingerprint(target)


def test_every_name_of_the_package_has_a_key():
    code = """
from rmlab import fingerprint, syntax
count = 0
for path in sorted(fingerprint.PACKAGE.rglob("*.py")):
    name = ".".join(path.relative_to(fingerprint.PACKAGE.parent).with_suffix("").parts)
    if path.name != "__init__.py":
        for key in syntax.locate(fingerprint.PACKAGE.parent, name).names:
            fingerprint.code_fingerprint(f"{name}:{key}")
            count += 1
print(count)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 500
