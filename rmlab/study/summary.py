"""Where a study's gold goes, as text for a terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def summary(folder: str | Path) -> str:
    """A row an ensemble, aggregator and penalty, from `ends.csv`: gold at the start, at its peak and at the end, the falls, the gain."""
    table = pd.read_csv(Path(folder) / "ends.csv")
    settings = [_setting(row) for row in table.itertuples()]
    width = max(12, *(len(s) for s in settings)) + 2
    head = f"{'start':>6}  {'peak':>6} {'at':>5}  {'end':<22} {'at':>5}  {'end minus start':<22} {'end minus peak':<22} gain over single"
    lines = [" " * width + head]
    for setting, row in zip(settings, table.itertuples(), strict=True):
        numbers = f"{row.start:6.2f}  {row.peak:6.2f} {row.peak_pressure:>5g}"
        line = (
            f"{setting:<{width}}{numbers}  {_band(row, 'end')} {row.end_pressure:>5g}  {_band(row, 'fall')}"
        )
        line += f" {_band(row, 'fall_from_peak')}"
        gains = row.method not in {"single", "oracle"} and pd.notna(getattr(row, "gain", float("nan")))
        lines.append(f"{line} {_interval(row.gain, row.low, row.high)}".rstrip() if gains else line.rstrip())
    covers = table.covers.iloc[0]
    lines.append(
        f"95% intervals over {covers}. Gold units; at: n of best-of-n, step of PPO; the peak that the end is "
        "held against was chosen on other prompts."
    )
    return "\n".join(lines)


def _setting(row: object) -> str:
    parts = [f"{row.axis} {row.value}:"] if hasattr(row, "axis") else []
    parts += [row.ensemble, row.aggregator] + ["matched"] * (row.pessimism == "matched")
    if row.optimiser == "ppo":
        parts += [f"kl {row.kl_coef:g}"] + [f"x{row.step_multiplier}"] * (row.step_multiplier > 1)
    return " ".join(parts)


def _band(row: object, name: str) -> str:
    return _interval(*(getattr(row, name + end) for end in ("", "_low", "_high")))


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:6.2f} [{low:6.2f}, {high:6.2f}]"
