"""Curves of a pool: best-of-n or exact tilting under several aggregators, as tidy rows and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rmlab.files import write_atomic

if TYPE_CHECKING:
    from rmlab.show.style import Figure


@dataclass(frozen=True, eq=False)
class Curves:
    """What members and aggregators choose, and what it is worth: print it, `plot` it, read its `rows`.

    rows : a row a chooser and point, see `rmlab.measure.score_curves.curve_rows`; intervals are 95%, over prompts
    """

    rows: pd.DataFrame

    def plot(self) -> Figure:
        """Worth and proxy against KL, with bands."""
        from rmlab.show.figures_scores import score_curves

        return score_curves(self.rows)

    def save(self, path: str | Path) -> None:
        """Write the rows as CSV."""
        write_atomic(Path(path), self.rows.to_csv(index=False))

    def __str__(self) -> str:
        shown = self.rows[
            ["ensemble", "aggregator", "pressure", "kl", "proxy", "gold", "gold_low", "gold_high"]
        ]
        names = {name: name.replace("gold", "worth") for name in shown.columns}
        names["pressure"] = "n" if self.rows.optimiser.iloc[0] == "best_of_n" else "beta"
        shown = shown.assign(pressure=[f"{x:.4g}" for x in shown.pressure]).rename(columns=names)
        head = f"judged by {self.rows.judge.iloc[0]}, {self.rows.units.iloc[0]} prompts, {self.rows.optimiser.iloc[0]}"
        return f"{head}\n{shown.to_string(index=False, float_format='{:.2f}'.format)}"
