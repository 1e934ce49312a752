"""What goes into a compact pool: named where it does not fit, and kept as it was."""

import re

import numpy as np
import pytest

from rmlab.optimise.contents import (
    bill_total,
    check_ensembles,
    check_finite,
    checked_text,
    thin_text,
    thin_words,
)

P, N, C = 2, 3, 2
PROMPTS = ["why?", "and why\nnot?"]
ANSWERS = [["yes", "", "日本"], ["</script>", "e\u0301", "\ufeffno"]]
SCORES = np.arange(P * N * C, dtype=np.float64).reshape(P, N, C)
GOLD = np.linspace(0, 1, P * N).reshape(P, N)
BILL = [
    {"name": "very", "label": "very", "values": [0.0, 0.5], "slope": -0.1},
    {"name": "wrong", "label": "wrong", "values": [0.0], "slope": -1.0},
]
ENSEMBLES = [{"name": "both", "label": "both", "members": [0, 1]}]


def check(**change):
    fields = {"prompts": PROMPTS, "answers": ANSWERS, "scores": SCORES, "gold": GOLD, "columns": ["a", "b"]}
    return checked_text(**{**fields, **change})


def changed(values, place, value):
    values = values.copy()
    values[place] = value
    return values


def test_text_becomes_utf8_and_scores_float32():
    texts, scores, gold, columns = check(columns=None)
    assert [[x.decode() for x in row] for row in texts] == ANSWERS
    assert scores.dtype == gold.dtype == np.float32 and columns == ["member 1", "member 2"]
    np.testing.assert_array_equal(scores, SCORES)
    assert check(gold=None)[2] is None


@pytest.mark.parametrize(
    "change,message",
    [
        ({"scores": changed(SCORES, (1, 2, 0), np.nan)}, "score of 'a' for answer 2 to prompt 1 = nan"),
        ({"scores": changed(SCORES, (0, 1, 1), -np.inf)}, "score of 'b' for answer 1 to prompt 0 = -inf"),
        ({"scores": changed(SCORES, (0, 1, 1), 1e39)}, "score of 'b' for answer 1 to prompt 0 = 1e+39"),
        ({"gold": changed(GOLD, (1, 0), np.nan)}, "gold of answer 0 to prompt 1 = nan"),
        ({"gold": GOLD[0]}, "shape of gold = (3,): give (2, 3)"),
        ({"scores": SCORES[..., 0]}, "shape of member_scores = (2, 3): give (2, 3) and one or more"),
        ({"scores": SCORES[:, :2]}, "shape of member_scores = (2, 2, 2)"),
        ({"columns": ["a"]}, "names in columns = 1: give 2"),
        ({"prompts": "why"}, "prompts = 'why': give a list"),
        ({"prompts": []}, "prompts = []: give at least one"),
        ({"prompts": ["why?"]}, "lists of answers = 2: give 1"),
        ({"prompts": ["why?", b"not"]}, "prompt 1 = b'not': give text"),
        ({"prompts": ["why?", "\ud800"]}, "prompt 1, from character 0 = '\\ud800'"),
        ({"answers": [ANSWERS[0], ["a", "b"]]}, "number of answers to prompt 1 = 2: give a list of 3"),
        ({"answers": [ANSWERS[0], "abc"]}, "number of answers to prompt 1 = 3: give a list of 3"),
        ({"answers": [[], []]}, "number of answers to prompt 0 = 0: give a list of 1"),
        ({"answers": [ANSWERS[0], ["a", None, "b"]]}, "answer 1 to prompt 1 = None: give text"),
        ({"answers": [["ok", "then \udcff", ""], ANSWERS[1]]}, "answer 1 to prompt 0, from character 5"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(**change)


def test_ensembles_have_names_labels_and_known_members():
    check_ensembles(ENSEMBLES, C)
    for change, message in (
        ({"members": [0, 2]}, "members of ensemble 'both' = [0, 2]: give columns below 2"),
        ({"members": []}, "members of ensemble 'both' = []"),
        ({"name": "a~b"}, "name of an ensemble = 'a~b'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            check_ensembles([{**ENSEMBLES[0], **change}], C)
    with pytest.raises(ValueError, match="give one with label"):
        check_ensembles([{"name": "x", "members": [0]}], C)
    with pytest.raises(ValueError, match="each name once"):
        check_ensembles(ENSEMBLES * 2, C)


def test_finite_names_the_place():
    check_finite("x", [[1, 2]])
    with pytest.raises(ValueError, match=re.escape("x[0, 1] = inf: give a finite number")):
        check_finite("x", [[1, np.inf]])


def test_a_bill_goes_on_past_its_values():
    counts = [[0, 0], [1, 0], [3, 2]]
    np.testing.assert_allclose(bill_total(counts, BILL), [0, 0.5, 0.5 - 0.2 - 2.0])


def test_kept_texts_stand_beside_their_scores_and_gold():
    texts, scores, gold, _ = check()
    arrays = thin_text(texts, scores, gold, ENSEMBLES, 2, 0)
    assert arrays["weight"].shape == (P, 2) and arrays["lengths"].sum() == len(arrays["tokens"])
    stream, start = arrays["tokens"].tobytes(), 0
    for p in range(P):
        for i in range(2):
            text = stream[start : start + arrays["lengths"][p, i]]
            start += len(text)
            place = texts[p].index(text)
            np.testing.assert_array_equal(arrays["scores"][p, i], scores[p, place])
            assert arrays["gold_values"][p, i] == gold[p, place]
    assert thin_text(texts, scores, None, ENSEMBLES, 2, 0)["gold_values"] is None


def test_kept_words_stand_beside_their_counts():
    rng = np.random.default_rng(0)
    counts, tokens = rng.integers(0, 4, (P, N, 2)), rng.integers(0, 9, (P, N, 5))
    lengths = rng.integers(0, 6, (P, N))
    arrays = thin_words(counts, BILL, SCORES, ["a", "b"], ENSEMBLES, tokens, lengths, N, 0)
    np.testing.assert_array_equal(arrays["counts"], counts)
    np.testing.assert_array_equal(arrays["lengths"], lengths)
    rows = [tokens[p, i, : lengths[p, i]] for p in range(P) for i in range(N)]
    np.testing.assert_array_equal(arrays["tokens"], np.concatenate(rows))
    np.testing.assert_allclose(arrays["scores"] * arrays["scale"] + arrays["offset"], SCORES, atol=1e-3)
