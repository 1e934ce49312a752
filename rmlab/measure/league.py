"""From stored scores to the league of constructions: which way of making K members is worth what it costs.

Aggregators are compared twice. Under "paper" pessimism each has the strength its paper gives it. That strength means
another thing for every construction: members that differ less are penalised less. So under "matched" pessimism every
ensemble loses the same mean score to its penalty at n = 1, and what is left is how well the penalty is aimed.

Letters: P prompts, N answers a prompt, K members, M held-out pairs, D hidden, S replicates, U of them in one row,
L values of n.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure import diversity
from rmlab.measure.intervals import CrossedBootstrap, percentile_interval
from rmlab.optimise.best_of_n import KL_NAME, best_of_n, kl_bound, n_grid
from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, aggregate

SINGLE = "single"  # the line that every gain is measured from
REFERENCE = "finetune5"  # the line whose minimum sets the matched penalty
HOWS = ("mean", "median", "min", "mean_std", "uwo")
PENALTIES = ("min", "mean_std", "uwo")  # mean minus a penalty: the ones whose strength can be matched
KNOWN = {"finetune": "uwo", "pretrain": "min", "heads": "min", "lora": "mean_std", "dropout": "mean_std",
         "laplace": "mean_std", "average": "mean", "mixed": "min"}  # fmt: skip
# heads: Ahmed et al. 2406.01013; lora: Zhang et al. 2401.16635; finetune: Coste et al. 2310.02743, Eq. 5; the rest as
# near to their use in papers as the three aggregators allow
AS_CLAIMED = [  # Ahmed et al. 2406.01013: three heads, one epoch, are as good as three models that need three epochs
    (("heads3_1_epoch", "min", "paper"), ("finetune3_3_epochs", "min", "paper")),
]
ROUNDING = 1e-4  # of the mean score's spread: members that differ by less differ by rounding alone
COSTS = ("parameters", "trained_parameters", "train_seconds", "score_seconds", "peak_mb")


@dataclass(frozen=True)
class Line:
    """One construction on one replicate, a label draw and a home backbone of its own. Scores are aligned."""

    name: str  # row key: "heads5", "lora5", ...; one line a name and replicate
    kind: str  # "single", "finetune", "pretrain", "heads", "lora", "dropout", "laplace", "average", "mixed"
    replicate: int  # 0..S-1
    pool: np.ndarray  # (P, N, K) float32, in standard deviations of each member on its reference set
    heldout: np.ndarray  # (M, 2, K): chosen, rejected by clean labels
    cost: dict  # any of COSTS
    heads: np.ndarray | None = None  # (K, D) where the members are heads on one encoder

    @property
    def k(self) -> int:
        return self.pool.shape[2]


@dataclass(frozen=True)
class Entry:
    """One construction under one aggregator and pessimism: its curves (U, P, L) on each of its replicates."""

    name: str
    kind: str
    k: int
    aggregator: str
    pessimism: str
    lam: float  # mean over replicates; NaN where the aggregator has none
    penalty: float  # mean score lost at n = 1, over answers that ended
    replicates: tuple[int, ...]
    gold: np.ndarray
    proxy: np.ndarray
    gain: np.ndarray  # gold minus the single model's of the same replicate

    def __str__(self) -> str:
        return " ".join([self.name, self.aggregator] + ["matched"] * (self.pessimism == "matched"))


@dataclass(frozen=True)
class Board:
    """Everything that was played, under one resampling of prompts and replicates. See `play`."""

    entries: dict[tuple[str, str, str], Entry]  # by name, aggregator, pessimism
    left_out: pd.DataFrame  # name, aggregator, pessimism, lam (NaN), reason
    ns: np.ndarray  # (L,)
    target: float  # the matched penalty; NaN where nothing was matched
    resample: CrossedBootstrap


def write(out: Path, lines: list[Line], gold, ended, replicates: int, about: dict, seed: int = 0) -> None:
    """Write `league`, `differences`, `left_out`, `members` and `costs` as CSV into `out`.

    Parameters
    ----------
    out : a folder that exists
    lines, gold, ended, replicates, seed : as in `play`
    about : columns that lead every table: study, recipe, seed, centring
    """
    board = play(lines, gold, ended, replicates, seed)
    tables = {"league": league(board), "differences": differences(board), "left_out": board.left_out,
              "members": members(lines, ended, gold=gold), "costs": cost_cards(lines)}  # fmt: skip
    for name, table in tables.items():
        for column, value in reversed(about.items()):
            table.insert(0, column, value)
        table.to_csv(Path(out) / f"{name}.csv", index=False, float_format="%.5g", lineterminator="\n")


def play(lines: list[Line], gold, ended, replicates: int, seed=0, target: float | None = None) -> Board:
    """Best-of-n of every line under every aggregator and pessimism, answers that never end disqualified.

    Matched pessimism: score = mean - lam * penalty, where the penalty is mean - min, the std or the variance over
    members (ddof 0), and lam is set for each line and replicate so that the mean penalty over the pool's answers that
    ended is `target`.

    Parameters
    ----------
    lines : any order; one a name and replicate, and a line "single" with K = 1 on every replicate
    gold : (P, N) gold reward
    ended : (P, N) bool, False where an answer never ends
    replicates : S; bands resample replicates as a whole, crossed with prompts
    seed : of the bootstrap
    target : the matched mean penalty, above 0, in standard deviations of a member. None: that of `min` over the line
        "finetune5", or else over the largest finetune line, averaged over replicates

    Returns
    -------
    A `Board`. With K = 1 there is one aggregator, "mean". Members that are copies have no penalty to match: their
    matched rows are in `left_out`.
    """
    gold, ended = np.asarray(gold, np.float64), np.asarray(ended)
    groups = _grouped(lines, gold, ended, replicates)
    ok = SINGLE in groups and groups[SINGLE][0].k == 1
    require(ok, "lines", sorted(groups), f"a line {SINGLE!r} with K = 1")
    require(target is None or target > 0, "target", target, "a penalty above 0")
    ns = n_grid(gold.shape[1])

    def picked(proxy: np.ndarray) -> np.ndarray:
        return best_of_n(proxy, np.stack([gold, proxy], -1), ns, ended)  # (P, L, 2)

    alone = {x.replicate: picked(x.pool[..., 0]) for x in groups[SINGLE]}
    orphans = sorted({x.replicate for x in lines} - set(alone))
    require(
        not orphans, "replicates without a single model", orphans, f"a line {SINGLE!r} on every replicate"
    )
    if target is None and any(x.k > 1 for x in lines):
        target = _target(groups, ended)
    entries, left_out = {}, []
    for name, some in groups.items():
        units: dict[tuple[str, str], list] = {}
        copies = [x.replicate for x in some if x.k > 1 and _are_copies(x, ended)]
        for x in some:
            for how, pessimism, lam, penalty, score in _scores(x, ended, None if copies else target):
                best, proxy = np.moveaxis(alone[x.replicate] if name == SINGLE else picked(score), -1, 0)
                gain = best - alone[x.replicate][..., 0]
                units.setdefault((how, pessimism), []).append((lam, penalty, best, proxy, gain))
        if copies:
            reason = f"members are copies (replicates {', '.join(map(str, copies))})"
            left_out += [(name, how, "matched", np.nan, reason) for how in PENALTIES]
        for (how, pessimism), found in units.items():
            lam, penalty, *curves = (np.array(c) for c in zip(*found, strict=True))
            entries[name, how, pessimism] = Entry(
                name, some[0].kind, some[0].k, how, pessimism, float(lam.mean()), float(penalty.mean()),
                tuple(x.replicate for x in some), *curves,
            )  # fmt: skip
    out = pd.DataFrame(left_out, columns=["name", "aggregator", "pessimism", "lam", "reason"])
    return Board(
        entries, out, ns, float(target or np.nan), CrossedBootstrap(len(gold), replicates, 1, seed=seed)
    )


def league(board: Board) -> pd.DataFrame:
    """Mean curves with paired 95% bands: a row a name, aggregator, pessimism and n.

    `lam` is the mean over replicates (1 for `min` under "paper": mean - 1 (mean - min)), `penalty` the mean score lost
    at n = 1, `gain` gold minus the single model's of the same replicate, `units` the replicates behind the row.
    """
    frames = []
    for e in board.entries.values():
        frame = {"name": e.name, "kind": e.kind, "k": e.k, "aggregator": e.aggregator, "pessimism": e.pessimism,
                 "lam": e.lam, "penalty": e.penalty, "n": board.ns, "kl": kl_bound(board.ns), "kl_name": KL_NAME}  # fmt: skip
        for what in ("gold", "proxy", "gain"):
            curves = getattr(e, what)
            low, high = percentile_interval(_spread(board.resample, curves, e.replicates))
            frame |= {what: curves.mean((0, 1)), f"{what}_lo": low, f"{what}_hi": high}
        frames.append(pd.DataFrame({**frame, "units": len(e.replicates)}))
    return pd.concat(frames, ignore_index=True)


def differences(board: Board, pairs: Iterable[tuple] | None = None) -> pd.DataFrame:
    """Gold of one entry minus gold of another at n = N/16 and n = N, with paired 95% bands.

    Parameters
    ----------
    pairs : of keys (name, aggregator, pessimism), those of `Board.entries`. None: for every name the mean, and the
        aggregator it is known with (`KNOWN`), against the mean of "finetune5"; min against mean within the name; and
        matched min against matched min of "finetune5"; a variant ("lora5_top") against its plain form, and a line
        against as many finetuning seeds; and `AS_CLAIMED`

    Returns
    -------
    Columns one, other, n, diff, lo, hi, over the replicates that both have. Pairs that were not both played are
    left out.
    """
    tops = sorted({max(0, len(board.ns) - 5), len(board.ns) - 1})
    rows = []
    for one, other in dict.fromkeys(_pairs(board) if pairs is None else map(tuple, pairs)):
        if one == other or one not in board.entries or other not in board.entries:
            continue
        a, b = board.entries[one], board.entries[other]
        both = [r for r in a.replicates if r in b.replicates]
        if not both:
            continue
        left, right = (e.gold[[e.replicates.index(r) for r in both]][..., tops] for e in (a, b))
        low, high = percentile_interval(_spread(board.resample, left - right, both))
        mean = (left - right).mean((0, 1))
        rows += [(str(a), str(b), board.ns[t], mean[i], low[i], high[i]) for i, t in enumerate(tops)]
    return pd.DataFrame(rows, columns=["one", "other", "n", "diff", "lo", "hi"])


def members(lines: list[Line], ended, top: int = diversity.TAIL, n: int = 64, gold=None) -> pd.DataFrame:
    """How good and how different the members are: a row a name, means over replicates with standard errors `_se`.

    `accuracy` of the mean score and `accuracy_one` of a single member, on held-out pairs; `corr_margin`, `corr_tail`
    and `corr_rank`, mean pairwise correlations of held-out margins, on the optimised tail and of ranks; `effective`
    and `effective_tail`, members in distribution and on the tail; `top_agreement` of best-of-n picks at `n`;
    `head_rank`, the exponential of the heads' spectral entropy, and `head_angle`, degrees, where the members are
    heads; `worth_mean` and `worth_min`, gold that one member adds to the best of all answers, left out in turn, under
    the mean and the min (where gold (P, N) is given); `min_share`, the largest share of answers that one member sets under min; `verdict`, in words, from
    `effective_tail`, as held-out margins also agree on what the members rightly share.
    Numbers about pairs are NaN where K = 1; a standard error is NaN with one replicate.
    """
    rows = []
    for name, some in _by_name(lines).items():
        found = pd.DataFrame([_member_numbers(x, np.asarray(ended), gold, top, n) for x in some])
        error = found.std(ddof=1) / np.sqrt(len(found))
        row = {"name": name, "kind": some[0].kind, "k": some[0].k, "units": len(some)}
        for column in found:
            row |= {column: found[column].mean(), f"{column}_se": error[column]}
        noun = "heads" if some[0].heads is not None else "members"
        rows.append({**row, "verdict": diversity.verdict(some[0].k, row["effective_tail"], noun)})
    return pd.DataFrame(rows)


def cost_cards(lines: list[Line]) -> pd.DataFrame:
    """What a name costs: the median over replicates of each number in `Line.cost`, and `_x`, its multiple of "single".

    Parameters are counted, seconds are of one processor core, `peak_mb` is in MB. What a line does not
    state is NaN.
    """
    table = pd.DataFrame([{"name": x.name, "kind": x.kind, "k": x.k, **x.cost} for x in lines])
    fields = [*COSTS, *(c for c in table.columns if c not in {"name", "kind", "k", *COSTS})]
    table = table.reindex(columns=["name", "kind", "k", *fields])
    cards = table.groupby(["name", "kind", "k"], sort=False)[fields].median().reset_index()
    unit = cards.loc[cards.name == SINGLE, fields].mean()  # one row, or none: NaN
    times = cards[fields] / unit.where(unit > 0)
    return cards.join(times.add_suffix("_x"))


def summary(folder: str | Path) -> str:
    """The league as text, a row a name, best gain of the mean first, from the tables that `write` wrote."""
    table, people, costs = (pd.read_csv(Path(folder) / f"{f}.csv") for f in ("league", "members", "costs"))
    people, costs = people.set_index("name"), costs.set_index("name")
    answers = int(table.n.max())
    end = table[table.n == answers].set_index(["name", "aggregator", "pessimism"])

    def cell(key: tuple, what: str) -> str:
        if key not in end.index:
            return "-"
        r = end.loc[key]
        return f"{r[what]:5.2f} [{r[what + '_lo']:5.2f}, {r[what + '_hi']:5.2f}]"

    width = max(13, *(len(n) + 2 for n in people.index))
    head = ("gold of the mean", "gain of the mean", "gain of min", "gain of matched min")
    text = [f"Best of n = {answers}\n{'name':<{width}}{'K':>3} {'effective':>9} {'on tail':>8}  " + "".join(f"{h:<23}" for h in head) + f"{'training':>9}"]  # fmt: skip
    means = end.xs("mean", level="aggregator").xs("paper", level="pessimism")
    for name in means.gain.sort_values(ascending=False, kind="stable").index:
        r, times = people.loc[name], costs.train_seconds_x.get(name, np.nan)
        keys = [(name, "mean", "paper")] * 2 + [(name, "min", "paper"), (name, "min", "matched")]
        cells = [cell(k, w) for k, w in zip(keys, ("gold", "gain", "gain", "gain"), strict=True)]
        copies = "  copies" if "copies" in r.verdict else ""
        line = f"{name:<{width}}{r.k:>3} {r.effective:>9.1f} {r.effective_tail:>8.1f}  " + "".join(f"{c:<23}" for c in cells)  # fmt: skip
        text.append(line + (f"{'-':>9}" if np.isnan(times) else f"{times:>8.1f}x") + copies)
    text.append("95% bands: paired bootstrap over prompts and replicates. Gold units; gain: against the single model of the same replicate.\nEffective members: on held-out margins, and on each prompt's best answers. Training: processor seconds, against single.")  # fmt: skip
    return "\n".join(text)


def _grouped(lines: list[Line], gold, ended, replicates: int) -> dict[str, list[Line]]:
    """Lines by name, in the order they came, checked against each other and the pool."""
    ok = gold.ndim == 2 and ended.shape == gold.shape and ended.dtype == bool and ended.any()
    require(ok, "gold and ended", (gold.shape, ended.shape, ended.dtype), "(P, N) and bool (P, N), some True")
    require(replicates >= 1, "replicates", replicates, "at least 1")
    groups = _by_name(lines)
    for name, some in groups.items():
        seen = [x.replicate for x in some]
        ok = len(set(seen)) == len(seen) and min(seen) >= 0 and max(seen) < replicates
        require(ok, f"{name}'s replicates", seen, f"each of 0..{replicates - 1} at most once")
        shapes = {x.pool.shape for x in some}
        ok = len(shapes) == 1 and all(len(s) == 3 and s[:2] == gold.shape for s in shapes)
        require(ok, f"{name}'s pool shapes", shapes, f"one (P, N, K) over the gold's {gold.shape}")
    return groups


def _by_name(lines: list[Line]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for x in lines:
        groups.setdefault(x.name, []).append(x)
    return groups


def _scores(x: Line, ended: np.ndarray, target: float | None):
    """(aggregator, pessimism, lam, mean penalty, score (P, N)) of a line; matched ones if there is a target."""
    mean = aggregate(x.pool, "mean")
    yield "mean", "paper", np.nan, 0.0, mean
    for how in HOWS[1:] if x.k > 1 else ():
        rule = AGGREGATORS[how]
        lam = rule.lam[2] if rule.lam else 1.0  # mean - 1 (mean - min) is min
        score = aggregate(x.pool, how, lam)
        gap = mean - score
        size = float(gap[ended].mean(dtype=np.float64))
        yield how, "paper", lam if how in PENALTIES else np.nan, size, score
        if how in PENALTIES and target is not None:
            score = mean - np.float32(target / size) * gap
            size_now = float((mean - score)[ended].mean(dtype=np.float64))
            yield how, "matched", lam * target / size, size_now, score


def _are_copies(x: Line, ended: np.ndarray) -> bool:
    """Whether the members' mean standard deviation is no more than rounding next to the spread of their mean."""
    some = x.pool[ended].astype(np.float64)  # (answers, K)
    return bool(some.std(-1).mean() <= ROUNDING * some.mean(-1).std())


