"""Length and a bag of words find what is planted for them, and nothing where there is nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rmlab.measure.baselines import bag_of_words, length_only, prefers_longer, word_counts


def test_words_are_counted():
    assert word_counts([("a b  c\nd", ""), ("e", "f g")]).tolist() == [[4, 0], [1, 2]]
    assert word_counts([]).shape == (0, 2)


@pytest.mark.parametrize("longer", [True, False])
def test_length_alone_takes_its_direction_from_the_training_pairs(longer):
    train = np.array([[9, 1], [5, 2], [1, 3], [4, 4]])
    test = np.array([[2, 1], [1, 2], [3, 3]])
    if not longer:
        train = train[:, ::-1]
    assert prefers_longer(train) is longer
    assert length_only(train, test).tolist() == ([1, 0, 0.5] if longer else [0, 1, 0.5])


def planted(count, seed, word="please"):
    """Answers of the same length, one of which holds the word: what is chosen by it alone."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(40)])
    sides = [[" ".join(rng.choice(words, 9)) for _ in range(count)] for _ in range(2)]
    return [(f"{a} {word}", f"{b} other") for a, b in zip(*sides, strict=True)]


def test_a_bag_of_words_finds_a_word_and_length_does_not():
    train, test = planted(300, 0), planted(200, 1)
    chance = bag_of_words(train, test)
    assert chance.shape == (200,) and (chance > 0.5).mean() > 0.99
    assert length_only(word_counts(train), word_counts(test)).mean() == 0.5


def test_the_sides_are_treated_alike():
    train, test = planted(99, 0), planted(20, 1)
    np.testing.assert_allclose(bag_of_words(train, [(b, a) for a, b in test]), 1 - bag_of_words(train, test))
    np.testing.assert_allclose(bag_of_words(train, [(a, a) for a, _ in test]), 0.5)


def test_without_a_signal_a_bag_of_words_is_at_chance():
    rng = np.random.default_rng(0)

    def coins(count):
        return [(a, b) if rng.random() < 0.5 else (b, a) for a, b in planted(count, int(rng.integers(99)))]

    correct = bag_of_words(coins(600), coins(600)) > 0.5
    assert abs(correct.mean() - 0.5) < 4 * np.sqrt(0.25 / 600)


def test_words_never_seen_and_texts_without_words_decide_nothing():
    np.testing.assert_allclose(bag_of_words(planted(50, 0), [("neu", "alt"), ("", " ")]), 0.5)
    np.testing.assert_allclose(bag_of_words([(" ", ""), ("", " ")], [("a", "b")]), 0.5)
    np.testing.assert_allclose(bag_of_words([("a", "b")], [("a", "b")]), 0.5)


def test_a_missing_package_and_missing_pairs_are_named(monkeypatch):
    with pytest.raises(ValueError, match="training pairs = 0"):
        bag_of_words([], [("a", "b")])
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ValueError, match=r"needs scikit-learn; pip install scikit-learn"):
        bag_of_words([("a", "b")], [("a", "b")])
