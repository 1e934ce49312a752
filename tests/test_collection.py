"""Many rows: repeats, votes of several rows, ties; kept and dropped are all of them."""

from __future__ import annotations

import pytest

from rmlab.collection import collect
from rmlab.pairs import Columns
from rmlab.tables import BadRow

GOOD = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
REVERSED = GOOD | {"chosen": GOOD["rejected"], "rejected": GOOD["chosen"]}
OTHER = GOOD | {"prompt": "Another."}


def read(*rows, on_bad="error", repeats="keep", ties="drop", **columns):
    located = [(f"row {i}", row) for i, row in enumerate(rows)]
    pairs, counts = collect(located, Columns(**columns), on_bad, repeats, ties)
    assert counts.kept + counts.dropped.total() == len(rows)
    return pairs, counts


def test_repeats_are_kept_dropped_or_counted_as_votes():
    pairs, counts = read(GOOD, GOOD, REVERSED, OTHER)
    assert len(pairs) == 4 and counts.noted == {"duplicate_pair": 1, "reversed_pair": 1}
    pairs, counts = read(GOOD, GOOD, REVERSED, OTHER, repeats="drop")
    assert len(pairs) == 2 and counts.dropped == {"duplicate_pair": 1, "reversed_pair": 1}
    pairs, counts = read(GOOD, GOOD, REVERSED, OTHER, repeats="vote")
    assert [(p.chosen, p.votes) for p in pairs] == [("Red.", (2, 1, 0)), ("Red.", (1, 0, 0))]
    assert [p.soft for p in pairs] == pytest.approx([2 / 3, 1]) and counts.noted == {"merged_vote": 2}


def test_one_row_an_annotator_is_one_pair_whichever_way_round_its_answers_stand():
    rows = [GOOD | {"id": "k", "v": v} for v in (2, "2", "tie")] + [REVERSED | {"id": "k", "v": 2}]
    (pair,), counts = read(*rows, votes="v")
    assert (pair.chosen, pair.votes, pair.soft, pair.id) == ("Seven.", (2, 1, 1), 0.625, "k")
    assert counts.kept == 4 and counts.noted == {"merged_vote": 3, "sides_changed": 4}
    unnamed = [{k: v for k, v in row.items() if k != "id"} for row in rows]
    assert [p.votes for p in read(*unnamed, votes="v")[0]] == [(2, 1, 1)]
    others = [row | {"id": f"{i}"} for i, row in enumerate(rows)]
    assert len(read(*others, votes="v", ties="half")[0]) == 4  # pairs of their own


@pytest.mark.parametrize(
    ("votes", "soft", "chosen"),
    [([1, 1, 2], 2 / 3, "Red."), ([2, 0, 0], 2 / 3, "Seven."), ([1, 1], 1.0, "Red."), ([2], 1.0, "Seven.")],
)
def test_the_majority_is_chosen_and_a_tie_is_half_a_vote_for_each(votes, soft, chosen):
    (pair,), counts = read(GOOD | {"v": votes}, votes="v")
    assert pair.soft == pytest.approx(soft) and pair.chosen == chosen
    assert counts.noted["sides_changed"] == (chosen == "Seven.")


@pytest.mark.parametrize("votes", [[1, 2], [0], [1, 0, 2]])
def test_pairs_without_a_majority_are_dropped_and_counted_or_halves(votes):
    pairs, counts = read(OTHER | {"v": 1}, GOOD | {"v": votes}, votes="v")
    assert len(pairs) == 1 and counts.dropped == {"tie": 1}
    pairs, counts = read(OTHER | {"v": 1}, GOOD | {"v": votes}, votes="v", ties="half")
    assert pairs[1].soft == 0.5 and counts.noted == {"tie": 1}


def test_what_is_the_same_pair_again_is_decided_after_the_votes():
    rows = [GOOD | {"id": "a", "v": 1}, REVERSED | {"id": "b", "v": 2}, REVERSED | {"id": "c", "v": 1}]
    pairs, counts = read(*rows, votes="v")
    assert [p.chosen for p in pairs] == ["Red.", "Red.", "Seven."]
    assert counts.noted == {"sides_changed": 1, "duplicate_pair": 1, "reversed_pair": 1}


def test_ties_of_several_rows_are_that_many_rows():
    pairs, counts = read(OTHER, GOOD, REVERSED, repeats="vote")
    assert len(pairs) == 1 and counts.dropped == {"tie": 2} and counts.kept == 1


def test_soft_labels_of_the_file_do_not_change_sides():
    (pair,), counts = read(GOOD | {"soft_label": 0.4})
    assert (pair.chosen, pair.soft) == ("Red.", 0.4) and not counts.noted


def test_bad_rows_raise_or_are_dropped_under_their_reason():
    bad, same = GOOD | {"chosen": ""}, OTHER | {"id": "one"}
    rows = [GOOD | {"id": "one"}, bad, same, [3], BadRow("not_json", "row 4", "cut off")]
    with pytest.raises(BadRow, match="row 1, field 'chosen': empty"):
        read(*rows)
    pairs, counts = read(*rows, on_bad="drop")
    assert len(pairs) == 1
    assert counts.dropped == {"empty_answer": 1, "repeated_id": 1, "not_an_object": 1, "not_json": 1}
    with pytest.raises(BadRow, match="row 1, field 'id': 'one' is another pair's"):
        read(rows[0], same)
    with pytest.raises(BadRow, match=r"field 'qid': '3' is another pair's too; .*as group"):
        read(GOOD | {"qid": 3}, OTHER | {"qid": 3}, id="qid")


def test_rows_of_which_none_is_a_pair_are_an_error_that_shows_the_first():
    with pytest.raises(ValueError, match=r"none of them a pair \(missing_field 2\); the first: row 0, field"):
        read({"a": 1}, {"a": 2}, on_bad="drop")
    with pytest.raises(ValueError, match=r"^row 0: the last of 1 rows, none of them a pair \(tie 1\)$"):
        read(GOOD | {"v": 0}, votes="v")


def test_nests_that_no_pair_needs_are_a_reason_too():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    pairs, counts = read(GOOD, GOOD | {"id": deep}, GOOD | {"chosen": deep}, on_bad="drop")
    assert len(pairs) == 1 and counts.dropped.total() == 2
    while deep:  # taken apart by hand: so deep a list cannot be by itself
        deep = deep.pop()


def test_columns_that_nothing_looked_at_are_named():
    assert read(GOOD | {"score": 1}, OTHER | {"source": "x"})[1].unread == ["score", "source"]