def _target(groups: dict[str, list[Line]], ended: np.ndarray) -> float:
    """The mean penalty of min at n = 1 over the reference line, averaged over replicates."""
    rivals = {n: some[0].k for n, some in groups.items() if some[0].kind == "finetune" and some[0].k > 1}
    name = REFERENCE if REFERENCE in groups else max(rivals, key=rivals.get, default=None)
    require(name is not None, "lines", sorted(groups), "a finetune line with K > 1 to match, or a target")
    some = groups[name]
    copies = some[0].k == 1 or any(_are_copies(x, ended) for x in some)
    require(not copies, f"the members of {name}", "copies", "a reference whose members differ, or a target")
    gaps = [(aggregate(x.pool, "mean") - aggregate(x.pool, "min"))[ended] for x in some]
    return float(np.mean([g.mean(dtype=np.float64) for g in gaps]))


def _pairs(board: Board) -> Iterable[tuple]:
    """The usual comparisons, see `differences`."""
    rival = (REFERENCE, "mean", "paper")
    names = {e.name: e for e in board.entries.values()}
    for name, e in names.items():
        yield (name, "mean", "paper"), rival
        yield (name, KNOWN.get(e.kind, "mean"), "paper"), rival
        yield (name, "min", "paper"), (name, "mean", "paper")
        yield (name, "min", "matched"), (REFERENCE, "min", "matched")
        for other in (name.split("_")[0], f"finetune{e.k}"):
            for how in ("mean", "min"):
                yield (name, how, "paper"), (other, how, "paper")
    yield from AS_CLAIMED


