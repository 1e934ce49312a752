"""A table of scores, in its three shapes; every bad one refused in one sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import rmlab
from rmlab.workbench.scores import Scores
from tests.workbench.fake_tables import MEMBERS, pairs_table, pool_table, wide_table

PAIRS = {"label": "votes", "length": "words", "group": "topic"}


def test_pairs_are_read():
    scores = rmlab.Scores.read(pairs_table(), **PAIRS)
    assert scores.members == MEMBERS and scores.k == 5 and scores.rows == 700 and scores.judged_by == "label"
    assert scores.unused == ("source",) and scores.cluster_noun == "groups" and scores.length_unit == "words"
    pairs = scores.pairs()
    assert len(pairs.labels) == 350 and len(set(pairs.clusters)) == 70
    table = pairs_table()
    np.testing.assert_array_equal(pairs.labels, table.votes[::2])
    np.testing.assert_array_equal(scores.values[pairs.second], table[list(MEMBERS)].to_numpy()[1::2])


def test_the_order_of_rows_says_nothing_but_for_who_comes_first():
    table = pairs_table(40)
    mixed = table.sample(frac=1, random_state=1)
    one, other = (Scores.read(t, **PAIRS).pairs() for t in (table, mixed))
    assert sorted(one.labels * 0 + 1) == sorted(other.labels * 0 + 1)
    scores = Scores.read(mixed, **PAIRS)
    signs = np.sign(other.labels - 0.5)[:, None] * (scores.values[other.first] - scores.values[other.second])
    straight = Scores.read(table, **PAIRS)
    same = np.sign(one.labels - 0.5)[:, None] * (straight.values[one.first] - straight.values[one.second])
    np.testing.assert_allclose(np.sort(signs, 0), np.sort(same, 0))


def test_pairs_in_a_row_are_the_same_pairs():
    wide, long = Scores.read(wide_table(), length="words"), Scores.read(pairs_table(), **PAIRS)
    assert wide.members == MEMBERS and wide.rows == 350 and len(wide.values) == 700
    pairs, rows = wide.pairs(), long.pairs()
    turn = np.sign(rows.labels - 0.5)[:, None]
    np.testing.assert_allclose(
        wide.values[pairs.first] - wide.values[pairs.second],
        turn * (long.values[rows.first] - long.values[rows.second]),
    )
    assert (pairs.labels == 1).all() and wide.cluster_noun == "prompts"
    assert Scores.read(wide_table().drop(columns="prompt")).cluster_noun == "pairs"


def test_pairs_of_one_prompt_are_one_cluster():
    table = wide_table(30).assign(prompt=np.repeat(np.arange(10), 3))
    assert len(set(Scores.read(table).pairs().clusters)) == 10


def test_pools_are_padded_and_aligned():
    table = pool_table(5, 6).drop(index=[4, 5, 10])  # 4, 5, 6, 6, 6 answers
    scores = Scores.read(table, gold="gold")
    pool = scores.pool()
    assert pool.scores.shape == (5, 6, 3) and pool.there.sum(1).tolist() == [4, 5, 6, 6, 6]
    flat = pool.scores[pool.there]
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(flat.std(0), 1)
    np.testing.assert_array_equal(pool.gold[pool.there], table.gold)
    assert pool.clusters.tolist() == [0, 1, 2, 3, 4]


def test_pairs_of_a_pool_use_each_answer_once_and_gold_decides():
    scores = Scores.read(pool_table(20, 7), gold="gold")
    pairs = scores.pairs()
    both = np.r_[pairs.first, pairs.second]
    assert len(both) == len(set(both)) == 20 * 6
    np.testing.assert_array_equal(scores.prompts[pairs.first], scores.prompts[pairs.second])
    np.testing.assert_array_equal(
        pairs.labels, (scores.gold[pairs.first] > scores.gold[pairs.second]).astype(float)
    )
    np.testing.assert_array_equal(pairs.first, scores.pairs().first)


def test_members_answers_and_text_can_be_named():
    table = pairs_table(10).drop(columns="answer").assign(text=["two words", "three words here"] * 10)
    scores = Scores.read(table, answer=None, members=["bob", "ann"], label="votes", text="text")
    assert Scores.read(table, answer=None, members="bob", label="votes").members == ("bob",)
    assert scores.members == ("bob", "ann") and scores.length[:2].tolist() == [2, 3]
    assert scores.unused == ("cat", "dan", "eve", "words", "topic", "source")


def test_answers_are_numbered_where_no_column_names_them():
    table = pairs_table(10)
    plain = table.drop(columns="answer")
    one, other = (Scores.read(t, label="votes", members=["ann", "bob"]) for t in (table, plain))
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.pairs().labels, other.pairs().labels)
    with pytest.raises(ValueError, match=r"\['reply'\]"):  # a column that was named is there or is an error
        Scores.read(plain, label="votes", answer="reply")


def broken(change, pairs=6):
    table = pairs_table(pairs).astype({"votes": object, "ann": object})
    return change(table) if callable(change) else table.assign(**change)


def set_cell(row, column, value):
    def change(table):
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (set_cell(3, "ann", np.nan), {}, "row 4, column 'ann': nan is no score"),
        (set_cell(3, "ann", "high"), {}, "row 4, column 'ann': 'high' is no score"),
        (set_cell(3, "ann", np.inf), {"members": ["ann"]}, "row 4, column 'ann': inf is no score"),
        (lambda t: t.drop(index=3), {}, "row 3, prompt 'q001': one answer has nothing to be compared with"),
        (
            set_cell(3, "answer", "x"),
            {},
            "row 4, columns 'prompt' and 'answer': 'q001' and 'x' are an earlier row's",
        ),
        (set_cell(3, "prompt", None), {}, "row 4, column 'prompt': no id"),
        (
            lambda t: t[["prompt", "answer", "votes"]],
            {},
            "members of table = .*at least one column of scores",
        ),
        ({}, {"members": ["zoe"]}, r"\['zoe'\]: give columns that are there: prompt, answer, ann"),
        ({}, {"gold": "truth"}, r"\['truth'\]: give columns that are there"),
        ({}, {"answer": "reply"}, r"\['reply'\]"),
        ({}, {"members": ["ann", "ann"]}, "each member once"),
        ({}, {"members": ["votes"]}, "named for nothing else"),
        (set_cell(3, "votes", 2), {}, r"row 4, prompt 'q001': label 2 is outside \[0, 1\]"),
        (set_cell(3, "votes", np.nan), {}, "row 4, column 'votes': nan"),
        ({"votes": 1}, {}, "row 1, prompt 'q000': labels 1 and 1; .*0.5 and 0.5 is a tie"),
        ({"votes": 0}, {}, "labels 0 and 0"),
        ({"votes": 0.5}, {}, "label of table = 'ties throughout'"),
        (
            lambda t: t.assign(prompt=np.repeat(["p", "q"], 6), answer=range(12)),
            {},
            "6 answers, and a label is for two",
        ),
        (
            set_cell(3, "topic", "elsewhere"),
            {"group": "topic"},
            "row 4, prompt 'q001': its answers are in two groups",
        ),
        ({"ann": 1.5}, {}, r"members of table = \['ann'\]: give members that differ"),
        (lambda t: t.assign(ann=t.bob + 1e9), {}, r"members of table = \['ann'\]: give members that differ"),
        (lambda t: t.assign(ann=t.bob * 1e200), {}, r"members of table = \['ann'\]: give scores between"),
        (lambda t: t.rename(columns={"ann": "mean"}), {}, r"members of table = \['mean'\]"),
        (lambda t: t.iloc[:0], {}, "rows of table = 0"),
        (lambda t: pd.concat([t, t[["ann"]]], axis=1), {}, r"columns of table = \['ann'\]"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(change, options, message):
    with pytest.raises(ValueError, match=message) as error:
        Scores.read(broken(change), **{"label": "votes"} | options).report()
    assert "\n" not in str(error.value)


def test_a_bad_pair_in_a_row_says_which_side():
    table = wide_table(4).astype({"bob_rejected": object})
    table.loc[2, "bob_rejected"] = None
    with pytest.raises(ValueError, match="row 3, rejected, column 'bob'"):
        Scores.read(table)
    with pytest.raises(ValueError, match=r"row 2, .*'2, chosen'|label 3 is outside"):
        Scores.read(wide_table(4).assign(share=[1, 3, 1, 1]), label="share")
