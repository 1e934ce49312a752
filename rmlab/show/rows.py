"""Where the rows are: one function, so that notebooks find them from anywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from rmlab.optimise.compact import CompactPool

ONLINE = "https://raw.githubusercontent.com/rmlab/rmlab/main/data"


def data_folder() -> str:
    """`RMLAB_DATA` where it is set, the repository's `data/`, or the address of the published one (Colab)."""
    here = Path(__file__).resolve().parents[2] / "data"
    return os.environ.get("RMLAB_DATA") or (str(here) if here.is_dir() else ONLINE)


def rows(table: str, study: str = "full") -> pd.DataFrame:
    """A shipped table; `data/README.md` describes every column.

    Parameters
    ----------
    table : `curves` or `comparisons`; of "full" and "ppo" also `replicates` and `ends`; of "full" `transfer`,
        `agreement`, `accuracy`, `probes`, `fact_sensitivity`; of "constructions" `diversity`, `costs`, `left_out`; of
        "ppo" `answers`
    study : "full", "constructions" or "ppo"
    """
    return pd.read_csv(f"{data_folder()}/{study}/{table}.csv")


def provenance(study: str = "full") -> dict:
    """The shipped rows' recipe, versions, seeds and times, and the commit that made them."""
    where = f"{data_folder()}/{study}/provenance.json"
    if where.startswith("http"):
        from urllib.request import urlopen

        return json.load(urlopen(where))
    return json.loads(Path(where).read_text())


def own(table: str) -> pd.DataFrame | None:
    """The same table of the reader's own quick study, or None when there is none yet."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd(), Path.cwd().parent):
        path = root / "_build" / "study" / "quick" / "full" / f"{table}.csv"
        if path.is_file():
            return pd.read_csv(path)
    return None


def pool(study: str = "full") -> CompactPool:
    """A study's shipped compact pool, for the explorer: that of "full", or of "constructions"."""
    from rmlab.optimise.compact import CompactPool

    where = f"{data_folder()}/{study}/explorer.npz"
    if where.startswith("http"):
        from urllib.request import urlretrieve

        where = urlretrieve(where)[0]
    return CompactPool.load(where)
