"""Files of every form give one table; a cell is never guessed."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from rmlab.workbench import table
from tests.workbench.fake_tables import pairs_table


def numbered(frame):
    return frame.set_axis([str(i) for i in range(1, len(frame) + 1)])


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.json", "t.parquet"]
)
def test_every_form_gives_the_same_numbers(tmp_path, name):
    expected, path = pairs_table(20), tmp_path / name
    if "csv" in name or "tsv" in name:
        expected.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    elif "parquet" in name:
        expected.to_parquet(path)
    else:
        expected.to_json(path, orient="records", lines="jsonl" in name, double_precision=15)
    frame = numbered(table.read_table(path))
    assert list(frame) == list(expected) and table.identifiers(frame, "prompt", "t").tolist() == list(
        expected.prompt
    )
    for column in ("ann", "votes", "words"):
        np.testing.assert_allclose(table.numbers(frame, column, "t"), expected[column], rtol=1e-12)


def test_ids_stay_as_they_are_written(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeffprompt,a\n007,1\nNone,2\nNA,3\n1e5,4\n", "utf-8")
    ids = table.identifiers(numbered(table.read_table(path)), "prompt", "t")
    assert ids.tolist() == ["007", "None", "NA", "1e5"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xls", b"a", "ending '.xls'"),
        ("t.csv", b"", "t.csv: "),
        ("t.csv", b"a,b\n", "at least one row"),
        ("t.csv", b"a,b,a\n1,2,3\n", r"\['a'\]: give each column a name"),
        ("t.csv", b"a\n\xff\n", "t.csv: .*utf-8"),
        ("t.jsonl", b'{"a": 1}\n{"a"\n', "line 2: not JSON"),
        ("t.jsonl", b"[1]\n", "line 1 .*an object"),
        ("t.json", b'[{"a": 1}, 2]', "row 2 .*an object"),
        ("t.json", b'[{"a": 1, "a": 2}]', "row 1 .*each name once"),
        ("t.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2 .*each name once"),
        ("t.jsonl", b'{"a": ' + b"[" * 99_999, "t.jsonl: "),
        ("t.jsonl.gz", gzip.compress(b'{"a": 1}' * 99, mtime=0)[:-9], "t.jsonl.gz: "),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9], "t.csv.gz: "),
        ("t.parquet", b"nothing", "t.parquet: "),
        ("t.csv.gz", b"plain", "t.csv.gz: "),
    ],
)
def test_files_that_cannot_be_read_are_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        table.read_table(tmp_path / name)
    assert "\n" not in str(error.value)


def test_no_file_at_all():
    with pytest.raises(ValueError, match="existing file"):
        table.read_table("nowhere.csv")


def test_a_number_is_refused_with_its_place():
    frame = numbered(pd.DataFrame({"a": ["1", "", "x"], "b": ["1", "2", "inf"]}))
    with pytest.raises(ValueError, match=r"t, row 2, column 'a': '' is no score \(2 such rows\)"):
        table.numbers(frame, "a", "t")
    with pytest.raises(ValueError, match="row 3, column 'b': 'inf'"):
        table.numbers(frame, "b", "t")
    with pytest.raises(ValueError, match="row 2, column 'a': no id"):
        table.identifiers(frame, "a", "t")


def test_columns_of_numbers_are_members_but_for_row_numbers():
    frame = numbered(
        pd.DataFrame(
            {
                "Unnamed: 0": [4, 2, 9],
                "index": [0, 1, 2],
                "a": ["1", "2.5", ""],
                "words": ["so", "3", "it"],
                "flag": [True, False, True],
                "empty": ["", "", ""],
                "b": [0.1, 0.2, 0.1],
            }
        )
    )
    assert table.numeric_columns(frame, {"b"}, "t") == ["a"]
    frame["mixed"] = ["1", "n/a", "2"]
    with pytest.raises(
        ValueError, match="row 2, column 'mixed': 'n/a' is no score, the column's other cells are"
    ):
        table.numeric_columns(frame, set(), "t")


def test_pairs_in_a_row_are_stacked():
    frame = numbered(
        pd.DataFrame({"prompt": ["p"], "m_chosen": [2], "m_rejected": [1], "chosen": "a", "rejected": "b"})
    )
    assert table.is_wide(frame) and not table.is_wide(frame[["prompt", "m_chosen"]])
    long = table.stacked(frame, None, "t")
    assert (
        long.m.tolist() == [2, 1] and long.text.tolist() == ["a", "b"] and long.prompt.tolist() == ["p", "p"]
    )
    assert long.preferred.tolist() == [1, 0] and long.index.tolist() == ["1, chosen", "1, rejected"]
    votes = table.stacked(frame.assign(votes=["0.8"]), "votes", "t")
    assert votes.preferred.tolist() == pytest.approx([0.8, 0.2])
    plain = numbered(pd.DataFrame({"chosen": ["1.5"], "rejected": ["0.5"]}))
    assert table.stacked(plain, None, "t").score.tolist() == ["1.5", "0.5"]
