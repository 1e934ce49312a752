"""Last-layer Laplace: a Gaussian over a reward head, from the curvature of its own loss.

The trunk is fixed and the reward is linear, r = w . phi, so a pair with feature difference
z = phi(chosen) - phi(rejected) has margin z . w. The posterior around w is N(w, H^-1) with

    H = sum_i s_i z_i z_i^T + tau I        s_i = sigma'(z_i . w)   Bradley-Terry
                                           s_i = 1 / noise^2       Gaussian, where it is exact

under the prior N(0, I / tau). Draws of w are the members of an ensemble that cost one training.

Source: Daxberger et al. 2021 (Laplace Redux, 2106.14806), Section 3; the last layer alone: Kristiadi et al. 2020
(2002.10118); on reward models: Yang et al. 2024 (2402.13210). Letters: M pairs, D hidden, K members. All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from rmlab.fast.prefix import open_prompts
from rmlab.recipe import require, stream
from rmlab.reward.heads import pair_features
from rmlab.reward.model import RewardModel, Scorer, with_heads
from rmlab.reward.training import PairIds

LIKELIHOODS = ("bradley_terry", "gaussian")
REACH = 1e6  # tau is searched from 1/REACH to REACH times the mean curvature of the likelihood


def around(reward: RewardModel, pairs: PairIds, k: int, seed: int, tau: float | None = None) -> RewardModel:
    """K posterior samples around a trained model's head, as K heads on its encoder.

    The posterior's mean is the trained head, its curvature that of the pairs it was trained on. With k = 1
    the one member is the mean: the model as it is.
    """
    require(
        reward.members == 1 and reward.mlp is None, "members of the model", reward.members, "one linear head"
    )
    require(k >= 1, "k", k, "at least 1")
    if k == 1:
        return reward
    features = pair_features(reward, pairs).double()
    head = reward.model.score.weight[0].detach()
    posterior = fit(features[:, 0] - features[:, 1], head, tau)
    return LaplaceModel(reward, posterior, features.mean((0, 1)), k, seed)


class LaplaceModel(RewardModel):
    """K heads drawn from a posterior, and the closed-form standard deviation as a second output.

    Saved, it is a plain Hugging Face folder of K heads; `laplace.safetensors` holds the posterior.
    """

    def __init__(self, reward: RewardModel, posterior: Posterior, reference: torch.Tensor, k: int, seed: int):
        model = with_heads(reward.model, posterior.sample(k, seed).float())
        super().__init__(model)
        self.posterior, self.reference = posterior, reference

    def score_std(self, prompt, ids, lengths, **limits):
        """The posterior standard deviation of answers' rewards against the mean training answer, (R,) float32, raw units."""
        return _Std(self).score(prompt, ids, lengths, **limits)[:, 0]

    def save(self, folder) -> None:
        from safetensors.torch import save_file

        super().save(folder)
        own = {
            "mean": self.posterior.mean,
            "precision": self.posterior.precision,
            "reference": self.reference,
        }
        save_file(
            {n: x.detach().cpu().contiguous() for n, x in own.items()}, Path(folder) / "laplace.safetensors"
        )


