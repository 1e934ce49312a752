"""The explorer: one widget that computes in the browser, in a notebook and on a page with no kernel.

    from rmlab.show.explorer import Explorer
    from rmlab.show.rows import pool, rows

    Explorer(pool(), ensemble="finetune", aggregator="min")
    Explorer(pool(), curves=rows("curves"))  # beside the study's means over its replicates
    Explorer(CompactPool.from_text(prompts, answers, member_scores, gold))

The page carries a compact pool: words or text, gold as a bill, as a number or not at all. Six JavaScript modules, joined into one with `widget.mjs`, do the rest: `explorer_math.mjs`
aggregates and sorts, a test holding its numbers equal to `CompactPool`'s; `explorer_study.mjs` reads a study's rows; `explorer_state.mjs` makes the
traits sound and computes the curves; `explorer_plot.mjs` and `explorer_panels.mjs` draw; `explorer.mjs`
wires them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anywidget
import traitlets

from rmlab.optimise.compact import PAGE_BYTES, CompactPool
from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, aggregate
from rmlab.show import widgets
from rmlab.show.explorer_study import study_curves
from rmlab.show.style import LOOKS

if TYPE_CHECKING:
    import pandas as pd

    from rmlab.workbench.pool import Pool

MODULES = (
    "explorer_math",
    "explorer_study",
    "explorer_state",
    "explorer_plot",
    "explorer_panels",
    "explorer",
)  # in import order


def script() -> str:
    """The modules as one, which is all that a widget may have."""
    return widgets.script(*MODULES)


class Explorer(anywidget.AnyWidget):
    """Drag n or beta, choose judges and an aggregator; see gold and proxy, and read the answer that wins.

    Parameters
    ----------
    pool : a `rmlab.Pool`, or a CompactPool of at most 800 KB in the page. Where it has no gold, the members that do not judge (their
        mean) take its place; where all judge, the proxy is shown alone
    ensemble : "single" (one member judges) or the name of one of the pool's ensembles; those that share a
        `series` are one line in the menu, and a slider goes through their sizes
    members : columns of the pool that judge, from the ensemble; unless said all of them, the first for
        "single"
    aggregator, strength : as in `rmlab.reward.aggregate.aggregate`, or aggregator="gold" where the pool has
        it; the strength is the aggregator's usual one unless said
    n : answers to choose from, 1 to the pool's N; 64, or N where that is less
    prompt : which request is shown, from 0
    optimiser : "best_of_n", or "tilt": the exact KL-regularised optimum on the pool, `CompactPool.tilted`
    beta : the tilt's price of a nat, in the proxy's unit; the browser keeps it where the pool's KL goes from
        about 0 to about log N - 1
    curves : the table `curves` of the study that the pool is a corner of. Where the state is one of its best-of-n rows
        (every member, the paper's strength), the study's mean gold leads, with its 95% interval as a band, and the
        pool's own is a thin line; where it is none, the page says so

    Every parameter but the pool and the curves is a trait, synced both ways: set it and the picture follows, move a control
    and it changes; what the pool does not have, the browser sets right. `result` is what the browser
    computed: gold and proxy at n, peak_n and peak_gold, all means over prompts; of the tilt also kl, and ess
    (harmonic mean), with peak_beta (None: no tilt is best) among what at least 10 effective answers
    represent; of a study's row study_gold, study_low, study_high and study_proxy. Without gold it has held_out and
    peak_held_out in their place, or the proxy alone.

    Raises
    ------
    ValueError : a pool too large for a page, a state that the pool does not have, or curves that are not the pool's
    """

    _esm = script()
    _css = widgets.style_sheet("explorer")
    meta = traitlets.Dict().tag(sync=True, to_json=widgets.escaped, from_json=widgets.unescaped)
    data = traitlets.Bytes().tag(sync=True)
    study = traitlets.Bytes().tag(sync=True)
    ensemble = traitlets.Unicode("single").tag(sync=True)
    members = traitlets.List(traitlets.Int()).tag(sync=True)
    aggregator = traitlets.Unicode("mean").tag(sync=True)
    strength = traitlets.Float(1.0).tag(sync=True)
    n = traitlets.Int(64).tag(sync=True)
    prompt = traitlets.Int(0).tag(sync=True)
    optimiser = traitlets.Unicode("best_of_n").tag(sync=True)
    beta = traitlets.Float(0.25).tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        pool: CompactPool | Pool,
        ensemble: str = "single",
        members: list[int] | None = None,
        aggregator: str = "mean",
        strength: float | None = None,
        n: int | None = None,
        prompt: int = 0,
        optimiser: str = "best_of_n",
        beta: float = 0.25,
        curves: pd.DataFrame | None = None,
    ):
        pool = pool.compact() if hasattr(pool, "compact") else pool
        study = None if curves is None else study_curves(pool, curves)
        size = pool.nbytes_in_page() + (study.nbytes_in_page() if study else 0)
        mend = f"at most {PAGE_BYTES}: fewer prompts, or a smaller keep"
        require(size <= PAGE_BYTES, "bytes of pool", size, mend)
        known = aggregator != "gold" or pool.gold is not None
        require(known, "aggregator", aggregator, "another one: this pool has no gold")
        n = min(64, pool.N) if n is None else n
        require(1 <= n <= pool.N, "n", n, f"1 to {pool.N}, the answers in the pool")
        require(0 <= prompt < len(pool.prompts), "prompt", prompt, f"0 to {len(pool.prompts) - 1}")
        require(optimiser in ("best_of_n", "tilt"), "optimiser", optimiser, "'best_of_n' or 'tilt'")
        require(0 < beta < math.inf, "beta", beta, "a finite price of a nat above 0")
        meta, data = pool.packed()
        meta["looks"] = {"single": _look("single")}
        meta["looks"] |= {e["name"]: _look(e["name"], e.get("series")) for e in pool.ensembles}
        meta["study"], numbers = study.packed() if study else (None, b"")
        super().__init__(
            meta=meta,
            data=data,
            study=numbers,
            ensemble=ensemble,
            members=_members(pool, ensemble, members),
            aggregator=aggregator,
            strength=_strength(aggregator, strength),
            n=n,
            prompt=prompt,
            optimiser=optimiser,
            beta=float(beta),
        )


def _members(pool: CompactPool, ensemble: str, members: list[int] | None) -> list[int]:
    """The columns that judge: those of the ensemble that were asked for, or the usual ones."""
    single = {"single": list(range(len(pool.columns)))}
    ensembles = single | {e["name"]: list(e["members"]) for e in pool.ensembles}
    require(ensemble in ensembles, "ensemble", ensemble, f"one of {', '.join(ensembles)}")
    columns = ensembles[ensemble]
    if members is None:
        return columns[:1] if ensemble == "single" else columns
    members, most = list(members), 1 if ensemble == "single" else len(columns)
    fits = members and set(members) <= set(columns) and len(members) <= most
    require(fits, "members", members, f"1 to {most} of {columns}, the columns of {ensemble!r}")
    return members


def _strength(aggregator: str, strength: float | None) -> float:
    """The aggregator's strength, its usual one unless said."""
    if aggregator == "gold":
        return 1.0 if strength is None else float(strength)
    require(aggregator in AGGREGATORS, "aggregator", aggregator, f"one of {', '.join(AGGREGATORS)}, or gold")
    *_, span = AGGREGATORS[aggregator]  # lowest, highest and usual strength, or None
    if strength is None:
        strength = span[2] if span else 1.0
    aggregate([[0.0]], aggregator, strength)  # raises for a strength out of range
    return float(strength)


def _look(*names: str | None) -> list[str]:
    """Colour and SVG dashes of the first name that the book's style knows, or else of a single model."""
    return widgets.colour_and_dashes(LOOKS[next((name for name in names if name in LOOKS), "single")])
