"""The ledger: claims that were fixed before a run, and what its rows say of each.

A claim names a study, a comparison, the pressure at which it is read, the least difference that matters and its family, in
`data/claims.toml`. `ledger` reads the rows and gives an effect, an interval, an adjusted p and a verdict by the rules of
`rmlab.measure.inference.verdict`. Nothing else in the project says whether a claim holds.

Letters: D replicates, P prompts, L points of a curve, M claims.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.measure.by_prompt import ByPrompt
from rmlab.measure.inference import (
    Verdict,
    equivalence,
    fall,
    holm,
    p_value,
    replicates_to_decide,
    verdict,
)
from rmlab.measure.intervals import two_way_interval
from rmlab.recipe import digest, require

DESCRIPTIVE = "descriptive"  # the family whose p-values are not adjusted, and which proves nothing
DIRECTIONS = ("greater", "less", "equivalent")
READ_AT_A_POINT = ("gold", "proxy", "gain")
CURVES = ("change", "fall")  # the last point minus the first; minus a peak that other prompts chose
COLUMNS = (
    "claim",
    "source",
    "study",
    "family",
    "effect",
    "low",
    "high",
    "p",
    "p_adjusted",
    "replicates",
    "verdict",
    "needed",
)


@dataclass(frozen=True)
class Claim:
    """One claim about the difference of two settings of a study, or of one from a number.

    Parameters
    ----------
    id : what the ledger calls it; text : the claim, a sentence; source : paper and section, or "rmlab"
    study : the folder with its rows
    quantity : "gold", "proxy" or "gain" at the pressure `at`; "change" or "fall" of gold up to it, or over a whole curve; or
        "table.column", a number a replicate of a table of the study, such as "diversity_replicates.corr_error"
    left, right : the keys that tell each setting, or each table's rows, from all others; no `right`: the difference is from
        `null`
    direction : of left minus right: "greater", "less" or "equivalent"
    margin : the largest difference that does not matter, in the quantity's unit
    family : claims that are adjusted together by Holm's method, or "descriptive"
    peak_at_most : of "fall": the peak is looked for up to this pressure
    """

    id: str
    text: str
    source: str
    study: str
    quantity: str
    left: dict[str, object]
    direction: str
    margin: float
    family: str = DESCRIPTIVE
    right: dict[str, object] | None = None
    null: float = 0.0
    at: float | None = None
    peak_at_most: float = np.inf

    def __post_init__(self):
        where = f"claim {self.id}"
        require(self.direction in DIRECTIONS, f"{where}: direction", self.direction, f"one of {DIRECTIONS}")
        require(self.margin > 0, f"{where}: margin", self.margin, "a difference above 0")
        known = self.quantity in (*READ_AT_A_POINT, *CURVES) or self.quantity.count(".") == 1
        mend = f"one of {', '.join(READ_AT_A_POINT + CURVES)}, or table.column"
        require(known, f"{where}: quantity", self.quantity, mend)
        read, tables = self.quantity in READ_AT_A_POINT, "." in self.quantity
        mend = "none: a table has no pressure" if tables else "the pressure at which the quantity is read"
        require(not ((tables and self.at) or (read and self.at is None)), f"{where}: at", self.at, mend)


@dataclass(frozen=True, eq=False)
class Finding:
    """What the rows say of a claim: the differences (D, P) and their interval and p."""

    claim: Claim
    values: np.ndarray
    p: float

    @property
    def replicates(self) -> int:
        """D."""
        return len(self.values)


def read_claims(path: str | Path) -> list[Claim]:
    """The claims of a TOML file, tables `[[claim]]`; a `ValueError` names a key that no claim has, or a doubled id."""
    tables = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("claim", [])
    require(len(tables) > 0, str(path), "no claims", "at least one table [[claim]]")
    fields = {f.name for f in dataclasses.fields(Claim)}
    claims = []
    for table in tables:
        unknown = sorted(set(table) - fields)
        require(
            not unknown, f"keys of claim {table.get('id')}", unknown, f"some of {', '.join(sorted(fields))}"
        )
        try:
            claims.append(Claim(**table))
        except TypeError as error:
            raise ValueError(f"claim {table.get('id')}: {error}") from None
    names = [claim.id for claim in claims]
    twice = sorted({n for n in names if names.count(n) > 1})
    require(not twice, "ids of claims", twice, "every claim an id of its own")
    return claims


def claims_digest(text: str, study: str) -> str | None:
    """SHA-256 of the claims about one study, every word of them, whatever else the file says of others.

    text : of a claims' file. Returns None without a claim about the study; comments and the order count for nothing.
    """
    tables = [table for table in tomllib.loads(text).get("claim", []) if table.get("study") == study]
    return digest(sorted(tables, key=lambda table: table["id"])) if tables else None


def ledger(claims: Iterable[Claim], data: str | Path) -> pd.DataFrame:
    """A row a claim, in the order they came: effect, 95% interval, p, adjusted p, replicates, verdict, replicates needed.

    data : the folder that holds the studies' folders. A claim whose study is not there, or has older code's rows, has the
    verdict "not run"; a family is adjusted as a whole, with a p of 1 for such a claim, so that no verdict hangs on what
    has been run.
    """
    claims, data = list(claims), Path(data)
    studies = {s: Rows(data / s) for s in dict.fromkeys(c.study for c in claims) if _was_run(data / s)}
    findings = {c.id: find(c, studies[c.study]) for c in claims if c.study in studies}
    adjusted, factors = {}, {}
    for family in dict.fromkeys(c.family for c in claims):
        members = [c.id for c in claims if c.family == family]
        p = [findings[m].p if m in findings else 1.0 for m in members]  # what was not run counts as well
        steps = [1.0 if family == DESCRIPTIVE else float(sum(other >= own for other in p)) for own in p]
        adjusted |= dict(zip(members, map(float, p if family == DESCRIPTIVE else holm(p)), strict=True))
        factors |= dict(zip(members, steps, strict=True))
    rows = []
    for claim in claims:
        about = {"claim": claim.id, "source": claim.source, "study": claim.study, "family": claim.family}
        if claim.id in findings:
            rows.append({**about, **judged(findings[claim.id], adjusted[claim.id], factors[claim.id])})
        else:
            rows.append({**about, "verdict": "not run"})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _was_run(folder: Path) -> bool:
    """Whether a study's rows are there, and no older code's from before any claim was fixed."""
    about = folder / "provenance.json"
    return folder.is_dir() and not (about.is_file() and "numbers_of" in json.loads(about.read_text()))


def small(row: tuple, margin: float) -> bool:
    """Whether a claim of the ledger's table holds, but its whole interval lies inside the margin."""
    return row.verdict == "holds" and -margin < row.low and row.high < margin


