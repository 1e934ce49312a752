"""The report says what was planted: lengths, repeats, votes, what a short cut gets."""

from __future__ import annotations

import pytest

from rmlab.preferences import Preferences


def rows(count=200):
    """The longer answer is chosen in nine of ten; the votes are 4 to 1, or 2 to 1 and a tie."""
    out = []
    for i in range(count):
        sides = ["word " * (3 + i % 7), "word " * (1 + i % 2)]
        chosen, rejected = sides[:: 1 if i % 10 else -1]
        votes = [1, 1, 1, 1, 2] if i % 2 else [1, 2, 1, 0]
        row = {"prompt": f"Question {i // 2} ?", "chosen": chosen, "rejected": rejected}
        out.append(row | {"id": f"{i}", "v": votes, "x": 0})
    return out


def test_what_was_planted_is_reported():
    bad = [{"prompt": "q", "chosen": "", "rejected": "b", "v": 1}] * 3
    again = [rows()[1] | {"id": "again"}, rows()[3] | {"id": "other", "v": [2, 2, 2]}]
    prefs = Preferences.read([*rows(), *bad, *again], votes="v", repeats="keep", on_bad="drop")
    report = prefs.report()
    assert (report.rows, report.kept, report.pairs) == (205, 202, 202)
    assert report.dropped == {"empty_answer": 3} and report.unread == ["x"]
    assert (report.prompts, report.groups) == (100, 100)
    assert (report.duplicates, report.conflicts) == (1, 1)
    assert report.unit == "words" and report.lengths["prompt"] == (3, 3)
    assert report.lengths["chosen"][1] == 9
    assert report.votes["pairs"] == 202 and report.votes["unanimous"] == pytest.approx(1 / 202)
    assert report.votes["ties"] == pytest.approx(100 / (5 * 101 + 4 * 100 + 3))
    accuracy, low, high = report.baselines["the longer answer wins"]
    assert low < 0.9 < high and 0.75 < accuracy < 1 and high - low < 0.4
    text = str(report)
    for line in (
        "pairs      202 of 100 prompts in 100 groups",
        "rows       205 read, 202 kept, 3 dropped: empty_answer 3",
        "not read   x",
        "words      median (95%): prompt 3 (3), chosen",
        "repeats    1 pairs again, 1 with the other side chosen",
        f"{accuracy:.3f} [{low:.3f}, {high:.3f}] the longer answer wins",
        "bag of words",
    ):
        assert line in text, line


def test_the_direction_is_learnt_and_a_test_set_may_be_passed():
    turned = [r | {"chosen": r["rejected"], "rejected": r["chosen"]} for r in rows()]
    train, test = Preferences.read(turned).split(0.4)
    report = train.report(test)
    assert report.tested == (len(test), len(set(test.groups))) and report.pairs == len(train)
    assert report.baselines["the shorter answer wins"][0] > 0.8


def test_what_cannot_be_tried_is_said():
    one = Preferences.read([r | {"prompt": "the same"} for r in rows(20)])
    report = one.report()
    assert not report.baselines and "not measured: separate groups of prompts = 1" in str(report)
    assert "accuracy" not in str(one.report(baselines=False))
    assert not one.report(baselines=False).votes
    with pytest.raises(ValueError, match="max_length = 9: give a text_format"):
        one.report(max_length=9)
