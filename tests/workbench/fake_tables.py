"""Tables of scores with a planted accuracy, shared error and gold."""

from __future__ import annotations

import numpy as np
import pandas as pd

MEMBERS = ("ann", "bob", "cat", "dan", "eve")
RHO, SIGNAL = (
    0.5,
    1.0,
)  # correlation of two members' errors; a margin's mean in its errors' standard deviations
ACCURACY = 0.8413  # the normal distribution at SIGNAL


def shared_noise(rng: np.random.Generator, rows: int, k: int = 5, rho: float = RHO) -> np.ndarray:
    return np.sqrt(rho) * rng.normal(size=(rows, 1)) + np.sqrt(1 - rho) * rng.normal(size=(rows, k))


def pairs_table(pairs: int = 350, seed: int = 0, scale: float = 2.0) -> pd.DataFrame:
    """Two rows a prompt, five members, labels of 1 and 0, words by which longer is preferred 6 times of 10, 70 topics."""
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], pairs)
    margins = scale * (SIGNAL * sign[:, None] + shared_noise(rng, pairs))
    level = rng.normal(size=(pairs, 5))
    scores = np.stack([level + margins / 2, level - margins / 2], 1).reshape(2 * pairs, 5)
    longer = np.where(rng.random(pairs) < 0.6, sign, -sign)
    table = pd.DataFrame(scores, columns=MEMBERS)
    table.insert(0, "prompt", [f"q{i // 2:03}" for i in range(2 * pairs)])
    table.insert(1, "answer", ["x", "y"] * pairs)
    table["votes"] = np.stack([sign > 0, sign < 0], 1).ravel().astype(int)
    table["words"] = np.stack([50 + 20 * (longer > 0), 50 + 20 * (longer < 0)], 1).ravel()
    table["topic"] = [f"t{i // 2 % 70:02}" for i in range(2 * pairs)]
    table["source"] = "somewhere"
    return table


def pool_table(prompts: int = 60, answers: int = 32, seed: int = 0) -> pd.DataFrame:
    """Answers with gold; three members with errors that correlate by RHO."""
    rng = np.random.default_rng(seed)
    rows = prompts * answers
    gold = rng.normal(size=rows)
    table = pd.DataFrame(gold[:, None] + shared_noise(rng, rows, 3), columns=MEMBERS[:3])
    table.insert(0, "prompt", np.repeat(np.arange(prompts), answers))
    table.insert(1, "answer", np.tile(np.arange(answers), prompts))
    return table.assign(gold=gold)


def wide_table(pairs: int = 350, seed: int = 0) -> pd.DataFrame:
    """The pairs of `pairs_table`, one a row: ann_chosen, ann_rejected, ..."""
    long = pairs_table(pairs, seed)
    sides = {"chosen": long[long.votes == 1], "rejected": long[long.votes == 0]}
    columns = {
        f"{name}_{side}": part[name].to_numpy()
        for side, part in sides.items()
        for name in (*MEMBERS, "words")
    }
    return pd.DataFrame({"prompt": sides["chosen"].prompt.to_numpy(), **columns})