def ledger_text(claims: Iterable[Claim], table: pd.DataFrame) -> str:
    """The ledger as a person reads it: a claim, its source, and a line with effect, interval, p and verdict; by family."""
    claims, lines = {claim.id: claim for claim in claims}, []
    for family, rows in table.groupby("family", sort=False):
        adjusted = "not adjusted: descriptive" if family == DESCRIPTIVE else f"Holm over {len(rows)} claims"
        lines += [f"== {family} ({adjusted})", ""]
        for row in rows.itertuples():
            lines.append(f"{row.claim}: {claims[row.claim].text} [{row.source}; {row.study}]")
            word = Verdict(row.verdict, row.needed)
            word = f"{word}{', by less than matters' if small(row, claims[row.claim].margin) else ''}"
            if row.verdict == "not run":
                lines += ["    not run", ""]
                continue
            numbers = f"{row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}], p = {row.p_adjusted:.2g}"
            lines += [f"    {numbers}, {row.replicates} replicates: {word}", ""]
    counts = table.verdict.value_counts()
    return "\n".join([*lines, ", ".join(f"{n} {word}" for word, n in counts.items())])


def find(claim: Claim, rows: Rows) -> Finding:
    """The differences that a claim is about, left minus right or minus `null`, (D, P), and their p before adjustment."""
    values = rows.values(claim, claim.left)
    if claim.right is not None:
        values = values - rows.values(claim, claim.right)
    values = values[~np.isnan(values).any(1)] - claim.null
    mend = "rows with at least two replicates that both settings have"
    require(len(values) > 1, f"replicates of claim {claim.id}", len(values), mend)
    if claim.direction == "equivalent":
        return Finding(claim, values, equivalence(values, claim.margin).p)
    return Finding(claim, values, float(p_value(two_way_interval(values))))


