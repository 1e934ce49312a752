"""The stage that scores how far a pool's answers are from a single model's training answers, in the model's own features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmlab.recipe import require, stream
from rmlab.sources.base import load_prompts


@dataclass(frozen=True)
class ScoreDistances:
    """The random parts of distances, of the streams named by (seed, purpose, draw)."""

    seed: int
    draw: int


def score_distances(
    out: Path, settings: ScoreDistances, member: Path, pairs: Path, pool: list[Path], prompts: list[Path]
) -> None:
    """Write `distances.npz`, arrays (P, N) float32 by name: mahalanobis, laplace, caution and sngp.

    member : a single model; pairs : those that it was trained on. The pool is read once. laplace is the closed-form standard
    deviation of `rmlab.reward.laplace`, against the mean training answer; the others are `rmlab.measure.distances`.
    """
    from rmlab.backbone import device_of
    from rmlab.fast.prefix import open_prompts
    from rmlab.measure.distances import fit_caution, fit_gaussian_process, fit_mahalanobis
    from rmlab.optimise.pool import Pool
    from rmlab.reward.heads import pair_features
    from rmlab.reward.laplace import fit_posterior
    from rmlab.reward.model import RewardModel
    from rmlab.reward.training import PairIds

    s = settings
    reward = RewardModel.load(member / "model").to(device_of())
    linear = reward.members == 1 and reward.mlp is None
    require(linear, "member", f"{reward.members} members", "a single model with a linear head")
    features = pair_features(reward, PairIds.load(pairs)).cpu().numpy().astype(np.float64)  # (M, 2, D)
    typical = features.reshape(-1, features.shape[-1])
    head = reward.linear.weight[0].detach().cpu()
    posterior, reference = fit_posterior(features[:, 0] - features[:, 1], head), typical.mean(0)
    scorers = {
        "mahalanobis": fit_mahalanobis(typical),
        "laplace": lambda f: posterior.std(f, reference).numpy(),
        "caution": fit_caution(typical, stream(s.seed, "caution", s.draw)),
        "sngp": fit_gaussian_process(features, stream(s.seed, "sngp", s.draw)),
    }
    answers, listed = Pool.load([p / "pool.npz" for p in pool]), [x for p in prompts for x in load_prompts(p)]
    scores: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    for prompt, ids, lengths in zip(listed, answers.ids, answers.lengths, strict=True):
        states = reward.score_in_chunks(
            lambda read, longest: open_prompts(reward.reader, read, longest),
            features.shape[-1],
            np.array(prompt.ids),
            ids,
            lengths,
        )
        for name, scorer in scorers.items():
            scores[name].append(scorer(states).astype(np.float32))
    np.savez(out / "distances.npz", **{name: np.stack(rows) for name, rows in scores.items()})
