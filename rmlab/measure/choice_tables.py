"""Tables of choices: what each rule for the strength of best-of-n earns, and how often certificates fail.

Labels come from one half of the prompts and everything is measured on the other, both ways round, on every replicate and
over several draws of the labels. Letters: D replicates, P prompts, L strengths.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from rmlab.measure import certificate, choose
from rmlab.measure.choose import Family
from rmlab.measure.compare import Setting, covered
from rmlab.measure.ensembles import EnsembleResult, StudyScores
from rmlab.measure.intervals import columns_of, two_way_interval
from rmlab.measure.pool_curves import scored_settings
from rmlab.recipe import stream

ENSEMBLES = ("single", "finetune5", "pretrain5", "heads5", "lora5", "grid15")
AGGREGATORS = ("mean", "min")
DRAWS = 20  # of the labels
CERTIFIED = ("best_of_n", "tilt")
AVERAGED = {"certified": "some", "gain": "gain", "violation": "wrong", "violation_all": "wrong_all"}
Rows = dict[str, dict[str, np.ndarray]]  # rule or family -> quantity -> values


class Case(NamedTuple):
    """One ensemble under one aggregator on one replicate: its policies, and what the rules read."""

    families: dict[str, Family]
    proxy: np.ndarray
    gold: np.ndarray
    ended: np.ndarray
    members: np.ndarray | None


def choice_tables(scores: StudyScores, draws: int = DRAWS) -> dict[str, pd.DataFrame]:
    """Rules and certificates of the ensembles of `ENSEMBLES` under mean and min, each replicate's first instance.

    `choices`, a row a rule: `strength`, the median over replicates, draws and halves (over prompts where each has its own);
    `gold` on the other half, `gain` over the start, `regret` below the best single n for those prompts, which gold chose
    (`oracle`), each with a 95% interval over replicates and prompts; `kl` in nats. Rules: `start` n = 1; `all` n = N;
    `hedge_tune` and `hedge_tune_poisson`; `law`, the peak of Gao's law; `tilt`, `chi_square` and `soft` (under the mean
    alone, as it is slow), the strength of highest estimated gold; `members`, gold-free, each prompt its own n;
    `certificate`, the largest certified n. Rules other than start, all, oracle and members read at most 100 labels.

    `certificates`, a row a family: the median strength certified, the share of certificates that allow any strength, the
    largest strength with mean gold above the start's over all prompts (`largest_safe`, median over replicates), the gain on
    fresh prompts, and how often it is below 0: `violation`, with Student's interval over replicates. Means over few fresh
    prompts fall below 0 by chance too: `violation_all` counts those over all prompts instead.
    `level_attained`, the mean over replicates of `certificate.attained_level` over all draws' estimates, and `level_holds`, that
    it is at most `certificate.SLACK` above `level`: where it is not, losses of few prompts decide, and `level` is not the
    chance of a wrong certificate, whatever `violation` was on these prompts. `certificates_replicates`:
    `certified`, `gain`, `violation` and `violation_all` of each replicate, the means over draws and halves.
    """
    cells: dict[Setting, dict[int, tuple[Rows, Rows]]] = defaultdict(dict)
    for setting, e, x in scored_settings(scores, None):
        if setting.ensemble in ENSEMBLES and setting.aggregator in AGGREGATORS and e.number == 0:
            case = _case(setting, e, x.score, scores)
            rng = stream(scores.recipe.seed, "choices", repr(setting), e.replicate)
            cells[setting][e.replicate] = measured(case, setting.aggregator, rng, draws)
    tables: dict[str, list] = {"choices": [], "certificates": [], "certificates_replicates": []}
    for s, replicates in cells.items():
        numbers, every = list(replicates), list(replicates.values())
        keys = {name: getattr(s, name) for name in ("ensemble", "method", "k", "aggregator")}
        for rule in every[0][0]:
            tables["choices"].append(keys | _choice_row(rule, [rules[rule] for rules, _ in every]))
        for family in every[0][1]:
            own = [certificates[family] for _, certificates in every]
            tables["certificates"].append(keys | _certificate_row(family, own))
            tables["certificates_replicates"] += [
                {**keys, **_certificate_keys(family), "replicate": number, **_certificate_means(x)}
                for number, x in zip(numbers, own, strict=True)
            ]
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def measured(case: Case, aggregator: str, rng: np.random.Generator, draws: int = DRAWS) -> tuple[Rows, Rows]:
    """One replicate: each rule's gold, gain, regret and KL by prompt (P,) and strengths; each family's certificates.

    Certificates are arrays over draws and halves: `strength`, `some`, `gain`, `wrong` and `wrong_all`; `largest_safe` and
    `attained` are one number.
    """
    best = case.families["best_of_n"]
    P = len(case.gold)
    own = None if case.members is None else _members_places(case, aggregator, best)
    gold, nats = (defaultdict(lambda: np.zeros(P)) for _ in range(2))
    strengths, certificates = defaultdict(list), {f: defaultdict(list) for f in CERTIFIED}
    for _ in range(draws):
        half = rng.permutation(P) % 2
        for fold in (0, 1):
            seen, fresh = np.flatnonzero(half == fold), np.flatnonzero(half != fold)
            if not len(seen) or not len(fresh):
                continue
            chosen = _choices(case, seen, rng, certificates, fresh)
            chosen |= {"start": ("best_of_n", 0), "all": ("best_of_n", len(best.strengths) - 1)}
            chosen["oracle"] = ("best_of_n", int(best.gold[fresh].mean(0).argmax()))
            if own is not None:
                chosen["members"] = ("best_of_n", own[fresh])
            for rule, (family, place) in chosen.items():
                f = case.families[family]
                gold[rule][fresh] += f.gold[fresh, place] / draws
                nats[rule][fresh] += f.kl[fresh, place] / draws
                strengths[rule].extend(np.atleast_1d(f.strengths[place]).tolist())
    rules = {
        rule: {
            "gold": x,
            "gain": x - gold["start"],
            "regret": gold["oracle"] - x,
            "kl": nats[rule],
            "strength": np.array(strengths[rule]),
        }
        for rule, x in gold.items()
    }
    for name, row in certificates.items():
        family = case.families[name]
        safe = np.flatnonzero(family.gold.mean(0) - family.gold[:, 0].mean() > 0)
        row["largest_safe"] = [family.strengths[safe.max() if len(safe) else 0]]
        estimates = row.pop("estimates", [])
        row["attained"] = [_attained(estimates) if estimates else np.nan]
    return rules, {name: {n: np.array(x) for n, x in row.items()} for name, row in certificates.items()}


def _choices(
    case: Case, seen: np.ndarray, rng: np.random.Generator, certificates: dict, fresh: np.ndarray
) -> dict[str, tuple[str, int]]:
    """What each rule that reads labels chooses from one draw: (family, place); certificates are noted on the way."""
    best = case.families["best_of_n"]
    powers = np.flatnonzero(np.log2(best.strengths) % 1 == 0)
    labels = certificate.draw_labels(best.weights[powers], case.gold, seen, rng)
    below, upto, ties = choose.quantiles(case.proxy, case.ended, labels)
    chosen = {}
    for rule, family in (("hedge_tune", "best_of_n"), ("hedge_tune_poisson", "poisson")):
        n = case.families[family].strengths
        shift = 0.0 if family == "best_of_n" else 1.0
        theta = choose.hedge_tune(family, below, upto, labels.gold, labels.chance * ties, n[-1] - shift)
        chosen[rule] = (family, choose.nearest(n, theta + shift))
    estimates = {name: certificate.contrasts(labels, f.weights) for name, f in case.families.items()}
    chosen["law"] = ("best_of_n", choose.law_choice(best.strengths, estimates["best_of_n"].mean(0)))
    for family in ("tilt", "chi_square", "soft"):
        if family in estimates:
            chosen[family] = (family, int(estimates[family].mean(0).argmax()))
    for family, row in certificates.items():
        f = case.families[family]
        steps = powers if family == "best_of_n" else np.arange(len(f.strengths))
        contrasts = estimates[family][:, steps[1:]]
        place = int(steps[certificate.certified(contrasts)])
        row["estimates"].append(contrasts)
        gain = f.gold[:, place] - f.gold[:, 0]
        row["strength"].append(f.strengths[place])
        row["some"].append(place > 0)
        row["gain"].append(gain[fresh].mean())
        row["wrong"].append(place > 0 and gain[fresh].mean() < 0)
        row["wrong_all"].append(place > 0 and gain.mean() < 0)
        if family == "best_of_n":
            chosen["certificate"] = (family, place)
    return chosen


def _attained(estimates: list[np.ndarray]) -> float:
    """`attained_level` of one replicate's draws, (C, L) each."""
    return certificate.attained_level(np.concatenate(estimates), min(len(x) for x in estimates))


