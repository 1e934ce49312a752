"""Every form of file gives the same rows; what is no data is one clear error."""

from __future__ import annotations

import gzip
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from rmlab.tables import BadRow, rows

ROWS = [
    {"id": "a", "prompt": "Name a colour.", "chosen": 'Rö,d\u2028 🏽 "x" \r\n ok', "rejected": "Seven."},
    {"id": "b", "prompt": "Q\n\n2", "chosen": '"quoted" first', "rejected": " blue "},
]


def write(path, form):
    """ROWS as a file of a form; None where they stay in memory."""
    dumped = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    if form.startswith("jsonl"):
        data = b"\n".join([*dumped, b"", b""])
    elif form.startswith("json"):
        data = b"[" + b",\n".join(dumped) + b"]"
    elif form in {"csv", "csv.gz"}:
        data = pd.DataFrame(ROWS).to_csv(index=False).encode()
    elif form == "tsv":
        data = pd.DataFrame(ROWS).to_csv(index=False, sep="\t").encode()
    else:
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
        return
    path.write_bytes(gzip.compress(data) if form.endswith(".gz") else data)


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "json.gz", "csv", "csv.gz", "tsv", "parquet"])
def test_every_form_of_file_gives_the_same_rows(tmp_path, form):
    path = tmp_path / f"pairs.{form}"
    write(path, form)
    found = list(rows(path))
    assert [row for _, row in found] == ROWS
    assert all(where.startswith(f"{path}, ") for where, _ in found)
    assert [row for _, row in rows(str(path))] == ROWS


def test_rows_in_memory_are_the_same_rows():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    for source in (ROWS, iter(ROWS), pd.DataFrame(ROWS), data, datasets.DatasetDict(train=data)):
        found = list(rows(source))
        assert [row for _, row in found] == ROWS and found[1][0].endswith("row 1")
    assert [row for _, row in rows({"test": ROWS}, split="test")] == ROWS


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_and_other_line_ends_change_nothing(tmp_path, newline, form):
    row = {"prompt": "p", "chosen": "a\nb", "rejected": "c"}
    plain = {
        "jsonl": json.dumps(row).encode() + b"\n",
        "json": json.dumps([row], indent=1).encode(),
        "csv": b'prompt,chosen,rejected\np,"a\nb",c\n',
    }[form]
    path = tmp_path / f"pairs.{form}"
    path.write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", newline))
    ((_, found),) = rows(path)
    assert {k: v.replace("\r\n", "\n") for k, v in found.items()} == row


def test_what_pandas_takes_for_missing_is_none_and_numpys_values_are_pythons():
    frame = pd.DataFrame({"a": ["x", None], "b": [1.5, np.nan], "c": [np.array([1, 2]), pd.NaT]})
    assert [row for _, row in rows(frame)] == [{"a": "x", "b": 1.5, "c": [1, 2]}, dict.fromkeys("abc")]
    ((_, row),) = rows([{"n": np.float32(0.5), "ids": np.arange(2)}])
    assert row == {"n": 0.5, "ids": [0, 1]} and type(row["n"]) is float


