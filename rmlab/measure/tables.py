"""From scores to rows: the tables that figures, chapters and claims read. Rows are keyed by ids, never by position."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure import underspecification
from rmlab.measure.intervals import CrossedBootstrap, percentile_interval
from rmlab.optimise.best_of_n import KL_NAME, best_of_n, ess, kl_bound, n_grid
from rmlab.optimise.pool import Pool
from rmlab.recipe import Members
from rmlab.reward.aggregate import AGGREGATORS, aggregate
from rmlab.reward.grid import Ensemble, ensembles

CENTRING = "global: mean 0 and std 1 on the answers of the held-out pairs"
ORACLE = "oracle"


def write(
    out: Path, parts: list[Path], members: list[Path], sights: list[Path], recipe: dict, id: str
) -> None:
    """Read what the stages wrote and write `curves`, `units`, `peaks`, `contrasts`, `transfer`, `agreement`, `members`, `probes` and `sight`."""
    pool = Pool.load([p / "pool.npz" for p in parts])
    models = [read_model(m) for m in members]
    scores = {i: m["pool"][..., k] for m in models for k, i in enumerate(m["ids"])}
    grid = Members(**{**recipe["members"], "heads": tuple(recipe["members"]["heads"])})
    draws = recipe["labels"]["draws"]
    resample = CrossedBootstrap(len(pool.gold), draws, grid.pretrain, seed=recipe["seed"])
    units = score_units(pool, scores, ensembles(grid, draws))
    about = {"study": recipe["name"], "recipe": id, "seed": recipe["seed"]}
    tables = {
        "curves": curves(units, resample),
        "units": per_unit(units),
        "peaks": peaks(units, resample),
        "contrasts": contrasts(units, resample),
        "transfer": underspecification.transfer(pool, scores, resample),
        "agreement": underspecification.agreement(pool, models),
        "members": underspecification.accuracy(models),
        "probes": underspecification.probes(models, recipe),
        "sight": underspecification.sight([read_model(s) for s in sights], recipe),
    }
    for name, table in tables.items():
        for column, value in reversed(about.items()):
            table.insert(0, column, value)
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.5g", lineterminator="\n")


def read_model(folder: Path) -> dict:
    """A trained model's facts and its aligned scores: `pool` (P, N, K), `heldout` (M, 2, K), `probes` (P, C, K), `ids`."""
    from rmlab.reward.grid import Model

    facts = json.loads((folder / "model.json").read_text())
    data = np.load(folder / "scores.npz")
    model = Model(**{k: facts[k] for k in ("draw", "backbone", "finetune", "heads")})
    return {**facts, "ids": model.ids, **{name: data[name] for name in data.files}}


class Unit:
    """One ensemble under one aggregator: its curves (P, L) of gold and proxy, and of gold minus its rivals'."""

    def __init__(self, ensemble: Ensemble, how: str, lam: float | None, gold, proxy, gain):
        self.ensemble, self.how, self.lam = ensemble, how, lam
        self.gold, self.proxy, self.gain = gold, proxy, gain


def score_units(pool: Pool, scores: dict[str, np.ndarray], every: list[Ensemble]) -> list[Unit]:
    """Best-of-n of every ensemble under every aggregator, answers that never end disqualified."""
    gold, ended = pool.gold, pool.ended
    ns = n_grid(gold.shape[1])

    def picked(proxy: np.ndarray) -> np.ndarray:
        return best_of_n(proxy, np.stack([gold, proxy], -1), ns, ended)

    alone = {i: picked(scores[i]) for e in every if e.construction == "single" for i in e.members}
    units = []
    for e in every:
        rival = np.mean([alone[i][..., 0] for i in e.rivals], 0)
        stacked = np.stack([scores[i] for i in e.members], -1) if e.k > 1 else None
        for how, rule in AGGREGATORS.items():
            if e.k == 1 and how != "mean":
                continue  # with one member every aggregator is the member
            lam = rule.lam[2] if rule.lam else None
            curve = (
                alone[e.members[0]]
                if e.k == 1
                else picked(aggregate(stacked, how, 1.0 if lam is None else lam))
            )
            units.append(Unit(e, how, lam, curve[..., 0], curve[..., 1], curve[..., 0] - rival))
    best = picked(gold)
    every_backbone = tuple(sorted({b for e in every for b in e.backbones}))
    for d in sorted({e.draw for e in every}):
        nobody = Ensemble(ORACLE, d, (ORACLE,), every_backbone, ())
        units.append(Unit(nobody, "mean", None, best[..., 0], best[..., 1], np.zeros_like(best[..., 0])))
    return units


def grouped(units: list[Unit]) -> dict[tuple, list[Unit]]:
    """Units by (construction, K, aggregator), in the order they came."""
    out: dict[tuple, list[Unit]] = defaultdict(list)
    for u in units:
        out[u.ensemble.construction, u.ensemble.k, u.how].append(u)
    return out


def _spread(resample: CrossedBootstrap, some: list[Unit], what: str) -> np.ndarray:
    return resample.mean(
        np.stack([getattr(u, what) for u in some]),
        [u.ensemble.draw for u in some],
        [u.ensemble.backbones for u in some],
    )


