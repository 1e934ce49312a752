"""Reward-model training: Bradley-Terry, summed over heads, each pair read as one row.

The sum matters: a mean over K heads would hand every head 1/K of its gradient, and K would change weight
decay, clipping and Adam's epsilon. With the sum, K = 1 is the single reward model bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from rmlab.backbone import schedule
from rmlab.fast.prefix import read_pairs
from rmlab.recipe import Training, require, stream
from rmlab.reward.model import RewardModel, Scorer
from rmlab.tokens import pad_right

WINDOW = 8  # batches whose pairs are sorted by length among themselves


@dataclass(frozen=True)
class PairIds:
    """M pairs as token ids, each answer ending in `<eos>`."""

    prompts: list[list[int]]
    chosen: list[list[int]]
    rejected: list[list[int]]

    @classmethod
    def load(cls, folder: str | Path) -> PairIds:
        """Read `pairs.npz` of a study: padded rows of ids, 0 is no token."""
        data = np.load(Path(folder) / "pairs.npz")
        return cls(
            *([[int(x) for x in row if x] for row in data[n]] for n in ("prompts", "chosen", "rejected"))
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index) -> PairIds:
        """The pairs at `index`."""
        sides = (self.prompts, self.chosen, self.rejected)
        return PairIds(*([side[i] for i in index] for side in sides))

    def batch(self, index) -> tuple[torch.Tensor, torch.Tensor]:
        """Two plain rows a pair, ids and mask (2B, T): the chosen rows first, then the rejected."""
        some = self.take(index)
        rows = [
            p + a for side in (some.chosen, some.rejected) for p, a in zip(some.prompts, side, strict=True)
        ]
        ids, mask = pad_right(rows)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def batches(self, order: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Indices of full batches of about one length: sorted within windows of `order`, then shuffled."""
        lengths = np.array(
            [
                len(p) + len(c) + len(r)
                for p, c, r in zip(self.prompts, self.chosen, self.rejected, strict=True)
            ]
        )
        order = order[: len(order) // size * size]
        cut = []
        for start in range(0, len(order), WINDOW * size):
            window = order[start : start + WINDOW * size]
            cut += list(window[np.argsort(lengths[window], kind="stable")].reshape(-1, size))
        for i in rng.permutation(len(cut)):
            yield cut[i]


def loss(margin: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry: `-log sigma(r+ - r-)`, margins (B, K) -> scalar nats, mean over pairs, **sum** over heads."""
    return nats(margin).sum()


def nats(margin: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The Bradley-Terry loss of each head, margins (B, K) -> (K,); weights (B, K): how often a head's sample holds a pair."""
    each = -F.logsigmoid(margin)
    return (each if weights is None else each * weights).mean(0)


def train(
    model: RewardModel, pairs: PairIds, recipe: Training, seed: int, tick=None, precision: str = "fp32",
    weights: np.ndarray | None = None, penalty: str = "decay", strength: float = 0.0,
) -> list[float]:  # fmt: skip
    """Train heads and trunk in place; the order of the pairs comes from `seed`.

    Parameters
    ----------
    precision : "fp32", or "bf16" for the trunk's products (the heads stay in float32)
    weights : (M, K), how often head k's bootstrap sample holds pair i; all ones unless given
    penalty, strength : on the heads, see `head_penalty`

    Returns the loss of every step (summed over heads). Raises a `ValueError` when it is not finite.
    """
    heads = list(model.head_parameters())
    own = {id(p) for p in heads}
    body = [p for p in model.model.parameters() if id(p) not in own]
    decay = recipe.weight_decay if penalty == "decay" else 0.0
    groups = [{"params": body}, {"params": heads, "weight_decay": decay}]
    extra = head_penalty(heads, penalty, strength)

    def hidden(batch: PairIds) -> torch.Tensor:
        return read_pairs(model.model, batch.prompts, batch.chosen, batch.rejected)

    return descend(
        pairs, recipe, seed, groups, hidden, model.head, tick, precision, weights, extra, model.centre.device
    )


def head_penalty(heads: list[torch.Tensor], penalty: str, strength: float) -> Callable | None:
    """What is added to the loss for the heads, as a function of nothing.

    "decay": nothing, AdamW's weight decay as everywhere; "none": nothing, and no weight decay; "l2":
    `strength` times the squared norm of w; "anchor": `strength` times that of w minus its initial value (randomised
    priors: Osband et al. 2018).
    """
    require(penalty in {"decay", "none", "l2", "anchor"}, "penalty", penalty, "decay, none, l2 or anchor")
    require(strength >= 0, "strength", strength, "0 or more")
    pulls = penalty in {"l2", "anchor"}
    require(
        (strength > 0) == pulls,
        "strength",
        strength,
        f"{'a number above 0' if pulls else '0'} with penalty {penalty!r}",
    )
    if not pulls:
        return None
    start = [p.detach().clone() if penalty == "anchor" else torch.zeros_like(p) for p in heads]
    return lambda: strength * sum((p - s).square().sum() for p, s in zip(heads, start, strict=True))


def descend(
    pairs: PairIds, recipe: Training, seed: int, groups: list[dict], hidden: Callable, head: Callable, tick=None,
    precision: str = "fp32", weights: np.ndarray | None = None, extra: Callable | None = None, device="cpu",
) -> list[float]:  # fmt: skip
    """The loop that every construction shares: `hidden` (pairs -> (2B, D)), `head` ((2B, D) -> (2B, K)), AdamW.

    A loss or a gradient that is not finite stops it before the step is taken, so the weights are those of the last good
    step; the `ValueError` says the step and the head.
    """
    require(len(pairs) >= recipe.batch, "pairs", len(pairs), f"at least one batch of {recipe.batch}")
    require(precision in {"fp32", "bf16"}, "precision", precision, "fp32 or bf16")
    require(0 < recipe.lr < np.inf, "training.lr", recipe.lr, "a rate above 0")
    steps = recipe.epochs * (len(pairs) // recipe.batch)
    optimiser = torch.optim.AdamW(
        groups, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    plan = schedule(optimiser, steps)
    counts = None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=device)
    rng = stream(seed, "order")
    losses: list[float] = []
    kind = torch.device(device).type
    for _ in range(recipe.epochs):
        for index in pairs.batches(rng.permutation(len(pairs)), recipe.batch, rng):
            with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
                read = hidden(pairs.take(index))
            chosen, rejected = head(read).chunk(2)
            by_head = nats(chosen - rejected, None if counts is None else counts[index])
            if recipe.centre:
                by_head = by_head + recipe.centre * (chosen + rejected).square().mean(0)
            total = by_head.sum() if extra is None else by_head.sum() + extra()
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            _finite(by_head, total, groups, len(losses), recipe.lr)
            optimiser.step()
            plan.step()
            losses.append(total.item())
            if tick:
                tick(len(losses))
    return losses


def _finite(by_head: torch.Tensor, total: torch.Tensor, groups: list[dict], step: int, lr: float) -> None:
    grads = [p.grad for g in groups for p in g["params"] if p.grad is not None]
    if torch.isfinite(total) and torch.isfinite(torch.nn.utils.get_total_norm(grads)):
        return
    bad = [k for k, x in enumerate(by_head.tolist()) if not np.isfinite(x)]
    who = ", ".join(f"head {k}" for k in bad) if bad else "the gradient"
    raise ValueError(
        f"loss = {total.item()} at step {step} ({who}): lower training.lr = {lr}; the weights are those before the step"
    )


@contextmanager
def whose(member: str) -> Iterator[None]:
    """Begin the `ValueError` of a member's training with the member."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{member}: {error}") from error


@torch.no_grad()
def score_pairs(model: Scorer, pairs: PairIds, batch: int = 32) -> np.ndarray:
    """Raw scores of pairs, (M, 2, K) float32: chosen, then rejected."""

    parts = []
    for start in range(0, len(pairs), batch):
        some = pairs.take(range(start, min(start + batch, len(pairs))))
        out = model.pair_scores(some.prompts, some.chosen, some.rejected)
        parts.append(torch.stack(out.chunk(2), 1).cpu().numpy())
    return np.concatenate(parts)
