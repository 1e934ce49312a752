"""Last-layer Laplace: a Gaussian over a reward head, from the curvature of its own loss.

The trunk is fixed and the reward is linear, r = w . phi, so a pair with feature difference
z = phi(chosen) - phi(rejected) has margin z . w. The posterior around w is N(w, H^-1) with

    H = sum_i s_i z_i z_i^T + tau I        s_i = sigma'(z_i . w)

under the Bradley-Terry likelihood and the prior N(0, I / tau). Draws of w are members of an ensemble that
costs one training.

Source: Daxberger et al. 2021 (Laplace Redux, 2106.14806), Section 3; the last layer alone: Kristiadi et al.
2020 (2002.10118); on reward models: Yang et al. 2024 (2402.13210). Letters: M pairs, D hidden, K members. All
in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from rmlab.fast.prefix import open_prompts
from rmlab.recipe import require, stream
from rmlab.reward.classifier import head_name, load_classifier, with_heads
from rmlab.reward.ensemble import CHUNK_TOKENS, Read
from rmlab.reward.folder import CARD, read_card, read_tensors
from rmlab.reward.heads import pair_features
from rmlab.reward.methods import HOME, MemberSpec, TrainingInputs
from rmlab.reward.model import RewardModel
from rmlab.reward.single import train_member
from rmlab.reward.training import PairIds

POSTERIOR_FILE = "laplace.safetensors"
REACH = 1e6  # tau is searched from 1/REACH to REACH times the mean curvature of the likelihood


def train(inputs: TrainingInputs, k: int = 5, tau: float | None = None) -> RewardModel:
    """Train one model and draw K heads from the posterior around its head; tau as in `fit_posterior`."""
    return around(train_member(inputs), inputs.pairs, k, inputs.seed_of(), tau)


def singles() -> list[MemberSpec]:
    """The model that the posterior sits on."""
    return [HOME]


def relative_cost(adapter_fraction: Callable[[int, int], float]) -> tuple[float, float, float]:
    """One training and a reading of its pairs, one pass to score, one model to hold."""
    return 4 / 3, 1, 1


def load(folder: str | Path) -> LaplaceModel:
    """Read the folder of a Laplace model."""
    return LaplaceModel.load(folder)


def around(reward: RewardModel, pairs: PairIds, k: int, seed: int, tau: float | None = None) -> RewardModel:
    """K posterior samples around a trained model's head, as K heads on its encoder.

    The posterior's mean is the trained head, its curvature that of the pairs it was trained on. With k = 1
    the one member is the mean: the model as it is.
    """
    linear = reward.members == 1 and reward.mlp is None
    require(linear, "members of the model", reward.members, "one linear head")
    require(k >= 1, "k", k, "at least 1")
    if k == 1:
        return reward
    features = pair_features(reward, pairs).double()
    head, bias = reward.linear.weight[0].detach(), reward.linear.bias
    posterior = fit_posterior(features[:, 0] - features[:, 1], head, tau)
    draws, bias = posterior.sample(k, seed).float(), None if bias is None else bias.expand(k)
    model = with_heads(reward.model, draws, bias)
    return LaplaceModel(model, posterior, features.mean((0, 1)))


class LaplaceModel(RewardModel):
    """K heads drawn from a posterior, and the closed-form standard deviation as a second output.

    Its folder is a plain Hugging Face folder of K heads; `laplace.safetensors` holds the posterior.

    Parameters
    ----------
    model : a sequence classification model, the draws as its heads
    posterior : what they were drawn from
    reference : (D,) the mean answer's features, which standard deviations are against
    """

    format = "laplace"

    def __init__(self, model: nn.Module, posterior: Posterior, reference: torch.Tensor):
        super().__init__(model)
        self.tau = posterior.tau
        for name, tensor in (
            ("mean", posterior.mean),
            ("precision", posterior.precision),
            ("reference", reference),
        ):
            self.register_buffer(name, tensor.to(self.centre.device))

    @property
    def posterior(self) -> Posterior:
        """What the heads were drawn from."""
        return Posterior(self.mean, self.precision, self.tau)

    def score_std(
        self,
        prompt: np.ndarray,
        ids: np.ndarray,
        lengths: np.ndarray,
        chunk_tokens: int = CHUNK_TOKENS,
        memory: int | None = None,
    ) -> np.ndarray:
        """Standard deviations of answers against the reference, (R,) float32, raw units; see `score`."""
        limits = {"chunk_tokens": chunk_tokens, "memory": memory}
        return self.score_in_chunks(self._std_scorer, 1, prompt, ids, lengths, **limits)[:, 0]

    def _std_scorer(self, prompts: torch.Tensor, max_new_tokens: int) -> Read:
        """The closed-form standard deviation, (R, 1), as a prompt scorer gives scores."""
        hidden, posterior = open_prompts(self.reader, prompts, max_new_tokens), self.posterior
        return lambda ids, lengths: posterior.std(hidden(ids, lengths), self.reference)[:, None].float()

    def _subset(self, members: list[int]) -> LaplaceModel:
        return LaplaceModel(self._few(members), self.posterior, self.reference)

    def _write_weights(self, folder: Path) -> dict:
        names = ("mean", "precision", "reference")
        tensors = {name: self.get_buffer(name).cpu().contiguous() for name in names}
        save_file(tensors, folder / POSTERIOR_FILE)
        return {**super()._write_weights(folder), "tau": self.tau}

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> LaplaceModel:
        """Read a folder that `save` wrote, posterior included; a `ValueError` names what is missing."""
        path, model = Path(folder) / POSTERIOR_FILE, load_classifier(folder, dtype)
        tensors, wide = read_tensors(path), model.get_submodule(head_name(model)).in_features
        shapes = {name: tuple(t.shape) for name, t in tensors.items()}
        expected = {"mean": (wide,), "precision": (wide, wide), "reference": (wide,)}
        require(shapes == expected, str(path), shapes, f"a posterior of the encoder's width, {expected}")
        tau = (read_card(folder) or {}).get("tau")
        good = isinstance(tau, float | int) and 0 < tau < math.inf
        require(good, f"tau of {Path(folder) / CARD}", tau, "a positive number")
        reward = cls(model, Posterior(tensors["mean"], tensors["precision"], tau), tensors["reference"])
        reward.restore_alignment(folder)
        return reward


@dataclass(frozen=True)
class Posterior:
    """N(mean, precision^-1) over a head's weights, float64."""

    mean: torch.Tensor  # (D,)
    precision: torch.Tensor  # (D, D), H
    tau: float  # the prior's precision

    def sample(self, k: int, seed: int) -> torch.Tensor:
        """K heads drawn from the posterior, (K, D); draw i does not depend on K."""
        require(k >= 1, "k", k, "at least one draw")
        noise = torch.from_numpy(stream(seed, "laplace").standard_normal((k, len(self.mean))))
        noise = noise.to(self.mean.device)
        return self.mean + torch.linalg.solve_triangular(self._factor().T, noise.T, upper=True).T

    def std(self, features: np.ndarray | torch.Tensor, reference: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Standard deviation of answers' rewards against a reference answer's, features (..., D) -> (...).

        sqrt((f - ref)^T H^-1 (f - ref)). Bradley-Terry knows rewards only up to a constant, so a variance
        means something for a difference alone: a vector added to all features and to the reference changes
        nothing. (RewardUQ, 2602.24040, takes the answer's features alone, the direction no pair informs
        included.)
        """
        features, reference = _real(features, "features"), _real(reference, "reference")
        wide = len(self.mean)
        mend = f"an array (..., {wide})"
        require(features.shape[-1:] == (wide,), "features", tuple(features.shape), mend)
        require(reference.shape == (wide,), "reference", tuple(reference.shape), f"an array ({wide},)")
        apart = (features - reference).reshape(-1, wide)
        whitened = torch.linalg.solve_triangular(self._factor(), apart.T, upper=False)
        return whitened.norm(dim=0).reshape(features.shape[:-1])

    def _factor(self) -> torch.Tensor:
        """L, lower, with L L^T = H."""
        return torch.linalg.cholesky(self.precision)


def fit_posterior(
    differences: np.ndarray | torch.Tensor, mean: np.ndarray | torch.Tensor, tau: float | None = None
) -> Posterior:
    """The posterior of a linear reward head, given pairs; chosen wins with probability sigma(z . w).

    Parameters
    ----------
    differences : (M, D) chosen minus rejected features, at the head's input
    mean : (D,) the trained head, on which the posterior sits
    tau : precision of the prior; None takes the one with the largest `evidence`

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, no pairs, a tau that is not positive, or tau =
        None on a head of zeros.
    """
    z, w = _real(differences, "differences"), _real(mean, "mean")
    paired = z.ndim == 2 and z.shape[0] > 0
    require(paired, "differences", tuple(z.shape), "an array (M, D) with M at least 1")
    mend = f"an array ({z.shape[1]},), as wide as differences"
    require(w.shape == z.shape[1:], "mean", tuple(w.shape), mend)
    require(tau is None or 0 < tau < math.inf, "tau", tau, "None or a positive number")
    tau = float(_best_tau(z, w) if tau is None else tau)
    return Posterior(w, curvature(z, w) + tau * torch.eye(len(w), dtype=w.dtype, device=w.device), tau)


def curvature(z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Minus the Hessian of the log-likelihood, (D, D): feature differences z (M, D), at a head w (D,)."""
    margin = z @ w
    return (z * (torch.sigmoid(margin) * torch.sigmoid(-margin))[:, None]).T @ z


def evidence(log_likelihood: float, w: torch.Tensor, tau: float, logdet: float) -> float:
    """Log marginal likelihood of the pairs, nats: Laplace's method at a head w (D,) (2106.14806, Section 3).

        log p(pairs given w) - tau/2 w.w + D/2 log tau - 1/2 log det H

    The prior's -D/2 log 2 pi and the Laplace integral's +D/2 log 2 pi cancel.
    """
    return log_likelihood - tau / 2 * w.dot(w).item() + len(w) / 2 * math.log(tau) - logdet / 2


def _best_tau(z: torch.Tensor, w: torch.Tensor) -> float:
    """The tau of largest evidence: a grid over log tau, then a search between the best one's neighbours.

    The curvature does not depend on tau: its eigenvalues are taken once.
    """
    from scipy.optimize import minimize_scalar

    require(bool(w.any()), "tau", None, "a positive number: a head of zeros has no best tau")
    size = curvature(z, torch.zeros_like(w)).diagonal().mean().item()
    require(size > 0, "differences", 0.0, "pairs whose features differ")
    spectrum = torch.linalg.eigvalsh(curvature(z, w)).clamp_min(0)
    log_likelihood = F.logsigmoid(z @ w).sum().item()

    def negative_evidence(log_tau: float) -> float:
        tau = math.exp(log_tau)
        return -evidence(log_likelihood, w, tau, (spectrum + tau).log().sum().item())

    step = math.log(REACH) / 8
    grid = [math.log(size) + step * i for i in range(-8, 9)]
    best = min(grid, key=negative_evidence)
    bounds = max(best - step, grid[0]), min(best + step, grid[-1])
    options = {"xatol": 1e-6}
    return math.exp(minimize_scalar(negative_evidence, bounds=bounds, method="bounded", options=options).x)


def _real(values: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """An array or tensor as float64, every value finite."""
    values = torch.as_tensor(values).detach().to(torch.float64)
    bad = int((~torch.isfinite(values)).sum())
    require(bad == 0, name, f"{bad} values that are not finite", "finite numbers")
    return values
