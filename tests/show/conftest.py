from __future__ import annotations

import numpy as np
import pytest

from rmlab.show import figures_best_of_n, figures_members, figures_ppo, style


@pytest.fixture
def panels(monkeypatch):
    """The axes of every figure drawn in a test: what a reader sees, before it is a picture."""
    seen = []

    def canvas(*args, **kw):
        fig, axes = style.canvas(*args, **kw)
        seen.extend(np.atleast_1d(axes).ravel())
        return fig, axes

    for module in (figures_best_of_n, figures_members, figures_ppo):
        monkeypatch.setattr(module, "canvas", canvas)
    return seen
