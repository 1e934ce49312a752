"""Rows of a file, a data set or memory, each with where it stands; what is no data at all is one clear error.

A row is a dict of columns; one that cannot be read is a `BadRow` in its place.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

FORMS = {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz"}
FOREIGN = {  # what a file begins with -> what it is, and the mend
    b"version https://git-lfs": "a Git LFS pointer, not the data; run `git lfs pull`",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or use gzip",
    b"BZh": "compressed with bzip2; unpack it, or use gzip",
    b"\xfd7zXZ": "compressed with xz; unpack it, or use gzip",
    b"\xff\xfe": "UTF-16 from line 1 on; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 from line 1 on; convert it to UTF-8",
}
BOM = b"\xef\xbb\xbf"
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what "surrogateescape" leaves of such bytes
CELL = 100_000_000  # characters that a cell of a CSV may have


class BadRow(ValueError):
    """A row that cannot be used.

    reason : the short name that a report counts it under
    where : file and line, or whatever else finds the row
    fault : what is wrong with it, and the mend
    name : the field, if it is one field's fault
    """

    def __init__(self, reason: str, where: str, fault: str, name: str | None = None):
        super().__init__(f"{where}, field {name!r}: {fault}" if name else f"{where}: {fault}")
        self.reason = reason


Row = tuple[str, object]  # where, and the row or the BadRow that stands for it


class RepeatedKey(dict):
    """A JSON object that names a key twice: which of the two was meant cannot be known."""


def rows(source: object, split: str = "train") -> Iterator[Row]:
    """Every row, in order.

    Parameters
    ----------
    source : a path (JSON lines, a JSON array, CSV, TSV or Parquet, the first four also gzipped), a folder or a
        name that `datasets` loads, a data set, a data frame, or an iterable of rows
    split : which one, of a source that has several

    Raises
    ------
    ValueError
        Names the source and the mend where it is none of these, is missing, damaged, or has no rows.
    """
    if isinstance(source, str | Path):
        path, named = Path(source), _is_name(source)
        if not path.is_file() and not (path.is_dir() or named):
            raise ValueError(f"path = {str(path)!r}: give an existing file, folder, or name of a data set")
        label, found = str(source), _file(path) if path.is_file() else _data_set(str(source), split)
    else:
        label, found = "rows", _memory(source, split)
    empty = True
    for row in found:
        empty = False
        yield row
    if empty:
        raise ValueError(f"{label}: has no rows; give at least one")


def short(value: object) -> str:
    """A value as at most 60 printable characters."""
    try:
        text = ascii(value)  # half a surrogate pair in a message could not be printed
    except RecursionError:
        text = f"a nested {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _is_name(source: str | Path) -> bool:
    """Whether it could be a data set's name, such as "owner/name"."""
    return isinstance(source, str) and source.count("/") <= 1 and Path(source).suffix.lower() not in FORMS


def _file(path: Path) -> Iterator[Row]:
    data, suffixes = path.read_bytes(), [s.lower() for s in path.suffixes]
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: is no whole gzip file ({error}); fetch it again") from None
    for start, fault in FOREIGN.items():
        if data.startswith(start):
            raise ValueError(f"{path}: is {fault}")
    if data.startswith(b"PAR1"):
        return _parquet(data, path)
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    if suffixes and suffixes[-1] in {".csv", ".tsv"}:
        return _csv(data, path, "\t" if suffixes[-1] == ".tsv" else ",")
    if suffixes and suffixes[-1] == ".parquet" and data:
        raise ValueError(f"{path}: is no parquet file; fetch it again, or name it for what it is")
    return _json(data, path)


def _json(data: bytes, path: Path) -> Iterator[Row]:
    start = len(BOM) if data.startswith(BOM) else 0
    data = data[start:]
    array = _array(data, path, start) if data.lstrip()[:1] == b"[" and not _is_lines(data) else None
    if array is not None:
        for i, row in enumerate(array, 1):
            yield f"{path}, row {i}", row
        return
    for number, line in enumerate(data.split(b"\n"), 1):  # not splitlines: U+2028 is text
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _line(line, where, start)
        start += len(line) + 1


def _is_lines(data: bytes) -> bool:
    """Whether the first line is a row of its own, though it opens with "[": a whole list, and more lines after it."""
    first, _, rest = data.lstrip().partition(b"\n")
    try:
        loads(first.decode("utf-8"))
    except RecursionError:
        pass  # a nest that no pair needs, of one line
    except ValueError:
        return False
    return bool(rest.strip())


def _array(data: bytes, path: Path, start: int) -> list | None:
    """The rows of a file that is one JSON array; None where only a part of its first line is one."""
    try:
        return loads(data.decode("utf-8"))
    except UnicodeDecodeError as bad:
        line, byte = data.count(b"\n", 0, bad.start) + 1, start + bad.start
        raise ValueError(f"{path}, line {line}: byte {byte} of the file is not UTF-8; convert it") from None
    except json.JSONDecodeError as bad:
        if bad.msg == "Extra data":
            return None
        raise ValueError(f"{path}, line {bad.lineno}: not JSON ({bad.msg}); mend the file") from None
    except RecursionError:
        raise ValueError(f"{path}: a nest that no pair needs, in one array; mend the file") from None


