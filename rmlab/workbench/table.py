"""A table of scores, from a file or a DataFrame: read without guessing, and one clear error for what is wrong in it.

Every error names the row (the first row of data is 1), the column, the value, and what to do about it. Rows are numbered
by the frame's index, which holds text: "12", or "12, rejected" where a row was a pair.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Container, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.recipe import require
from rmlab.tables import RepeatedKey, loads

SIDES = ("chosen", "rejected")
READERS = "csv, tsv, jsonl, json or parquet, the text ones also with .gz"


def read_table(path: str | Path) -> pd.DataFrame:
    """A file's rows; the cells of text files stay text, so that an id 007 or None is kept as it stands.

    path : CSV, TSV, JSON lines, a JSON array, or Parquet, told apart by the name's ending

    Raises
    ------
    ValueError : no such file, another ending, a file that cannot be read, a column twice, no rows
    """
    path = Path(path)
    require(path.is_file(), "path", str(path), "an existing file")
    endings = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    try:
        if ending in {".csv", ".tsv"}:
            frame = _separated(path, "," if ending == ".csv" else "\t")
        elif ending in {".jsonl", ".ndjson", ".json"}:
            frame = _json(path, ending == ".json")
        elif ending in {".parquet", ".pq"}:
            frame = pd.read_parquet(path)
        else:
            raise ValueError(f"the ending {ending!r} says nothing; give {READERS}")
    except ImportError:
        raise ValueError(f"{path}: Parquet needs the package `pyarrow`; install it, or give a CSV") from None
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    check_columns(frame, str(path))
    return frame


def check_columns(frame: pd.DataFrame, source: str) -> None:
    """Refuse a table without rows, or with a column twice."""
    names = [str(c) for c in frame.columns]
    twice = sorted({n for n in names if names.count(n) > 1})
    require(not twice, f"columns of {source}", twice, "each column a name of its own")
    require(len(frame) > 0, f"rows of {source}", 0, "a table with at least one row")


def require_columns(frame: pd.DataFrame, names: Iterable[str | None], source: str) -> None:
    """Refuse names, None left out, that are no columns of the table."""
    missing = [n for n in names if n is not None and n not in frame.columns]
    listed = ", ".join(map(str, frame.columns[:20])) + (", ..." if len(frame.columns) > 20 else "")
    require(not missing, f"columns of {source}", missing, f"columns that are there: {listed}")


def numbers(frame: pd.DataFrame, column: str, source: str, mend: str = "a finite number") -> np.ndarray:
    """A column as float64 (R,); an error names the first row without a finite number."""
    values = pd.to_numeric(_cells(frame[column]), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        cell = frame[column].iloc[bad[0]]
        more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
        raise ValueError(
            f"{source}, row {frame.index[bad[0]]}, column {column!r}: {_short(cell)} is no score{more}; give {mend}, "
            "or leave the row out"
        )
    return values


def identifiers(frame: pd.DataFrame, column: str, source: str) -> np.ndarray:
    """A column of ids as text (R,); an error names the first row without one."""
    cells = _cells(frame[column])
    bad = np.flatnonzero(cells.isna())
    if len(bad):
        where = f"{source}, row {frame.index[bad[0]]}, column {column!r}"
        raise ValueError(f"{where}: no id; give one, or leave the row out")
    return cells.astype(str).to_numpy(object)


def numeric_columns(frame: pd.DataFrame, named: Container[str], source: str) -> list[str]:
    """The columns that hold numbers alone and are named for nothing else: the members, where none are named.

    Row numbers (an index that was written along) and true-false columns are no scores. A column of numbers with a few
    other cells is an error and not passed over.
    """
    found = []
    for column in frame.columns:
        cells = _cells(frame[column])
        filled = cells[cells.notna()]
        if column in named or len(filled) == 0 or pd.api.types.is_bool_dtype(frame[column]):
            continue
        values = pd.to_numeric(filled, errors="coerce")
        share = float(values.notna().mean())
        if share == 1.0 and not _counts_rows(str(column), cells):
            found.append(str(column))
        elif 0.5 <= share < 1.0:
            row = int(np.flatnonzero(cells.notna())[np.flatnonzero(values.isna())[0]])
            raise ValueError(
                f"{source}, row {frame.index[row]}, column {column!r}: {_short(cells.iloc[row])} is no score, the column's other "
                "cells are; mend it, or name the members without this column"
            )
    return found


def is_wide(frame: pd.DataFrame) -> bool:
    """Whether a row is a pair: some column has a form for the chosen and one for the rejected answer."""
    return bool(_sides(frame))


def stacked(frame: pd.DataFrame, label: str | None, source: str) -> pd.DataFrame:
    """A table of a pair a row as one of an answer a row, the chosen ones first.

    m_chosen and m_rejected (or chosen_m and rejected_m) become m; plain chosen and rejected become text, or score where
    they are numbers. Columns without sides go to both answers. New columns: `pair`, the row's number; `side`; and
    `preferred`, the share of votes for the answer: from `label`, which is that for the chosen one, or 1 and 0.
    """
    sides = _sides(frame)
    plain = frame[[c for c in frame.columns if all(c not in pair for pair in sides.values())]]
    share = np.ones(len(frame)) if label is None else numbers(frame, label, source, "a share from 0 to 1")
    parts = []
    for index, side in enumerate(SIDES):
        columns = {base: frame[pair[index]] for base, pair in sides.items()}
        new = {
            "pair": range(1, len(frame) + 1),
            "side": side,
            "preferred": share if index == 0 else 1 - share,
        }
        part = plain.drop(columns=[*columns], errors="ignore").assign(**columns, **new)
        parts.append(part.set_axis([f"{row}, {side}" for row in frame.index]))
    return pd.concat(parts)


def _sides(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """{base name: its columns for the chosen and for the rejected answer}."""
    found = {}
    for column in map(str, frame.columns):
        if "chosen" not in column:
            continue
        base, other = column.replace("chosen", "", 1).strip("_-. "), column.replace("chosen", "rejected", 1)
        edge = column.startswith("chosen") or column.endswith("chosen")
        if edge and other in frame.columns:
            numeric = pd.to_numeric(_cells(frame[column]).dropna(), errors="coerce").notna().all()
            found[base or ("score" if numeric else "text")] = (column, other)
    return found


def _separated(path: Path, separator: str) -> pd.DataFrame:
    keep = {"dtype": str, "keep_default_na": False, "sep": separator, "encoding": "utf-8-sig"}
    header = (
        pd.read_csv(path, header=None, nrows=1, **keep).iloc[0].tolist()
    )  # pandas renames what is there twice
    twice = sorted({n for n in header if header.count(n) > 1})
    require(not twice, "columns", twice, "each column a name of its own")
    return pd.read_csv(path, index_col=False, **keep)


def _json(path: Path, array: bool) -> pd.DataFrame:
    import gzip

    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8-sig")
    if array and text.lstrip()[:1] == "[":
        rows = {f"row {i}": row for i, row in enumerate(loads(text), 1)}
    else:
        rows = {f"line {i}": _line(line, i) for i, line in enumerate(text.split("\n"), 1) if line.strip()}
    for where, row in rows.items():
        require(isinstance(row, dict), where, _short(row), "an object of named values")
        require(not isinstance(row, RepeatedKey), where, _short(row), "each name once: one is there twice")
    return pd.DataFrame(list(rows.values()))


def _line(line: str, number: int) -> object:
    try:
        return loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: not JSON ({error.msg}); mend the line") from None


def _cells(column: pd.Series) -> pd.Series:
    """The cells with empty text as missing."""
    cells = column.reset_index(drop=True)
    if pd.api.types.is_numeric_dtype(cells):
        return cells
    return cells.where(~cells.astype(str).str.strip().isin({"", "nan", "NaN"}) & cells.notna(), None)


def _counts_rows(name: str, cells: pd.Series) -> bool:
    """Whether a column numbers the rows: an index that a table was saved with."""
    values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    steps = len(values) > 2 and values[0] in (0.0, 1.0) and bool((np.diff(values) == 1).all())
    return name == "" or name.startswith("Unnamed: ") or steps


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
