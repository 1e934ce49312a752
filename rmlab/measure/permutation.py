"""Do claims hold where there is nothing to find? Gold permuted among a prompt's answers, and every claim read again.

A permutation is one order of the answers a prompt, the same for all ensembles, replicates and n, as the world has one gold.
Scores, ranks and disqualified answers stay. Whatever then chooses knows nothing of gold: for any weights over the
answers the expected gold is the prompt's mean over all answers. So every difference of two settings at equal n, every gain (single
models choose as blindly), every change from n = 1 and every fall from a peak that other prompts chose is 0 on average, and
each claim of "greater" or "less" about these is false. All answers are permuted, disqualified ones too: among those that
ended alone, n = 1 would keep the disqualified ones' gold and larger n would not, a change that is true.

What is tested is the whole way from weights to verdict, with the dependence that claims really have on each other: shared
members, prompts and gold. Not tested is how replicates differ in what they learnt of gold: under the null they do not, and
there `two_way_interval` is too wide by design, so that rates lie at the nominal ones or below.

Letters: B permutations, D replicates, P prompts, N answers a prompt, L values of n, S settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.claims import CURVES, Claim, Rows, find
from rmlab.measure.compare import Setting
from rmlab.measure.ensembles import SINGLE, StudyScores
from rmlab.measure.inference import ALPHA, holm, verdict
from rmlab.measure.intervals import two_way_interval
from rmlab.measure.pool_curves import matched_penalty, scored_settings
from rmlab.optimise.best_of_n import winner_chances
from rmlab.recipe import require

FAMILY = "any claim"  # the row of the family as a whole
KINDS = ("holds", "either", "alone", "alone_either")


@dataclass(frozen=True, eq=False)
class PermutedRows:
    """What claims read of one study, once a permutation.

    settings : (S,) as in `ByPrompt`; pressure : (L,) n
    gold, rival : (B, S, D, P, L) float32, of the winner and of the replicate's single models
    """

    settings: list[dict[str, object]]
    pressure: np.ndarray
    gold: np.ndarray
    rival: np.ndarray

    def rows(self, b: int) -> Rows:
        """The rows of permutation b; they hold no proxy, which no permutation moves."""
        pressure = np.tile(np.asarray(self.pressure, np.float64), (len(self.settings), 1))
        gold, rival = self.gold[b], self.rival[b]
        return Rows("permuted", ByPrompt(self.settings, pressure, gold, np.full_like(gold, np.nan), rival))


def null_claims(claims: Iterable[Claim], family: str, studies: Iterable[str]) -> list[Claim]:
    """The claims of a family whose null is true under permutation: that gold, a gain, a change or a fall is not 0."""
    kinds, studies = ("gold", "gain", *CURVES), set(studies)
    return [
        c
        for c in claims
        if c.family == family
        and c.study in studies
        and c.quantity in kinds
        and c.direction in {"greater", "less"}
        and c.null == 0
        and (c.quantity != "gold" or c.right is not None)
    ]


def permuted_gold(gold: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Gold (P, N) permuted within each prompt, (count, P, N); pools of one shape are permuted alike under one seed."""
    gold = np.asarray(gold)
    require(gold.ndim == 2, "gold's shape", gold.shape, "(prompts, answers)")
    require(count >= 1, "count", count, "at least one permutation")
    rng = np.random.default_rng(seed)
    order = np.tile(np.arange(gold.shape[1]), (len(gold), 1))
    return np.stack([np.take_along_axis(gold, rng.permuted(order, axis=1), 1) for _ in range(count)])


def gold_under(chances: np.ndarray, golds: np.ndarray) -> np.ndarray:
    """Gold of the winner, (B, P, L): chances (P, N, L) of `winner_chances` times golds (B, P, N), in golds' dtype."""
    chances = np.asarray(chances, golds.dtype)
    fits = chances.ndim == golds.ndim == 3 and chances.shape[:2] == golds.shape[1:]
    require(fits, "golds' shape", golds.shape, f"(permutations, prompts, answers) over {chances.shape[:2]}")
    return np.matmul(golds.transpose(1, 0, 2), chances).transpose(1, 0, 2)


