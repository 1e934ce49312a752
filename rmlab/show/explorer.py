"""The explorer: one widget that computes in the browser, in a notebook and on a page with no kernel.

    from rmlab.show.explorer import Explorer
    from rmlab.show.rows import pool

    Explorer(pool(), construction="finetune", how="min")

The page carries a compact pool; `explorer_math.mjs` aggregates and sorts, a test holding its numbers equal
to `CompactPool`'s, and `explorer.mjs` draws.
"""

from __future__ import annotations

import re
from pathlib import Path

import anywidget
import traitlets

from rmlab.optimise.compact import CompactPool
from rmlab.reward.aggregate import AGGREGATORS, aggregate
from rmlab.show.style import LOOKS

HERE = Path(__file__).parent
MODULES = ("explorer_math.mjs", "explorer_plot.mjs", "explorer.mjs")  # each imports from those before it
LIMIT = 800_000  # bytes of data a page may carry


def script() -> str:
    """The modules as one, which is all that a widget may have."""
    modules = "".join((HERE / name).read_text("utf-8") for name in MODULES)
    return re.sub(r'^import \{[^}]*\} from "\./explorer_\w+\.mjs";$', "", modules, flags=re.M)


class Explorer(anywidget.AnyWidget):
    """Drag n or beta, choose judges and an aggregator; see gold and proxy, and read the answer that wins.

    Parameters
    ----------
    pool : CompactPool, at most 800 KB in the page
    construction : "single" (one member judges) or the name of one of the pool's constructions; those that
        share a `series` are one line in the menu, and a slider goes through their sizes
    members : columns of the pool that judge, from the construction; unless said all of them,
        the first for "single"
    how, lam : the aggregator and its strength, as in `rmlab.reward.aggregate.aggregate`, or how="gold";
        lam is the aggregator's usual one unless said
    n : answers to choose from, 1 to the pool's N; 64, or N where that is less
    prompt : which request is shown, from 0
    optimiser : "best_of_n", or "tilt": the exact KL-regularised optimum on the pool, `CompactPool.tilted`
    beta : the tilt's price of a nat, in the proxy's unit; the browser keeps it where the pool's KL goes from
        about 0 to about log N - 1

    Every parameter but the pool is a trait, synced both ways: set it and the picture follows, move a control
    and it changes; what the pool does not have, the browser sets right. `result` is what the browser
    computed: gold and proxy at n, peak_n and peak_gold, all means over prompts; of the tilt also kl, and ess
    (harmonic mean), with peak_beta (None: no tilt is best) among what at least 10 effective answers represent.

    Raises
    ------
    ValueError : a pool too large for a page, or a state that the pool does not have
    """

    _esm = script()
    _css = HERE / "explorer.css"
    meta = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    construction = traitlets.Unicode("single").tag(sync=True)
    members = traitlets.List(traitlets.Int()).tag(sync=True)
    how = traitlets.Unicode("mean").tag(sync=True)
    lam = traitlets.Float(1.0).tag(sync=True)
    n = traitlets.Int(64).tag(sync=True)
    prompt = traitlets.Int(0).tag(sync=True)
    optimiser = traitlets.Unicode("best_of_n").tag(sync=True)
    beta = traitlets.Float(0.25).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        pool: CompactPool,
        construction: str = "single",
        members: list[int] | None = None,
        how: str = "mean",
        lam: float | None = None,
        n: int | None = None,
        prompt: int = 0,
        optimiser: str = "best_of_n",
        beta: float = 0.25,
    ):
        size = pool.nbytes_in_page()
        if size > LIMIT:
            raise ValueError(
                f"pool takes {size:,} bytes in the page: give fewer prompts or a smaller keep, for {LIMIT:,}"
            )
        families = {"single": list(range(len(pool.columns)))} | {
            c["name"]: list(c["members"]) for c in pool.constructions
        }
        if construction not in families:
            raise ValueError(f"construction = {construction!r}: give one of {', '.join(families)}")
        family = families[construction]
        if members is None:
            members = family[:1] if construction == "single" else family
        members = list(members)
        if not members or not set(members) <= set(family) or (construction == "single" and len(members) > 1):
            some = "one column" if construction == "single" else "one or more"
            raise ValueError(f"members = {members}: {construction!r} takes {some} of {family}")
        if lam is None:
            lam = AGGREGATORS[how].lam[2] if how in AGGREGATORS and AGGREGATORS[how].lam else 1.0
        if how != "gold":
            aggregate([[0.0]], how, lam)  # raises for an unknown name or a lam out of range
        n = min(64, pool.N) if n is None else n
        if not 1 <= n <= pool.N:
            raise ValueError(f"n = {n}: give 1 to {pool.N}, the answers in the pool")
        if not 0 <= prompt < len(pool.prompts):
            raise ValueError(f"prompt = {prompt}: give 0 to {len(pool.prompts) - 1}")
        if optimiser not in ("best_of_n", "tilt"):
            raise ValueError(f"optimiser = {optimiser!r}: give 'best_of_n' or 'tilt'")
        if not 0 < beta < float("inf"):
            raise ValueError(f"beta = {beta}: give a finite price of a nat above 0")
        meta, data = pool.packed()
        meta["looks"] = {name: _look(name) for name in families} | {
            c["name"]: _look(c["name"], c.get("series")) for c in pool.constructions
        }
        super().__init__(
            meta=meta,
            data=data,
            construction=construction,
            members=members,
            how=how,
            lam=float(lam),
            n=n,
            prompt=prompt,
            optimiser=optimiser,
            beta=float(beta),
        )


def _look(*names: str | None) -> list[str]:
    """Colour and SVG dashes of the first name that the book's style knows, or else of a single model."""
    look = LOOKS[next((name for name in names if name in LOOKS), "single")]
    return [look.color, "none" if look.dash == "-" else " ".join(f"{2 * d:g}" for d in look.dash[1])]