def _line(line: bytes, where: str, start: int) -> object:
    try:
        return loads(line.decode("utf-8"))
    except UnicodeDecodeError as bad:
        byte = f"byte {start + bad.start} of the file ({line[bad.start]:#04x})"
        return BadRow("not_utf8", where, f"{byte} is not UTF-8; convert the file")
    except json.JSONDecodeError as bad:
        fault = f"not JSON at column {bad.colno} ({bad.msg}); mend the line"
        return BadRow("not_json", where, fault)
    except RecursionError:
        return BadRow("not_json", where, "JSON in a nest that no pair needs; mend the line")


def loads(text: str) -> object:
    """JSON, with a `RepeatedKey` for every object that names a key twice.

    Raises a `ValueError` or a `RecursionError`, as `json.loads` does.
    """
    return json.loads(text, parse_int=_whole, object_pairs_hook=_object)


def _whole(digits: str) -> int | float:
    """Python refuses to read numbers of thousands of digits; a column nobody reads may hold one."""
    return int(digits) if len(digits) <= 300 else float(digits)


def _object(items: list[tuple[str, object]]) -> dict:
    found = dict(items)
    return found if len(found) == len(items) else RepeatedKey(found)


def _csv(data: bytes, path: Path, delimiter: str) -> Iterator[Row]:
    """Quoted as RFC 4180 says, the columns' names in the first row."""
    text = data.removeprefix(BOM).decode("utf-8", "surrogateescape")
    before = csv.field_size_limit(CELL)
    try:
        yield from _csv_rows(
            csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), path
        )
    finally:
        csv.field_size_limit(before)


def _csv_rows(reader: Iterator[list[str]], path: Path) -> Iterator[Row]:
    header: list[str] | None = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):  # the rest of the file would be one cell
                raise ValueError(f"{where}: a quote that is never closed; mend the file") from None
            yield where, BadRow("not_csv", where, f"not CSV ({error}); double the quotes inside a cell")
            continue
        if header is None:
            header = _header(cells, str(path))
        elif cells:
            yield where, _csv_row(header, cells, where)


def _csv_row(header: list[str], cells: list[str], where: str) -> object:
    if len(cells) != len(header):
        fault = f"{len(cells)} cells under {len(header)} names; quote cells that hold commas or line ends"
        return BadRow("not_csv", where, fault)
    if any(NOT_UTF8.search(cell) for cell in cells):
        return BadRow("not_utf8", where, "holds bytes that are not UTF-8; convert the file")
    return dict(zip(header, cells, strict=True))


def _header(names: list[str], where: str) -> list[str]:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: column {short(twice[0])} is there twice; give each a name of its own")
    return names


def _parquet(data: bytes, path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{path}: a parquet file needs `pyarrow`; pip install pyarrow") from None
    number = 0
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        _header(file.schema_arrow.names, str(path))
        for batch in file.iter_batches(1024):
            for row in _arrow_rows(batch):
                number += 1
                where = f"{path}, row {number}"
                if row is None:
                    row = BadRow("not_utf8", where, "holds bytes that are not UTF-8; convert the file")
                yield where, row
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: is no whole parquet file ({error}); fetch it again") from None


def _arrow_rows(batch: object) -> Iterable[dict | None]:
    """Rows of a record batch; None for one whose text is not UTF-8, which Arrow does not check."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
    return [row for i in range(batch.num_rows) for row in _arrow_rows(batch.slice(i, 1))]


def _data_set(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        mend = "pip install datasets, or give a file"
        raise ValueError(f"name = {name!r}: a folder or name needs the package `datasets`; {mend}") from None
    try:
        if any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            return _memory(datasets.load_from_disk(name), split, name)
        found = datasets.load_dataset(name, split=split, trust_remote_code=False)
        return _memory(found, split, f"{name} [{split}]")
    except Exception as error:  # theirs are of many kinds
        first = str(error).split("\n")[0]
        raise ValueError(f"name = {name!r}: `datasets` cannot load its split {split!r} ({first})") from error


def _memory(source: object, split: str, label: str = "rows") -> Iterator[Row]:
    if isinstance(source, Mapping):
        if split not in source:
            raise ValueError(f"split = {split!r}: give one of {short(list(source))}")
        label, source = f"{label} [{split}]", source[split]
    if hasattr(source, "iterrows"):
        _header(list(source.columns), label)
        return _frame(source, label)
    if isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise ValueError(f"source = {short(source)}: give a file, a data set, a data frame or a list of rows")
    return ((f"{label}, row {i}", _plain(row)) for i, row in enumerate(source))


def _frame(frame: object, label: str) -> Iterator[Row]:
    """A data frame's rows; what pandas takes for missing is None."""
    from pandas import NA, NaT

    for i, row in enumerate(frame.to_dict("records")):
        yield (
            f"{label}, row {i}",
            {k: None if v is NA or v is NaT or v != v else v for k, v in _plain(row).items()},
        )


def _plain(row: object) -> object:
    """NumPy's scalars and arrays as Python's."""
    if not isinstance(row, Mapping):
        return row
    return {k: v.tolist() if type(v).__module__ == "numpy" else v for k, v in row.items()}
