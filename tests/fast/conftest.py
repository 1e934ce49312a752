"""Fixtures of the fast paths' tests."""

from __future__ import annotations

import pytest

from tests.fast.families import build

_built: dict = {}


@pytest.fixture
def lm(request):
    """The model of the parameter's name, shared by the tests: copy it before changing it."""
    if request.param not in _built:
        _built[request.param] = build(request.param)
    return _built[request.param]


@pytest.fixture
def fresh():
    """A function: name -> a model of its own."""
    return build