def curves(units: list[Unit], resample: CrossedBootstrap) -> pd.DataFrame:
    """Mean curves with 95% bands; `gain` is gold minus that of single models on the same labels and backbones, paired."""
    frames = []
    for (construction, k, how), some in grouped(units).items():
        length = some[0].gold.shape[1]
        ns = 2 ** np.arange(length)
        frame = {"construction": construction, "k": k, "aggregator": how, "lam": some[0].lam, "units": len(some),
                 "centring": CENTRING, "optimiser": "best of n", "n": ns, "kl": kl_bound(ns), "kl_name": KL_NAME}  # fmt: skip
        for what in ("gold", "proxy", "gain"):
            low, high = percentile_interval(_spread(resample, some, what))
            frame |= {
                what: np.mean([getattr(u, what).mean(0) for u in some], 0),
                f"{what}_lo": low,
                f"{what}_hi": high,
            }
        frames.append(pd.DataFrame(frame))
    table = pd.concat(frames, ignore_index=True)
    answers = int(table.n.max())
    table["ess"] = table.n.map(dict(zip(n_grid(answers), ess(answers, n_grid(answers)), strict=True)))
    return table


def per_unit(units: list[Unit]) -> pd.DataFrame:
    """Every ensemble's own curve, averaged over prompts: what the bands are made of."""
    rows = []
    for u in units:
        e = u.ensemble
        for i, (gold, proxy, gain) in enumerate(
            zip(u.gold.mean(0), u.proxy.mean(0), u.gain.mean(0), strict=True)
        ):
            rows.append((e.construction, e.k, u.how, e.draw, "+".join(e.members), 2**i, gold, proxy, gain))
    return pd.DataFrame(
        rows, columns=["construction", "k", "aggregator", "draw", "members", "n", "gold", "proxy", "gain"]
    )


def peaks(units: list[Unit], resample: CrossedBootstrap) -> pd.DataFrame:
    """Gold at n = 1, at its peak and at n = N, and the paired rise and fall between them, with 95% bands.

    The peak's n is that of the mean curve and is held fixed in the bands.
    """
    rows = []
    for (construction, k, how), some in grouped(units).items():
        mean = np.mean([u.gold.mean(0) for u in some], 0)
        top = int(np.argmax(mean))
        gold, gain = _spread(resample, some, "gold"), _spread(resample, some, "gain")
        proxy = np.mean([u.proxy.mean(0) for u in some], 0)
        row = {
            "construction": construction,
            "k": k,
            "aggregator": how,
            "lam": some[0].lam,
            "n_peak": 2**top,
            "N": 2 ** (len(mean) - 1),
        }
        ends = {"start": (mean[0], gold[:, 0]), "peak": (mean[top], gold[:, top]), "end": (mean[-1], gold[:, -1]),
                "rise": (mean[top] - mean[0], gold[:, top] - gold[:, 0]), "fall": (mean[-1] - mean[top], gold[:, -1] - gold[:, top]),
                "gain_end": (np.mean([u.gain.mean(0)[-1] for u in some]), gain[:, -1])}  # fmt: skip
        for name, (value, samples) in ends.items():
            low, high = percentile_interval(samples[:, None])
            row |= {name: value, f"{name}_lo": low[0], f"{name}_hi": high[0]}
        row |= {
            "proxy_start": proxy[0],
            "proxy_end": proxy[-1],
            "proxy_rises": bool((np.diff(proxy) > 0).all()),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def contrasts(units: list[Unit], resample: CrossedBootstrap) -> pd.DataFrame:
    """Gold of one kind of ensemble minus gold of another, for every n, under the same resamples: paired 95% bands.

    Pretrain against finetune at equal K and aggregator, min against mean within a kind, more heads against fewer.
    """
    groups = grouped(units)
    pairs = [(("pretrain", k, how), ("finetune", k, how)) for c, k, how in groups if c == "finetune"]
    pairs += [((c, k, "min"), (c, k, "mean")) for c, k, how in groups if how == "min"]
    heads = sorted({k for c, k, _ in groups if c == "heads"})
    pairs += [(("heads", heads[-1], h), ("heads", heads[0], h)) for h in ("mean", "min") if len(heads) > 1]
    frames = []
    for one, other in pairs:
        if one not in groups or other not in groups:
            continue
        mean = [np.mean([u.gold.mean(0) for u in groups[g]], 0) for g in (one, other)]
        low, high = percentile_interval(
            _spread(resample, groups[one], "gold") - _spread(resample, groups[other], "gold")
        )
        names = {"one": " ".join(map(str, one)), "other": " ".join(map(str, other))}
        ns = 2 ** np.arange(len(low))
        frames.append(
            pd.DataFrame({**names, "n": ns, "diff": mean[0] - mean[1], "diff_lo": low, "diff_hi": high})
        )
    return pd.concat(frames, ignore_index=True)


def summary(folder: str | Path) -> str:
    """The study's table as text: construction, aggregator, gold at n = 1, at its peak and at n = N, with bands."""
    table = pd.read_csv(Path(folder) / "peaks.csv")
    answers = int(table.N.max())

    def cell(r, name: str) -> str:
        return f"{r[name]:5.2f} [{r[name + '_lo']:5.2f}, {r[name + '_hi']:5.2f}]"

    lines = [f"{'construction':<13}{'K':>2}  {'aggregator':<10} {'gold at n = 1':<21} {'at its peak':<21} {'n':>5}  {'at n = ' + str(answers):<21} {'fall from the peak':<21} {'gain over single at N'}"]  # fmt: skip
    for _, r in table.iterrows():
        line = f"{r.construction:<13}{r.k:>2}  {r.aggregator:<10} {cell(r, 'start'):<21} {cell(r, 'peak'):<21} {r.n_peak:>5}  {cell(r, 'end'):<21} {cell(r, 'fall'):<21} "  # fmt: skip
        lines.append((line + ("" if r.construction in {"single", ORACLE} else cell(r, "gain_end"))).rstrip())
    lines.append("95% bands: paired bootstrap over prompts, label draws and pretraining seeds. Gold units; gain: against single models on the same labels and backbones.")  # fmt: skip
    return "\n".join(lines)
