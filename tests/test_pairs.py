"""A row to a pair: columns, votes, scores, ids; a bad row is refused by field, value and mend."""

from __future__ import annotations

import pytest

from rmlab.pairs import HUGE, Columns, Pair
from rmlab.tables import BadRow, RepeatedKey

GOOD = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
TWO = {"q": "Name a colour.", "a": "Red.", "b": "Seven."}
NAMED = {"prompt": "q", "chosen": "a", "rejected": "b"}


def pair(row, **columns) -> Pair:
    return Columns(**columns).pair(row, "row 1")


def test_columns_have_the_usual_names_or_those_that_are_said():
    first = pair(GOOD)
    assert (first.prompt, first.chosen, first.rejected) == tuple(GOOD.values())
    assert (first.soft, first.group, first.votes) == (None, None, None)
    assert pair(TWO, **NAMED) == first == pair({"prompt": TWO["q"], "x": ["Red.", "Seven."]}, answers="x")
    full = pair(GOOD | {"id": 7.0, "soft_label": "0.8", "g": ["a", 1]}, group="g")
    assert (full.id, full.soft, full.group) == ("7", 0.8, '["a", 1]')
    assert pair(GOOD | {"id": "", "soft_label": ""}) == first  # a cell of a CSV that is empty
    joined = pair(GOOD | {"prompt": None, "i": "Add.", "x": "1 and 2", "y": " "}, prompt=("i", "x", "y", "z"))
    assert joined.prompt == "Add.\n\n1 and 2"


def test_an_id_is_the_rows_or_a_hash_of_its_texts():
    first = pair(GOOD)
    assert first.id == pair(GOOD | {"other": 1}).id and len(first.id) == 16
    assert first.id != pair(GOOD | {"prompt": "Another."}).id
    assert first.id == pair(GOOD | {"chosen": "Seven.", "rejected": "Red. "}).id
    assert pair(GOOD | {"id": 0}).id == "0" and pair(GOOD | {"key": "k"}, id="key").id == "k"


@pytest.mark.parametrize(
    ("columns", "row", "votes"),
    [
        ({"votes": "v"}, {"v": [1, 2, 0, 1]}, (2, 1, 1)),
        ({"votes": "v"}, {"v": "[1, 2, 0, 1]"}, (2, 1, 1)),
        ({"votes": "v"}, {"v": ["A", "b", "Tie", "model_a"]}, (2, 1, 1)),
        ({"votes": "v"}, {"v": "rejected"}, (0, 1, 0)),
        ({"votes": ("x", "y", "z")}, {"x": 2, "y": "2", "z": 0.0}, (0, 2, 1)),
        ({"votes": ("x", "y", "z")}, {"x": 2, "y": None, "z": ""}, (0, 1, 0)),
        ({"votes": "v", "labels": ("left", "right", None)}, {"v": ["left", "RIGHT ", "left"]}, (2, 1, 0)),
        ({"votes": {"chosen": "x", "rejected": "y"}}, {"x": 3, "y": "2"}, (3, 2, 0)),
        ({"votes": {"chosen": "x", "rejected": "y", "tie": "z"}}, {"x": 3, "y": 1, "z": 1}, (3, 1, 1)),
        ({"scores": ("x", "y")}, {"x": 3.5, "y": "3"}, (1, 0, 0)),
        ({"scores": "s"}, {"s": [1, 2]}, (0, 1, 0)),
        ({"scores": "s"}, {"s": "[2, 2.0]"}, (0, 0, 1)),
    ],
)
def test_votes_and_scores_are_counted(columns, row, votes):
    read = pair(GOOD | row, **columns)
    assert read.votes == votes and read.soft is None
    assert read.swapped().votes == (votes[1], votes[0], votes[2])


def test_swapping_keeps_what_was_compared():
    one = pair(GOOD | {"soft_label": 0.75})
    other = one.swapped()
    assert (other.chosen, other.rejected, other.soft) == ("Seven.", "Red.", 0.25)
    assert other.texts == one.texts and other.swapped() == one