class _Std(Scorer):
    """The closed-form standard deviation, scored as a member is."""

    members = 1

    def __init__(self, of: LaplaceModel):
        super().__init__()
        self.of = [of]
        self.unaligned(1)
        self.to(of.centre.device)

    def reader(self, prompt: torch.Tensor, room: int):
        of = self.of[0]
        hidden = open_prompts(of.model, prompt, room)

        def read(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return of.posterior.std(hidden(ids, lengths).double(), of.reference)[:, None].float()

        return read

    def widest(self) -> int:
        return self.of[0].widest()


@dataclass(frozen=True)
class Posterior:
    """N(mean, precision^-1) over a head's weights, float64."""

    mean: torch.Tensor  # (D,)
    precision: torch.Tensor  # (D, D), H
    tau: float  # the prior's precision
    evidence: float  # log marginal likelihood of the pairs, nats

    def sample(self, k: int, seed: int) -> torch.Tensor:
        """K heads drawn from the posterior, (K, D); draw i does not depend on K."""
        require(k >= 1, "k", k, "at least one draw")
        noise = torch.from_numpy(stream(seed, "laplace").standard_normal((k, len(self.mean))))
        noise = noise.to(self.mean.device)
        return self.mean + torch.linalg.solve_triangular(self._factor().T, noise.T, upper=True).T

    def std(self, features, reference) -> torch.Tensor:
        """How unsure the reward of an answer is against a reference answer's, features (..., D) -> (...), reward units.

        sqrt((f - ref)^T H^-1 (f - ref)). Bradley-Terry knows rewards only up to a constant, so a variance means
        something for a difference alone: a vector added to all features and to the reference changes nothing.
        (RewardUQ, 2602.24040, takes the answer's features alone, the direction no pair informs included.)
        """
        features, reference = _real(features, "features"), _real(reference, "reference")
        width = len(self.mean)
        require(
            features.shape[-1:] == (width,), "features", tuple(features.shape), f"an array (..., {width})"
        )
        require(reference.shape == (width,), "reference", tuple(reference.shape), f"an array ({width},)")
        apart = (features - reference).reshape(-1, width)
        whitened = torch.linalg.solve_triangular(self._factor(), apart.T, upper=False)
        return whitened.norm(dim=0).reshape(features.shape[:-1])

    def _factor(self) -> torch.Tensor:
        """L, lower, with L L^T = H."""
        return torch.linalg.cholesky(self.precision)


def fit(
    differences,
    mean,
    tau: float | None = None,
    likelihood: str = "bradley_terry",
    noise: float = 1.0,
    targets=None,
    refit: bool = False,
) -> Posterior:
    """The posterior of a linear reward head, given pairs.

    Parameters
    ----------
    differences : (M, D) chosen minus rejected features, at the head's input
    mean : (D,) the trained head; the posterior sits on it unless `refit`
    tau : precision of the prior; None takes the one with the largest evidence
    likelihood : "bradley_terry": chosen wins with sigma(z . w); "gaussian": targets are z . w plus noise
    noise : standard deviation of the Gaussian's targets, in the targets' unit
    targets : (M,) margins, for "gaussian" only
    refit : move to the maximum a posteriori (by Newton's method, from `mean`) for every tau that is tried;
        post-hoc Laplace keeps the trained head

    Returns
    -------
    Posterior, whose evidence (2106.14806, Section 3) is

        log p(pairs given w) - tau/2 w.w + D/2 log tau - 1/2 log det H

    in nats: the prior's -D/2 log 2 pi and the Laplace integral's +D/2 log 2 pi cancel. For "gaussian" with `refit`
    it is exact.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, no pairs, a tau or a noise that is not positive,
        targets without "gaussian" or the reverse, or tau = None on a head of zeros that may not move.
    """
    z, w = _real(differences, "differences"), _real(mean, "mean")
    require(
        z.ndim == 2 and z.shape[0] > 0, "differences", tuple(z.shape), "an array (M, D) with M at least 1"
    )
    require(
        w.shape == z.shape[1:], "mean", tuple(w.shape), f"an array ({z.shape[1]},), as wide as differences"
    )
    require(likelihood in LIKELIHOODS, "likelihood", likelihood, f"one of {', '.join(LIKELIHOODS)}")
    require(tau is None or 0 < tau < math.inf, "tau", tau, "None or a positive number")
    require(0 < noise < math.inf, "noise", noise, "a positive standard deviation")
    if likelihood == "gaussian":
        require(targets is not None, "targets", None, f"the margins, an array ({len(z)},)")
        y = _real(targets, "targets")
        require(y.shape == z.shape[:1], "targets", tuple(y.shape), f"an array ({len(z)},), one a pair")
        loss = _Gaussian(z, y, noise)
    else:
        require(targets is None, "targets", "given", 'None, or likelihood = "gaussian"')
        loss = _BradleyTerry(z)

    if tau is None:
        require(
            refit or bool(w.any()),
            "tau",
            None,
            "a positive number (or refit=True): a head of zeros has no best tau",
        )
        tau = _best(loss, w, refit)
    if refit:
        w = _map(loss, w, tau)
    precision = loss.curvature(w) + tau * torch.eye(len(w), dtype=w.dtype, device=w.device)
    logdet = 2 * torch.linalg.cholesky(precision).diagonal().log().sum().item()
    return Posterior(w, precision, float(tau), _evidence(loss.log(w), w, tau, logdet))


class _BradleyTerry:
    def __init__(self, z: torch.Tensor):
        self.z = z

    def log(self, w: torch.Tensor) -> float:
        """Log-likelihood, nats, summed over pairs."""
        return F.logsigmoid(self.z @ w).sum().item()

    def gradient(self, w: torch.Tensor) -> torch.Tensor:
        """Of the log-likelihood, (D,)."""
        return self.z.T @ torch.sigmoid(-(self.z @ w))

    def curvature(self, w: torch.Tensor) -> torch.Tensor:
        """Minus the log-likelihood's Hessian, (D, D)."""
        margin = self.z @ w
        return (self.z * (torch.sigmoid(margin) * torch.sigmoid(-margin))[:, None]).T @ self.z


class _Gaussian:
    def __init__(self, z: torch.Tensor, y: torch.Tensor, noise: float):
        self.z, self.y, self.noise = z, y, noise

    def log(self, w: torch.Tensor) -> float:
        square = ((self.y - self.z @ w) / self.noise).square().sum().item()
        return -0.5 * square - len(self.y) * math.log(self.noise * math.sqrt(2 * math.pi))

    def gradient(self, w: torch.Tensor) -> torch.Tensor:
        return self.z.T @ (self.y - self.z @ w) / self.noise**2

    def curvature(self, w: torch.Tensor) -> torch.Tensor:
        return self.z.T @ self.z / self.noise**2


def _evidence(log_likelihood: float, w: torch.Tensor, tau: float, logdet: float) -> float:
    return log_likelihood - tau / 2 * w.dot(w).item() + len(w) / 2 * math.log(tau) - logdet / 2


def _best(loss, w: torch.Tensor, refit: bool) -> float:
    """The tau of largest evidence: a coarse grid over log tau, then a search between the best one's neighbours.

    On a kept head the curvature does not depend on tau: its eigenvalues are taken once.
    """
    from scipy.optimize import minimize_scalar

    size = loss.curvature(torch.zeros_like(w)).diagonal().mean().item()
    require(size > 0, "differences", 0.0, "pairs whose features differ")
    kept = None if refit else torch.linalg.eigvalsh(loss.curvature(w)).clamp_min(0)
    told = None if refit else loss.log(w)

    def lost(log_tau: float) -> float:
        tau = math.exp(log_tau)
        if refit:
            at = _map(loss, w, tau)
            spectrum = torch.linalg.eigvalsh(loss.curvature(at)).clamp_min(0)
            return -_evidence(loss.log(at), at, tau, (spectrum + tau).log().sum().item())
        return -_evidence(told, w, tau, (kept + tau).log().sum().item())

    step = math.log(REACH) / 8
    grid = [math.log(size) + step * i for i in range(-8, 9)]
    best = min(grid, key=lost)
    low, high = max(best - step, grid[0]), min(best + step, grid[-1])
    return math.exp(minimize_scalar(lost, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def _map(loss, w: torch.Tensor, tau: float, steps: int = 100) -> torch.Tensor:
    """The maximum a posteriori by Newton's method with halved steps: the problem is concave, so there is one."""
    eye = torch.eye(len(w), dtype=w.dtype, device=w.device)

    def worth(at: torch.Tensor) -> float:
        return loss.log(at) - tau / 2 * at.dot(at).item()

    now = worth(w)
    for _ in range(steps):
        gradient = loss.gradient(w) - tau * w
        factor = torch.linalg.cholesky(loss.curvature(w) + tau * eye)
        move = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        gain = gradient.dot(move).item()  # twice what a full step would gain on a quadratic, nats
        if gain < 1e-10 * (1 + abs(now)):  # so near, a last full step squares what is left
            return w + move
        size = 1.0
        while size > 1e-10 and (then := worth(w + size * move)) < now + 1e-4 * size * gain - 1e-12 * abs(now):
            size /= 2
        w, now = w + size * move, then
    raise ValueError(
        f"tau = {tau}: Newton's method did not settle in {steps} steps; give a larger tau, or scale the features"
    )


def _real(given, name: str) -> torch.Tensor:
    """An array or tensor as float64, every value finite."""
    given = torch.as_tensor(given).detach().to(torch.float64)
    bad = int((~torch.isfinite(given)).sum())
    require(bad == 0, name, f"{bad} values that are not finite", "finite numbers")
    return given