def permuted_rows(
    scores: StudyScores, golds: np.ndarray, ns: Sequence[int], claims: Iterable[Claim]
) -> PermutedRows:
    """Best-of-n of the settings that claims name, under golds (B, P, N) in place of the study's own.

    Built as `pool_curves.best_of_n_curves` is: a single model's gold once, an instance's rivals averaged, then the
    instances of a replicate. Only the products are kept, an instance at a time.

    ns : (L,) the points that are kept, rising; the first and the last of the curve among them where claims need it
    """
    named = [keys for c in claims for keys in (c.left, c.right) if keys]
    alone = {m.id: _under(m.pool[..., 0], scores, golds, ns) for m in scores.rivals}
    target = matched_penalty(scores) if scores.recipe.matched else None
    by_setting: dict[Setting, dict[int, list[tuple[np.ndarray, np.ndarray]]]] = {}
    for setting, e, x in scored_settings(scores, target):
        about = asdict(setting)
        if not any(all(about.get(n) == value for n, value in keys.items()) for keys in named):
            continue
        own = alone[e.parts[0].id] if setting.ensemble == SINGLE else _under(x.score, scores, golds, ns)
        rival = np.mean([alone[m.id] for m in e.rivals], 0)
        by_setting.setdefault(setting, {}).setdefault(e.replicate, []).append((own, rival))
    require(len(by_setting) > 0, "claims", named, "at least one about a setting of the study")
    D = 1 + max(e.replicate for e in scores.ensembles)
    shape = (len(golds), len(by_setting), D, golds.shape[1], len(ns))
    gold, rival = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for s, by_replicate in enumerate(by_setting.values()):
        for d, instances in by_replicate.items():
            gold[:, s, d], rival[:, s, d] = np.mean(instances, 0)
    return PermutedRows([asdict(setting) for setting in by_setting], np.asarray(ns), gold, rival)


def _under(proxy: np.ndarray, scores: StudyScores, golds: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    return gold_under(winner_chances(proxy, ns, scores.ended), golds)


def error_rates(
    claims: Sequence[Claim], studies: Mapping[str, PermutedRows], alpha: float = ALPHA
) -> pd.DataFrame:
    """How often claims hold that are all false, as one family under Holm's method; Wilson's 95% intervals.

    studies : by name, each with the same number of permutations; every one of them counts

    Returns
    -------
    A row a claim, and the last for the family, `FAMILY`, whose share is of permutations with at least one such claim:

    - `holds`: the verdict "holds", adjusted and in the claimed direction, at most alpha for the family
    - `either`: significant after adjustment, in either direction
    - `alone`: in the claimed direction before adjustment, alpha / 2 nominally for a claim
    - `alone_either`: in either direction before adjustment, alpha nominally for a claim
    """
    claims = list(claims)
    require(len(claims) > 0, "claims", [], "at least one of `null_claims`")
    counts = {len(rows.gold) for rows in studies.values()}
    require(len(counts) == 1, "permutations of studies", sorted(counts), "as many for each")
    outcomes = np.stack(
        [_outcomes(claims, {s: r.rows(b) for s, r in studies.items()}, alpha) for b in range(*counts)]
    )
    outcomes = np.concatenate([outcomes, outcomes.any(1, keepdims=True)], 1)  # (B, M + 1, 4)
    rows = []
    for m, name in enumerate([*(c.id for c in claims), FAMILY]):
        row = {
            "claim": name,
            "study": claims[m].study if m < len(claims) else "",
            "permutations": len(outcomes),
        }
        for kind, hit in zip(KINDS, outcomes[:, m].T, strict=True):
            interval = binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
            row |= {kind: float(hit.mean()), f"{kind}_low": interval.low, f"{kind}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _outcomes(claims: list[Claim], studies: dict[str, Rows], alpha: float) -> np.ndarray:
    """(M, 4) bool of one permutation, in the order of `error_rates`."""
    findings = [find(c, studies[c.study]) for c in claims]
    out = []
    for f, adjusted in zip(findings, holm([f.p for f in findings]), strict=True):
        interval = two_way_interval(f.values)
        word = verdict(f.claim.direction, interval, float(adjusted), f.claim.margin, alpha=alpha).word
        claimed = (interval.mean > 0) == (f.claim.direction == "greater")
        out.append((word == "holds", adjusted < alpha, f.p < alpha and claimed, f.p < alpha))
    return np.array(out, bool)