def judged(finding: Finding, p_adjusted: float, factor: float = 1.0) -> dict[str, object]:
    """The rest of a finding's row in the ledger; an undecided one says how many replicates would decide.

    factor : what p is multiplied by before its family is looked at as a whole: Holm's step
    """
    claim, x = finding.claim, finding.values
    interval = two_way_interval(x)
    needed = replicates_to_decide(claim.direction, x, claim.margin, factor)
    word, needed = verdict(claim.direction, interval, p_adjusted, claim.margin, needed)
    numbers = {"effect": interval.mean, "low": interval.low, "high": interval.high}
    numbers = {name: float(value) for name, value in numbers.items()}
    rest = {"replicates": finding.replicates, "verdict": word, "needed": needed}
    return {**numbers, "p": finding.p, "p_adjusted": p_adjusted, **rest}


class Rows:
    """The rows of one study that claims read: `by_prompt.npz`, and tables by name."""

    def __init__(self, folder: str | Path, by_prompt: ByPrompt | None = None):
        """by_prompt : instead of the one in the folder, so that the folder need not be there."""
        self.folder = Path(folder)
        self.tables: dict[str, pd.DataFrame] = {}
        path = self.folder / "by_prompt.npz"
        self.by_prompt = ByPrompt.load(path) if by_prompt is None and path.is_file() else by_prompt

    def values(self, claim: Claim, keys: dict[str, object]) -> np.ndarray:
        """The quantity of one setting, (D, P), rows of NaN where there is no such replicate; P = 1 from a table."""
        if "." in claim.quantity:
            return self._of_table(*claim.quantity.split("."), keys, claim.id)
        require(
            self.by_prompt is not None, f"claim {claim.id}", str(self.folder), "a study with a by_prompt.npz"
        )
        if claim.quantity in READ_AT_A_POINT:
            return self.by_prompt.values(claim.at, claim.quantity, **keys)
        pressure, gold = self.by_prompt.curve(**keys)
        if claim.at is not None:
            mend = f"one of {', '.join(f'{x:g}' for x in pressure)}"
            require(claim.at in pressure, f"claim {claim.id}: at", claim.at, mend)
            pressure, gold = pressure[pressure <= claim.at], gold[..., pressure <= claim.at]
        kept = ~np.isnan(gold).any((1, 2))
        values = np.full(gold.shape[:2], np.nan)
        if claim.quantity == "change":
            values[kept] = gold[kept, :, -1] - gold[kept, :, 0]
        else:
            values[kept] = fall(gold[kept], pressure, claim.peak_at_most).values
        return values

    def _of_table(self, table: str, column: str, keys: dict[str, object], claim: str) -> np.ndarray:
        """The mean of a column by replicate over the rows with these keys, (D, 1)."""
        if table not in self.tables:
            path = self.folder / f"{table}.csv"
            require(path.is_file(), f"claim {claim}: table", str(path), "a table that the study wrote")
            self.tables[table] = pd.read_csv(path)
        rows = self.tables[table]
        needed = {*keys, column, "replicate"}
        require(
            needed <= set(rows),
            f"claim {claim}: columns",
            sorted(needed - set(rows)),
            f"some of {list(rows)}",
        )
        for name, value in keys.items():
            rows = rows[rows[name] == value]
        require(len(rows) > 0, f"claim {claim}: rows of {table}", keys, "keys of some of its rows")
        by_replicate = rows.groupby("replicate")[column].mean()
        values = np.full((int(by_replicate.index.max()) + 1, 1), np.nan)
        values[by_replicate.index, 0] = by_replicate
        return values