DAMAGED = {  # name -> (file, bytes, words of the error)
    "lfs": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "Git LFS.*git lfs pull",
    ),
    "empty": ("a.jsonl", b"", "has no rows"),
    "blank": ("a.jsonl", b"\n\n", "has no rows"),
    "no rows": ("a.json", b"[]", "has no rows"),
    "header alone": ("a.csv", b"prompt,chosen,rejected\n", "has no rows"),
    "cut array": ("a.json", b'\n[{"prompt": \n', "line 3: not JSON"),
    "latin array": ("a.json", b'[\n"\xff"]', "line 2: byte 3 of the file is not UTF-8"),
    "deep array": ("a.json", b"[" * 100_000 + b"]" * 100_000, "a nest that no pair needs"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(b"{}" * 999)[:-9], "no whole gzip file"),
    "bad gzip": ("a.jsonl.gz", gzip.compress(b"{}" * 999)[:-8] + b"12345678", "no whole gzip file"),
    "zip": ("a.zip", b"PK\x03\x04 and so on", "zip archive; unpack"),
    "zstd": ("a.jsonl.zst", b"\x28\xb5\x2f\xfd and so on", "zstd; unpack"),
    "utf-16": ("a.jsonl", '{"prompt": "a"}'.encode("utf-16"), "UTF-16 from line 1"),
    "cut parquet": ("a.parquet", b"PAR1\x15\x04\x15\x10L\x15\x02\xff\xfe\n\x00", "no whole parquet file"),
    "text as parquet": ("a.parquet", b"prompt,chosen\n", "no parquet file"),
    "open quote": (
        "a.csv",
        b'prompt,chosen,rejected\na,b,c\na,"b,c\nd,e,f\n',
        "line 3: a quote that is never",
    ),
    "repeated column": ("a.csv", b"prompt,chosen,chosen\na,b,c\n", "column 'chosen' is there twice"),
}


def test_a_column_that_is_there_twice_is_refused_in_every_table(tmp_path):
    table = pa.Table.from_arrays([pa.array(["p"]), pa.array(["a"])], names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "a.parquet")
    frame = pd.DataFrame([["p", "a"]], columns=["prompt", "prompt"])
    for source in (tmp_path / "a.parquet", frame):
        with pytest.raises(ValueError, match="column 'prompt' is there twice"):
            list(rows(source))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_no_data_is_one_error(tmp_path, name):
    file, data, words = DAMAGED[name]
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        list(rows(path))
    assert str(path) in str(caught.value) and not isinstance(caught.value, BadRow)