BAD = {  # reason: ... -> (change of a good row, columns, words)
    "missing_field": ({"chosen": None}, {}, "field 'chosen': missing; give prompt, chosen and rejected"),
    "missing_field, named": ({}, {"prompt": "q"}, "field 'q': missing"),
    "missing_field, group": ({}, {"group": "g"}, "field 'g': missing"),
    "missing_field, soft": ({"soft_label": 0.5}, {"soft": "p"}, "field 'p': missing"),
    "missing_field, votes": ({}, {"votes": "v"}, "field 'v': missing"),
    "missing_field, counts": ({"x": 1}, {"votes": {"chosen": "x", "tie": "z"}}, "field 'z': missing"),
    "missing_field, scores": ({"x": 1}, {"scores": ("x", "y")}, "field 'y': missing"),
    "not_text": ({"rejected": True}, {}, "field 'rejected': True is bool, not text; give a string"),
    "not_text, NaN": ({"prompt": float("nan")}, {}, "field 'prompt': nan is float"),
    "not_text, a joined chat": (
        {"q": [{"role": "user", "content": "a"}]},
        {"prompt": ("q",)},
        "a chat; give",
    ),
    "empty_answer": ({"chosen": " \n"}, {}, "field 'chosen': empty"),
    "empty_answer, HH": (
        {"prompt": None, "chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: b"},
        {},
        "field 'chosen': empty",
    ),
    "empty_prompt": ({"prompt": ""}, {}, "field 'prompt': empty"),
    "empty_prompt, blank messages": ({"prompt": [{"role": "user", "content": " "}]}, {}, "field 'prompt'"),
    "empty_prompt, nobody asks": (
        {"prompt": None, "chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"},
        {},
        "field 'prompt': empty",
    ),
    "identical_pair": ({"rejected": "Red. "}, {}, "chosen and rejected are identical"),
    "bad_characters": ({"chosen": "Red\0."}, {}, "field 'chosen': holds NUL or half a surrogate pair"),
    "bad_characters, half": ({"prompt": "Red \ud83d."}, {}, "field 'prompt': holds NUL or half"),
    "bad_characters, id": ({"id": "\ud83d"}, {}, "field 'id': holds NUL or half"),
    "bad_characters, group": ({"g": "a\0"}, {"group": "g"}, "field 'g': holds NUL or half"),
    "bad_soft_label": ({"soft_label": 1.5}, {}, "field 'soft_label': 1.5; give a share"),
    "bad_soft_label, NaN": ({"soft_label": float("nan")}, {}, "field 'soft_label': nan"),
    "bad_soft_label, true": ({"soft_label": True}, {}, "field 'soft_label': True"),
    "bad_soft_label, text": ({"p": "high"}, {"soft": "p"}, "field 'p': 'high'"),
    "huge_text": ({"prompt": "x" * (HUGE + 1)}, {}, "field 'prompt': 1000001 characters"),
    "bad_vote": ({"v": [1, "garbage"]}, {"votes": "v"}, "field 'v': 'garbage'; give 1, 2 or 0"),
    "bad_vote, 3": ({"x": 1, "y": 3}, {"votes": ("x", "y")}, "field 'y': 3; give"),
    "bad_vote, count": ({"x": -1}, {"votes": {"chosen": "x"}}, "field 'x': -1; give how many"),
    "no_votes": ({"v": []}, {"votes": "v"}, "nobody voted"),
    "no_votes, counts": ({"x": 0}, {"votes": {"chosen": "x"}}, "nobody voted"),
    "bad_score": ({"s": [1, "best"]}, {"scores": "s"}, "field 's': .*give two finite numbers"),
    "bad_score, three": ({"s": [1, 2, 3]}, {"scores": "s"}, "field 's': .*give two"),
    "not_json": ({"v": "[1, 2"}, {"votes": "v"}, "field 'v': .* is no JSON list"),
    "not_two_answers": ({"x": ["a", "b", "c"]}, {"answers": "x"}, "field 'x': 3 answers; give two"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_names_where_the_field_the_value_and_the_mend(name):
    change, columns, words = BAD[name]
    with pytest.raises(BadRow, match=words) as caught:
        pair(GOOD | change, **columns)
    assert caught.value.reason == name.split(",")[0] and str(caught.value).startswith("row 1")
    assert len(str(caught.value)) < 200


def test_what_is_no_row_is_refused_and_at_most_sixty_characters_of_it_are_shown():
    with pytest.raises(BadRow, match=r"row 1: \[1, 2\] is no object"):
        pair([1, 2])
    with pytest.raises(BadRow, match="a name is there twice"):
        pair(RepeatedKey(GOOD))
    with pytest.raises(BadRow, match="of the file"):
        pair(BadRow("not_utf8", "row 1", "byte 3 of the file"))
    with pytest.raises(BadRow) as caught:
        pair(GOOD | {"chosen": {"secret": "x" * 500}})
    assert "x" * 61 not in str(caught.value) and "..." in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"votes": "v", "soft": "p"}, "votes beside soft or scores"),
        ({"votes": "v", "scores": "s"}, "votes beside soft or scores"),
        ({"answers": "a", "chosen": "c"}, "answers beside chosen"),
        ({"votes": {"first": "x"}}, "give columns of counts under chosen, rejected, tie"),
        ({"votes": "v", "labels": (1, 2)}, r"labels = \(1, 2\): give what stands for the first"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(columns, words):
    with pytest.raises(ValueError, match=words):
        Columns(**columns)


def test_columns_that_are_looked_at_are_known():
    assert Columns().known == {"prompt", "conversations", "chosen", "rejected", "soft_label", "id"}
    columns = Columns(
        prompt=("q", "x"), votes={"chosen": "v"}, group="g", answers="a", id="k", labels=(1, 2, 0)
    )
    assert columns.known == {"q", "x", "v", "g", "a", "k"}
    columns = Columns(scores=("s", "t"), chosen="c")
    assert columns.known == {"prompt", "conversations", "c", "rejected", "s", "t", "id"}