def _case(setting: Setting, e: EnsembleResult, score: np.ndarray, scores: StudyScores) -> Case:
    proxy = score.astype(np.float64)
    policies = choose.families(proxy, scores.gold, scores.ended, soft=setting.aggregator == "mean")
    return Case(policies, proxy, scores.gold, scores.ended, e.pool if e.k > 1 else None)


def _members_places(case: Case, aggregator: str, best: Family) -> np.ndarray:
    """Each prompt's n by the members, (P,), as places among the family's strengths."""
    powers = np.flatnonzero(np.log2(best.strengths) % 1 == 0)
    return powers[choose.members_choice(case.members, aggregator, best.strengths[powers], case.ended)]


def _choice_row(rule: str, every: list[dict[str, np.ndarray]]) -> dict[str, object]:
    values = {name: np.stack([x[name] for x in every]) for name in ("gold", "gain", "regret", "kl")}  # (D, P)
    row = {"rule": rule, "strength": float(np.median(np.concatenate([x["strength"] for x in every])))}
    row["kl"] = values["kl"].mean()
    for name in ("gold", "gain", "regret"):
        row |= columns_of(name, two_way_interval(values[name]))
    return row | covered(values["gold"])


def _certificate_keys(family: str) -> dict[str, object]:
    return {"family": family, "level": certificate.LEVEL, "labels": certificate.LABELS}


def _certificate_means(replicate: dict[str, np.ndarray]) -> dict[str, float]:
    """What `certificates` is averaged from: one replicate's means over draws and halves."""
    return {column: float(replicate[name].mean()) for column, name in AVERAGED.items()}


def _certificate_row(family: str, every: list[dict[str, np.ndarray]]) -> dict[str, object]:
    row = _certificate_keys(family)
    row["strength"] = float(np.median(np.concatenate([x["strength"] for x in every])))
    row["largest_safe"] = float(np.median([x["largest_safe"][0] for x in every]))
    means = pd.DataFrame([_certificate_means(x) for x in every])
    row["certified"] = means.certified.mean()
    for column in ("gain", "violation", "violation_all"):
        x = means[column].to_numpy()  # (D,)
        half = student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
        row |= {column: x.mean(), f"{column}_low": x.mean() - half, f"{column}_high": x.mean() + half}
    row["level_attained"] = float(np.mean([x["attained"][0] for x in every]))
    row["level_holds"] = row["level_attained"] <= certificate.LEVEL + certificate.SLACK
    return row | {"units": len(every)}