BAD = {  # name -> (file, bytes, reason, words); the bad row is between two good ones
    "not UTF-8": (
        "a.jsonl",
        b'{"a": 1}\n{"a": "caf\xe9"}\n{"a": 2}',
        "not_utf8",
        r"line 2: byte 19 .*\(0xe9\)",
    ),
    "not JSON": ("a.jsonl", b'{"a": 1}\n{"a": \n{"a": 2}', "not_json", "line 2: not JSON at column"),
    "deep": ("a.jsonl", b'{"a": 1}\n' + b'{"a":[' * 99_999 + b'\n{"a": 2}', "not_json", "line 2: .*JSON"),
    "stray quote": ("a.csv", b'a\n1\n"x"y\n2\n', "not_csv", "line 3: not CSV"),
    "ragged": ("a.csv", b"a,b\n1,1\n5\n2,2\n", "not_csv", "line 3: 1 cells under 2 names"),
    "latin csv": ("a.csv", b"a\n1\ncaf\xe9\n2\n", "not_utf8", "line 3: holds bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_stands_in_its_place(tmp_path, name):
    file, data, reason, words = BAD[name]
    path = tmp_path / file
    path.write_bytes(data)
    first, bad, last = (row for _, row in rows(path))
    assert str(first["a"]) == "1" and str(last["a"]) == "2"
    assert isinstance(bad, BadRow) and bad.reason == reason
    with pytest.raises(BadRow, match=words):
        raise bad


GOOD = json.dumps({"a": 1}).encode()
LAYOUTS = {  # what people take for JSON lines
    "UTF-16 without its mark": GOOD.decode().encode("utf-16-le") + b"\n\0",
    "old Mac's line ends": GOOD + b"\r" + GOOD + b"\r",
    "Python's notation": b"{'a': 1}",
    "commas at the ends": GOOD + b",\n" + GOOD + b",\n",
    "one object, indented": b'{\n "a": 1\n}',
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_quite_json_lines_is_bad_rows(tmp_path, layout):
    (tmp_path / "a.jsonl").write_bytes(LAYOUTS[layout])
    found = [row for _, row in rows(tmp_path / "a.jsonl")]
    assert found and all(isinstance(row, BadRow) and row.reason == "not_json" for row in found)
    assert "line 1: not JSON at column" in str(found[0])


def test_text_that_is_not_utf8_in_parquet_is_its_row_alone(tmp_path):
    text = pa.array([b"good", b"caf\xe9", b"also good"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"a": text}), tmp_path / "a.parquet")
    first, bad, last = (row for _, row in rows(tmp_path / "a.parquet"))
    assert (first, last) == ({"a": "good"}, {"a": "also good"})
    assert bad.reason == "not_utf8" and "row 2: holds bytes" in str(bad)


def test_numbers_of_thousands_of_digits_and_first_lines_that_are_lists_are_rows_like_others(tmp_path):
    long = b'{"a": 1, "n": ' + b"9" * 5000 + b"}"
    path = tmp_path / "a.json"
    path.write_bytes(b"[1, 2]\n" + long)
    assert [row for _, row in rows(path)] == [[1, 2], {"a": 1, "n": float("inf")}]
    path.write_bytes(b"[" + long + b"]")
    assert [row for _, row in rows(path)] == [{"a": 1, "n": float("inf")}]


@pytest.mark.parametrize("first", [b"[1, 2]", b"[" * 99_999 + b"]" * 99_999], ids=["list", "nest"])
@pytest.mark.parametrize("bad", [b'{"a": "caf\xe9"}', b'{"a": '], ids=["latin", "cut"])
def test_a_first_line_that_is_a_list_spoils_no_other_line(tmp_path, first, bad):
    """It is a row that is none, and so is a later one; neither makes an array of the file."""
    (tmp_path / "a.jsonl").write_bytes(first + b"\n" + bad + b'\n{"a": 2}\n')
    found = [row for _, row in rows(tmp_path / "a.jsonl")]
    assert len(found) == 3 and not isinstance(found[0], dict) and found[2] == {"a": 2}
    assert isinstance(found[1], BadRow)


@pytest.mark.parametrize("form", ["jsonl", "json"])
@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_nest_in_a_column_that_nobody_reads_is_a_row_or_a_clear_error(tmp_path, form, depth):
    good, deep = b'{"a": 1}', b'{"a": 2, "x": ' + b"[" * depth + b"]" * depth + b"}"
    path = tmp_path / f"a.{form}"
    path.write_bytes(b"[%s,%s]" % (good, deep) if form == "json" else good + b"\n" + deep)
    try:
        first, second = (row for _, row in rows(path))
    except ValueError as error:
        assert form == "json" and "a nest that no pair needs" in str(error)
    else:
        assert first == {"a": 1} and (isinstance(second, BadRow) or second["a"] == 2)


def test_what_is_no_source_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"path = .*nothing\.jsonl"):
        list(rows(tmp_path / "nothing.jsonl"))
    with pytest.raises(ValueError, match=r"path = 'nothing\.csv'"):
        list(rows("nothing.csv"))
    with pytest.raises(ValueError, match="source = 3: give a file"):
        list(rows(3))
    with pytest.raises(ValueError, match=r"split = 'train': give one of \['test'\]"):
        list(rows({"test": []}))
    with pytest.raises(ValueError, match="rows: has no rows"):
        list(rows([]))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"name = 'some/set'.*`datasets`; pip install"):
        list(rows("some/set"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="needs `pyarrow`; pip install"):
        list(rows(tmp_path / "a.parquet"))


def test_a_name_goes_to_datasets_and_its_errors_come_back_named(monkeypatch):
    def load_dataset(name, split, trust_remote_code):
        assert trust_remote_code is False
        if split != "train":
            raise KeyError(split)
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(rows("some/set")) == [(f"some/set [train], row {i}", row) for i, row in enumerate(ROWS)]
    with pytest.raises(ValueError, match="name = 'some/set': `datasets` cannot load its split 'validation'"):
        list(rows("some/set", split="validation"))


def test_folders_that_datasets_wrote_and_folders_of_files_are_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "several")
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.jsonl", "jsonl")
    for name in ("one", "several", "files"):
        assert [row for _, row in rows(tmp_path / name)] == ROWS, name