def _spread(resample: CrossedBootstrap, curves: np.ndarray, replicates: Sequence[int]) -> np.ndarray:
    """(n_boot, L): the mean of curves (U, P, L) under every resample."""
    return resample.mean(curves, replicates, [(0,)] * len(replicates))


def _member_numbers(x: Line, ended: np.ndarray, gold, top: int, n: int) -> dict[str, float]:
    heldout = x.heldout.astype(np.float64)
    both = heldout.mean(-1)
    margin, tail = diversity.margin_correlation(heldout), diversity.tail_correlation(x.pool, top, ended)
    many, pairs = x.k > 1, diversity.mean_off_diagonal
    row = {
        "accuracy": (both[:, 0] > both[:, 1]).mean(),
        "accuracy_one": (heldout[:, 0] > heldout[:, 1]).mean(),
        "corr_margin": pairs(margin),
        "effective": diversity.effective_members(margin),
        "corr_tail": pairs(tail),
        "effective_tail": diversity.effective_members(tail),
        "corr_rank": pairs(diversity.rank_correlation(x.pool, ended)) if many else np.nan,
        "top_agreement": diversity.top_agreement(x.pool, min(n, x.pool.shape[1]), ended) if many else np.nan,
        "min_share": diversity.min_shares(x.pool[ended]).max() if many else np.nan,
    }
    for how in ("mean", "min") if gold is not None else ():
        left_out = (
            diversity.leave_one_out(x.pool, gold, how, n=x.pool.shape[1], ended=ended) if many else np.nan
        )
        row[f"worth_{how}"] = np.mean(left_out)
    heads = x.heads is not None and len(x.heads) > 1
    row["head_rank"] = diversity.spectral_entropy(x.heads) if heads else np.nan
    row["head_angle"] = pairs(diversity.principal_angles(x.heads)) if heads else np.nan
    return row
