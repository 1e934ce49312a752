"""Gold against KL for optimisers that need no training: the tilted policy and best-of-n, on one pool and one axis.

Letters: P requests, N answers a request, L strengths, U replicates.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd

from rmlab.measure.intervals import CrossedBootstrap, percentile_interval
from rmlab.measure.league import SINGLE, Line
from rmlab.optimise.best_of_n import n_grid
from rmlab.optimise.tilt import best_of_n_weights, beta_for_kl, frontier, tilt
from rmlab.reward.aggregate import AGGREGATORS, aggregate

KLS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)  # nats at which the tilted policies are compared


def table(lines: list[Line], gold: np.ndarray, ended: np.ndarray, hows: tuple[str, ...], replicates: int, seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """A row a line, aggregator, optimiser and strength: exact KL, gold and proxy, and gain over the single model.

    Tilted policies are compared at equal KL (`KLS`, the mean over requests), each replicate at the price `strength` that gives
    it; best-of-n at equal n. `ess` is the effective number of answers a request; gold is in gold units with paired 95%
    bands over requests and replicates.
    """
    resample = CrossedBootstrap(len(gold), replicates, 1, seed=seed)
    found: dict[tuple, list[dict]] = defaultdict(list)
    answers = ended.sum(1).clip(1)  # of a request, that can be chosen
    low, high = np.log(gold.shape[1] / answers).mean(), 0.8 * np.log(answers.min())
    reachable = [k for k in KLS if low < k < high] or [float((low + np.log(gold.shape[1])) / 2)]
    for x in sorted(lines, key=lambda x: x.replicate):
        for how in hows if x.k > 1 else ("mean",):
            rule = AGGREGATORS[how]
            proxy = aggregate(x.pool, how, rule.lam[2] if rule.lam else 1.0).astype(np.float64)
            both = np.stack([gold, proxy], -1)
            betas = [beta_for_kl(proxy, k, ended) for k in reachable]
            ns = n_grid(gold.shape[1])
            curves = {
                "tilt": tilt(proxy, both, betas, ended, floor=0),
                "best_of_n": frontier((best_of_n_weights(proxy, n, ended) for n in ns), both, ns, floor=0),
            }
            for optimiser, curve in curves.items():
                found[x.name, x.kind, how, optimiser].append({"replicate": x.replicate, "curve": curve})
    frames = []
    for (name, kind, how, optimiser), some in found.items():
        every = [run["curve"] for run in some]
        rivals = [run["curve"] for run in found[SINGLE, SINGLE, "mean", optimiser]]
        worth = np.stack([c.values[..., 0] for c in every])  # (U, P, L)
        frame = {
            "line": name, "kind": kind, "how": how, "optimiser": optimiser, "point": np.arange(worth.shape[2]),
            "strength": np.mean([c.strengths for c in every], 0), "kl": np.mean([c.kl for c in every], (0, 1)),
            "ess": np.mean([c.ess for c in every], (0, 1)), "proxy": np.mean([c.values[..., 1] for c in every], (0, 1)),
        }  # fmt: skip
        apart = worth - np.stack([c.values[..., 0] for c in rivals])
        for what, values in (("gold", worth), ("gain", apart)):
            draws = resample.mean(values, [run["replicate"] for run in some], [(0,)] * len(some))
            low, high = percentile_interval(draws)
            frame |= {what: values.mean((0, 1)), f"{what}_lo": low, f"{what}_hi": high}
        frames.append(pd.DataFrame({**frame, "units": len(some)}))
    return pd.concat(frames, ignore_index=True)
