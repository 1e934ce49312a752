"""How far length alone and a bag of words get: what a reward model must beat to have learnt anything else.

Letters: M pairs, chosen before rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rmlab.recipe import require

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

C = 1.0  # the inverse of the bag of words' L2 penalty
Texts = Sequence[tuple[str, str]]  # the chosen and the rejected answer of each pair


def word_counts(texts: Texts) -> np.ndarray:
    """Words of the answers, (M, 2)."""
    return np.array([[len(text.split()) for text in pair] for pair in texts], np.int64).reshape(-1, 2)


def prefers_longer(lengths: np.ndarray) -> bool:
    """Whether the longer answer was chosen at least as often as the shorter: lengths (M, 2)."""
    lengths = np.asarray(lengths)
    return bool(np.sign(lengths[:, 0] - lengths[:, 1]).sum() >= 0)


def length_only(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Whether length alone names the chosen answer, the longer or the shorter as the training pairs say.

    Parameters
    ----------
    train, test : lengths of the answers, (M, 2), in any unit

    Returns
    -------
    correct (M,) of `test`: 1, 0, or 1/2 where both are as long
    """
    test = np.asarray(test)
    side = np.sign(test[:, 0] - test[:, 1])
    return 0.5 + 0.5 * (side if prefers_longer(train) else -side)


def bag_of_words(train: Texts, test: Texts) -> np.ndarray:
    """Probability that the chosen answer wins, (M,) of `test`, by logistic regression on which words it has more of.

    The Bradley-Terry model whose reward is linear in the answer's words and pairs of words, each counted as
    log(1 + n), with an L2 penalty of 1/`C`.

    Raises
    ------
    ValueError
        scikit-learn is missing, or there is no training pair.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        mend = "pip install scikit-learn, or report(baselines=False)"
        raise ValueError(f"the bag of words needs scikit-learn; {mend}") from None
    require(len(train) > 0, "training pairs", len(train), "at least one")
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", dtype=np.float64)
    answers = [answer for pair in train for answer in pair]
    if len(train) == 1 or not any(answer.strip() for answer in answers):
        return np.full(len(test), 0.5)
    counter.fit(answers)

    def differences(texts: Texts) -> csr_matrix:  # (M, V)
        chosen, rejected = ([pair[side] for pair in texts] for side in (0, 1))
        return (counter.transform(chosen).log1p() - counter.transform(rejected).log1p()).tocsr()

    # without an intercept a pair and its mirror image say the same: turning half of them gives two classes
    turned = np.where(np.arange(len(train)) % 2, -1.0, 1.0)
    model = LogisticRegression(C=C, fit_intercept=False, max_iter=1000)
    model.fit(differences(train).multiply(turned[:, None]).tocsr(), turned > 0)
    return model.predict_proba(differences(test))[:, 1]
