"""Where the rows are: one function, so that notebooks find them from anywhere."""

from __future__ import annotations

import functools
import json
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rmlab.measure import claims
from rmlab.recipe import require

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from rmlab.optimise.compact import CompactPool

CHECKOUT = Path(__file__).resolve().parents[2]


def data_folder() -> Traversable:
    """`RMLAB_DATA` where it is set, else what an installed package brings along, else the checkout's `data/`."""
    if named := os.environ.get("RMLAB_DATA"):
        return Path(named)
    packaged = resources.files("rmlab") / "data"
    return packaged if packaged.is_dir() else CHECKOUT / "data"


def rows(table: str, study: str = "best_of_n_sighted") -> pd.DataFrame:
    """A shipped table; `data/README.md` describes every column.

    Parameters
    ----------
    table : `curves`, `comparisons`, `accuracy`, `probes` or another of the folder
    study : a folder of `data/`, one of `rmlab.study.presets.SHIPPED`
    """
    with (data_folder() / study / f"{table}.csv").open("rb") as file:
        return pd.read_csv(file)


def provenance(study: str = "best_of_n_sighted") -> dict:
    """The shipped rows' recipe, versions, seeds and times, and the commit that made them."""
    return json.loads((data_folder() / study / "provenance.json").read_text("utf-8"))


def made_by(study: str) -> str:
    """What made a study's rows, as a sentence in Markdown: the command, recipe, seed, size, time and commit."""
    about = provenance(study)
    settings = about["settings"]
    recipe = settings.get("base", settings)  # of a sweep, the one that its axes vary
    replicates, pool = recipe["replicates"], recipe["pool"]
    commit = f", commit `{about['commit'][:7]}`" if about.get("commit") else ""
    return (
        f"`rmlab study {study}`: recipe `{about['recipe']}`, seed {recipe['seed']}, {replicates['draws']} replicates "
        f"(labels and {replicates['backbones']} pretrained backbones of its own each), {pool['prompts']} prompts of "
        f"{pool['answers']:,} answers; {about['tasks']:,} tasks, {about['core_seconds'] / 3600:.1f} core hours{commit}."
    )


def ledger(*ids: str) -> tuple[list[claims.Claim], pd.DataFrame]:
    """The shipped claims of these ids, in their order, and what the shipped rows say of each; of no id, of all claims.

    Returns the claims and the table of `rmlab.measure.claims.ledger`, adjusted over the whole of each family.
    """
    known, table = _ledger(str(data_folder()))
    names = [claim.id for claim in known]
    unknown = [x for x in ids if x not in names]
    require(not unknown, "ids of claims", unknown, "some of those in data/claims.toml")
    at = [names.index(x) for x in ids or names]
    return [known[i] for i in at], table.iloc[at].reset_index(drop=True)


@functools.cache
def _ledger(folder: str) -> tuple[list[claims.Claim], pd.DataFrame]:
    """All claims of a data folder and their ledger, read once a process."""
    known = claims.read_claims(Path(folder) / "claims.toml")
    return known, claims.ledger(known, folder)


def own(table: str) -> pd.DataFrame | None:
    """The same table of the reader's own quick study, or None when there is none yet."""
    for root in (CHECKOUT, Path.cwd(), Path.cwd().parent):
        path = root / "_build" / "study" / "quick" / "quick" / f"{table}.csv"
        if path.is_file():
            return pd.read_csv(path)
    return None


def pool(study: str = "best_of_n_sighted") -> CompactPool:
    """A best-of-n study's shipped compact pool, for the explorer."""
    from rmlab.optimise.compact import CompactPool

    with resources.as_file(data_folder() / study / "explorer.npz") as path:
        return CompactPool.load(path)
