"""What others say of a PPO run's answers: models that it was not optimised against, and distances from the training answers.

Nothing here knows gold or trains anything: it is what a person who watches a run could compute beside it.

Letters: L evaluations, B answers an evaluation, J judges, R training answers, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmlab.recipe import require
from rmlab.sources.base import load_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rmlab.reward.ensemble import RewardEnsemble

ROWS = 128  # answers read at a time
RIDGE = 1e-3  # of the features' mean variance, on the diagonal: directions that hardly vary do not decide


@dataclass(frozen=True)
class ScoreRun:
    """How many answers a prompt has at an evaluation, and the judges' ids in the order of their folders."""

    answers: int
    judges: tuple[str, ...]


def score_run(
    out: Path,
    settings: ScoreRun,
    run: Path,
    reward_model: Path,
    judges: list[Path],
    pairs: Path,
    prompts: Path,
) -> None:
    """Write `views.npz` of a run's recorded answers.

    `judges` (L, B, J) float32, aligned scores of single models that the run was not optimised against, J of 0 to 2;
    `distance` (L, B) float32, Mahalanobis distances of features of the first reward model's first member from those of
    its training answers; `training_distance` (R,) float32, the training answers' own.
    """
    from rmlab.backbone import device_of
    from rmlab.optimise.reward import member_scores
    from rmlab.reward.ensemble import load
    from rmlab.reward.training import PairIds

    device = device_of()
    with np.load(run / "evaluations.npz") as record:
        ids, lengths = record["ids"], record["lengths"]
    rows = [list(p.ids) for p in load_prompts(prompts) for _ in range(settings.answers)]
    require(
        len(rows) == ids.shape[1], "answers", settings.answers, f"as many as the run's {ids.shape[1]} need"
    )
    steps = [
        [row[:n].tolist() for row, n in zip(*step, strict=True)] for step in zip(ids, lengths, strict=True)
    ]
    views = [np.empty((*lengths.shape, 0), np.float32)]
    for folder in judges:
        judge = load(folder / "model").to(device)
        views.append(np.stack([member_scores(judge, rows, answers) for answers in steps]))
    model, data = load(reward_model / "model").to(device), PairIds.load(pairs)
    training = features(model, [*data.prompts, *data.prompts], [*data.chosen, *data.rejected])
    distance = [mahalanobis(features(model, rows, answers), training) for answers in steps]
    np.savez_compressed(
        out / "views.npz",
        judges=np.concatenate(views, -1),
        distance=np.array(distance, np.float32),
        training_distance=mahalanobis(training, training).astype(np.float32),
    )


def features(
    ensemble: RewardEnsemble, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> np.ndarray:
    """What the head of an ensemble's first member reads at the last token, B rows of ids each -> (B, D) float64.

    Raises a `ValueError` for an ensemble that is neither heads on one transformer nor edits of one.
    """
    import torch

    from rmlab.fast.plain import trunk_of
    from rmlab.fast.rows import read_ends
    from rmlab.reward.model import RewardModel
    from rmlab.reward.variants import Variants
    from rmlab.tokens import pad_right

    known, kind = isinstance(ensemble, RewardModel | Variants), type(ensemble).__name__
    require(known, "reward model", kind, "heads on one transformer, or edits of one")
    heads = isinstance(ensemble, RewardModel)
    trunk, edits = (trunk_of(ensemble.reader), None) if heads else (ensemble.trunk, ensemble.edits(0))
    device, parts = ensemble.centre.device, []
    with torch.no_grad():
        for start in range(0, len(prompts), ROWS):
            few = zip(prompts[start : start + ROWS], answers[start : start + ROWS], strict=True)
            ids, mask = (torch.from_numpy(x).to(device) for x in pad_right([[*p, *a] for p, a in few]))
            parts.append(read_ends(trunk, ids, mask, edits).double().cpu().numpy())
    return np.concatenate(parts)


def mahalanobis(rows: np.ndarray, reference: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Mahalanobis distances of rows (B, D) from the mean of a reference (R, D), in its standard deviations: (B,) float64.

    Lee et al. 1807.03888, Equation 2, of one class; InfoRM watches its tail (Miao et al. 2510.13694). The covariance has
    `ridge` times the mean variance added on its diagonal. ValueError: a reference of fewer than two rows, or that does not
    vary.
    """
    reference, rows = np.asarray(reference, np.float64), np.asarray(rows, np.float64)
    ok = reference.ndim == rows.ndim == 2 and reference.shape[1] == rows.shape[1] and len(reference) > 1
    require(ok, "rows and reference", (rows.shape, reference.shape), "(B, D) and (R, D), R of 2 and more")
    centre, variance = reference.mean(0), reference.var(0).mean()
    require(bool(variance > 0), "variance of the reference", float(variance), "rows that differ")
    covariance = np.atleast_2d(np.cov(reference.T, ddof=0)) + ridge * variance * np.eye(reference.shape[1])
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (rows - centre).T)
    return np.linalg.norm(whitened, axis=0)
