"""The explorer: one widget that computes in the browser, in JupyterLab, in Colab and on a page with no kernel.

    from rmlab.show.explorer import Explorer
    from rmlab.show.rows import pool

    Explorer(pool(), construction="finetune", how="min")

The page carries a compact pool; `explorer.mjs` aggregates, sorts and draws, and a test holds its numbers equal
to `CompactPool`'s.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from rmlab.optimise.compact import CompactPool

HERE = Path(__file__).parent
LIMIT = 800_000  # bytes of data a page may carry


class Explorer(anywidget.AnyWidget):
    """Drag n, choose judges and an aggregator; see gold and proxy, and read the answer that wins.

    Parameters
    ----------
    pool : CompactPool, at most 800 KB in the page
    construction : "single" or the name of one of the pool's constructions
    members : columns that judge; all of the construction's unless said
    how, lam : the aggregator and its strength, as in `rmlab.reward.aggregate`; `how="gold"` asks gold itself
    n : answers to choose from, 1 to the pool's N; prompt : which request is shown

    All of these are traits, synced both ways; `result` holds gold, proxy, peak_n and peak_gold as the browser computed them.
    """

    _esm = HERE / "explorer.mjs"
    _css = HERE / "explorer.css"
    meta = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    construction = traitlets.Unicode("single").tag(sync=True)
    members = traitlets.List(traitlets.Int()).tag(sync=True)
    how = traitlets.Unicode("mean").tag(sync=True)
    lam = traitlets.Float(1.0).tag(sync=True)
    n = traitlets.Int(64).tag(sync=True)
    prompt = traitlets.Int(0).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(self, pool: CompactPool, construction: str = "single", members: list[int] | None = None, **state):
        size = pool.nbytes_in_page()
        if size > LIMIT:
            raise ValueError(f"pool takes {size:,} bytes in the page: build it with fewer prompts or a smaller `keep`, {LIMIT:,} at most")
        known = {c["name"]: list(c["members"]) for c in pool.constructions}
        if construction != "single" and construction not in known:
            raise ValueError(f"construction = {construction!r}: give 'single' or one of {sorted(known)}")
        if members is None:
            members = [0] if construction == "single" else known[construction]
        meta, data = pool.packed()
        super().__init__(meta=meta, data=data, construction=construction, members=list(members), **state)
