"""How good, how different and how dear the members are: a row a member, a row an ensemble.

Letters: M held-out pairs, K members.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rmlab.measure import diversity, errors
from rmlab.measure.ensembles import SINGLE, EnsembleResult, StudyScores, by_name

COSTS = ("parameters", "trained_parameters", "train_seconds", "score_seconds", "peak_mb")


def accuracy(scores: StudyScores) -> pd.DataFrame:
    """Held-out accuracy of every member against clean gold labels, with its binomial standard error."""
    rows = []
    for m in scores.members:
        right = m.heldout[:, 0] > m.heldout[:, 1]  # (M, K)
        for k, name in enumerate(m.ids):
            share = float(right[:, k].mean())
            error = (share * (1 - share) / len(right)) ** 0.5
            rows.append((name, m.draw, m.backbone, m.finetune, m.k, share, error, len(right)))
    columns = ["member", "draw", "backbone", "finetune", "heads", "accuracy", "accuracy_se", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def diversity_of_ensembles(
    scores: StudyScores, top: int = errors.TAIL, n: int = 64
) -> dict[str, pd.DataFrame]:
    """How good and how different the members are: `diversity`, a row an ensemble with means over replicates and their
    standard errors `_se`, and `diversity_replicates`, a row an ensemble and replicate.

    A replicate's instances are averaged first. What all replicates share, prompts and gold, is no part of the errors.

    Parameters
    ----------
    top : answers a prompt that are the optimised tail
    n : answers that best-of-n draws, at most N

    Returns
    -------
    `accuracy` of the mean score and `accuracy_one` of a single member, on held-out pairs; `corr_margin` and `corr_rank`,
    mean pairwise correlations of held-out margins and of ranks; `corr_error`, of what gold does not explain of the pool's
    scores within prompts, and `corr_error_tail`, of the same on each prompt's `top` answers by the mean, freed of that
    choice (`rmlab.measure.errors`); `effective`, `effective_error` and `effective_error_tail`, members by `corr_margin`
    and by the two of errors; `top_agreement` of best-of-n picks at `n`;
    `head_rank`, the exponential of the heads' spectral entropy, and `head_angle`, degrees, where the members are
    heads; `worth_mean` and `worth_min`, gold that one member adds to the best of all answers, left out in turn, under
    the mean and the min; `min_share`, the largest share of answers that one member sets under min; `verdict`, in words,
    from `corr_error`, as margins also agree on what the members rightly share.
    Numbers about pairs of members are NaN where K = 1; a standard error is NaN with one replicate.
    """
    rows, replicates = [], []
    for name, group in by_name(scores.ensembles).items():
        numbers = pd.DataFrame([_member_numbers(e, scores, top, n) for e in group])
        table = numbers.groupby([e.replicate for e in group]).mean()
        about = {"ensemble": name, "method": group[0].method, "k": group[0].k, "replicate": table.index}
        replicates.append(pd.DataFrame({**about, **{c: table[c].to_numpy() for c in table}}))
        error = table.std(ddof=1) / np.sqrt(len(table))
        row = {"ensemble": name, "method": group[0].method, "k": group[0].k, "units": len(table)}
        for column in table:
            row |= {column: table[column].mean(), f"{column}_se": error[column]}
        noun = "heads" if group[0].heads is not None else "members"
        rows.append({**row, "verdict": diversity.verdict(group[0].k, row["corr_error"], noun)})
    by_replicate = pd.concat(replicates, ignore_index=True)
    return {"diversity": pd.DataFrame(rows), "diversity_replicates": by_replicate}


def cost_cards(scores: StudyScores) -> pd.DataFrame:
    """What an ensemble costs: the median over replicates of each number, and `_x`, its multiple of "single".

    Parameters are counted, seconds are of one processor core, `peak_mb` is in MB.
    """
    keys = ["ensemble", "method", "k"]
    table = pd.DataFrame(
        [{"ensemble": e.name, "method": e.method, "k": e.k, **e.cost} for e in scores.ensembles]
    )
    cards = table.groupby(keys, sort=False)[list(COSTS)].median().reset_index()
    unit = cards.loc[cards.ensemble == SINGLE, list(COSTS)].mean()  # one row
    times = cards[list(COSTS)] / unit.where(unit > 0)
    return cards.join(times.add_suffix("_x"))


def _member_numbers(e: EnsembleResult, scores: StudyScores, top: int, n: int) -> dict[str, float]:
    """A row of `diversity_of_ensembles` for one replicate."""
    heldout, pool, ended = e.heldout.astype(np.float64), e.pool, scores.ended
    mean = heldout.mean(-1)  # (M, 2)
    margin, (whole, tail) = diversity.margin_correlation(heldout), _error_correlations(e, scores, top)
    many, pairs, answers = e.k > 1, diversity.mean_off_diagonal, pool.shape[1]
    row = {
        "accuracy": (mean[:, 0] > mean[:, 1]).mean(),
        "accuracy_one": (heldout[:, 0] > heldout[:, 1]).mean(),
        "corr_margin": pairs(margin),
        "effective": diversity.effective_members(margin),
        "corr_error": pairs(whole),
        "effective_error": diversity.effective_members(whole),
        "corr_error_tail": pairs(tail),
        "effective_error_tail": diversity.effective_members(tail),
        "corr_rank": pairs(diversity.rank_correlation(pool, ended)) if many else np.nan,
        "top_agreement": diversity.top_agreement(pool, min(n, answers), ended) if many else np.nan,
        "min_share": diversity.min_shares(pool[ended]).max() if many else np.nan,
    }
    for rule in ("mean", "min"):
        worth = diversity.leave_one_out(pool, scores.gold, rule, n=answers, ended=ended) if many else np.nan
        row[f"worth_{rule}"] = np.mean(worth)
    heads = e.heads is not None and len(e.heads) > 1
    row["head_rank"] = diversity.spectral_entropy(e.heads) if heads else np.nan
    row["head_angle"] = pairs(diversity.principal_angles(e.heads)) if heads else np.nan
    return row


def _error_correlations(e: EnsembleResult, scores: StudyScores, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, K) of the errors on all answers that end, and as the `top` of each prompt by the members' mean show them."""
    if e.k == 1:
        return np.ones((1, 1)), np.ones((1, 1))
    prompts = np.nonzero(scores.ended)[0]  # (R,)
    table = e.pool[scores.ended].astype(np.float64)  # (R, K)
    left = errors.errors(table, scores.gold[scores.ended], prompts)
    return errors.error_correlation(left), errors.tail_error_correlation(left, table.mean(1), prompts, top)
