"""Reward-model training: Bradley-Terry, summed over heads, each pair read as one row.

The sum matters: a mean over K heads would hand every head 1/K of its gradient, and K would change weight
decay, clipping and Adam's epsilon. With the sum, K = 1 is the single reward model bit for bit.

Letters: M pairs, B pairs of a batch, T tokens, D hidden, K heads.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from rmlab.backbone import schedule
from rmlab.fast.rows import read_pairs
from rmlab.recipe import Training, require, stream
from rmlab.reward.ensemble import RewardEnsemble, require_scores
from rmlab.reward.model import RewardModel
from rmlab.reward.recompute import recomputed
from rmlab.tokens import pad_right

WINDOW = 8  # batches whose pairs are sorted by length among themselves
SIDES = ("prompts", "chosen", "rejected")
NOTES = {"ids": str, "groups": str, "soft": float, "kept": int, "cut": bool}  # of each pair, where known


@dataclass(frozen=True)
class PairIds:
    """M pairs as lists of token ids, each answer ending in an EOS; and, where they came from rows, which rows.

    Parameters
    ----------
    ids, groups : (M,) names of the pairs, and of what they belong to (a dialogue, a question, a debate)
    soft : (M,) share of the votes for the chosen answer, 0 to 1
    kept : (M,) index of each pair among the pairs that were encoded
    cut : (M,) whether it was shortened
    dropped : reason -> indices of the pairs that could not be encoded
    votes : train on `soft`, not on which answer was chosen
    """

    prompts: Sequence[Sequence[int]]
    chosen: Sequence[Sequence[int]]
    rejected: Sequence[Sequence[int]]
    ids: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    soft: Sequence[float] | None = None
    kept: Sequence[int] | None = None
    cut: Sequence[bool] | None = None
    dropped: Mapping[str, Sequence[int]] = field(default_factory=dict)
    votes: bool = False

    def __post_init__(self):
        counts = {side: len(getattr(self, side)) for side in SIDES}
        require(
            len(set(counts.values())) == 1, "pairs", counts, "a prompt, a chosen and a rejected answer each"
        )
        for side in SIDES[1:]:
            empty = [i for i, answer in enumerate(getattr(self, side)) if len(answer) == 0]
            require(not empty, side, f"no token in {empty[:3]}", "at least one token each, such as an EOS")
        for name in NOTES:
            count = len(self) if getattr(self, name) is None else len(getattr(self, name))
            require(count == len(self), f"length of {name}", count, f"one a pair, {len(self)}")
        outside = [] if self.soft is None else [p for p in self.soft if not 0 <= p <= 1]
        require(not outside, "soft", outside[:3], "shares from 0 to 1")
        require(not self.votes or self.soft is not None, "votes", True, "pairs with a soft label each")

    def __len__(self) -> int:
        return len(self.prompts)

    def save(self, folder: str | Path) -> None:
        """Write `pairs.npz`: each side's right-padded ids (M, T) int32 and how long they are, (M,).

        What is known of each pair goes along; `dropped` and `votes` do not.
        """
        arrays = {}
        for side in SIDES:
            rows = getattr(self, side)
            arrays[side] = pad_right(rows)[0].astype(np.int32)
            arrays[f"{side}_lengths"] = np.array([len(row) for row in rows], np.int32)
        for name, kind in NOTES.items():
            if getattr(self, name) is not None:
                arrays[name] = np.array(getattr(self, name), kind)
        np.savez_compressed(Path(folder) / "pairs.npz", **arrays)

    @classmethod
    def load(cls, folder: str | Path) -> PairIds:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            Names the file where it is missing, damaged, or its arrays are not those of pairs.
        """
        path = Path(folder) / "pairs.npz"
        names = [*SIDES, *(f"{side}_lengths" for side in SIDES)]
        try:
            with path.open("rb") as file, np.load(file) as data:
                arrays = {name: data[name] for name in names}
                notes = {name: data[name].tolist() for name in NOTES if name in data}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: holds no pairs ({error}); save them again") from error
        sides = []
        for side in SIDES:
            ids, lengths = arrays[side], arrays[f"{side}_lengths"]
            fits = ids.ndim == 2 and lengths.shape == ids.shape[:1]
            fits = fits and lengths.min(initial=0) >= 0 and lengths.max(initial=0) <= ids.shape[1]
            require(fits, f"{side}_lengths of {path}", lengths.shape, f"lengths of the rows {ids.shape}")
            sides.append([row[:length].tolist() for row, length in zip(ids, lengths, strict=True)])
        return cls(*sides, **notes)

    def take(self, index: Sequence[int]) -> PairIds:
        """The pairs at `index`."""
        known = [name for name in (*SIDES, *NOTES) if getattr(self, name) is not None]
        return PairIds(**{n: [getattr(self, n)[i] for i in index] for n in known}, votes=self.votes)

    @property
    def targets(self) -> torch.Tensor | None:
        """(M,) float32, what training aims at: the share of the votes; None for the chosen answer, whole."""
        return torch.tensor(self.soft, dtype=torch.float32) if self.votes else None

    def batch(self, index: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Two plain rows a pair, ids and mask (2B, T): the chosen rows first, then the rejected."""
        pairs = self.take(index)
        answers = (*pairs.chosen, *pairs.rejected)
        rows = [[*p, *a] for p, a in zip((*pairs.prompts, *pairs.prompts), answers, strict=True)]
        ids, mask = pad_right(rows)
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def batches(self, order: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Indices of full batches of about one length: sorted within windows of `order`, then shuffled."""
        sides = zip(self.prompts, self.chosen, self.rejected, strict=True)
        lengths = np.array([len(p) + len(c) + len(r) for p, c, r in sides])
        order = order[: len(order) // size * size]
        cut = []
        for start in range(0, len(order), WINDOW * size):
            window = order[start : start + WINDOW * size]
            cut += list(window[np.argsort(lengths[window], kind="stable")].reshape(-1, size))
        for i in rng.permutation(len(cut)):
            yield cut[i]


def bt_loss(
    margin: torch.Tensor, weights: torch.Tensor | None = None, targets: torch.Tensor | None = None
) -> torch.Tensor:
    """Bradley-Terry, `-log sigma(r+ - r-)` in nats, mean over pairs: margins (B, K) -> (K,).

    weights : (B, K), how often a head's bootstrap sample holds a pair
    targets : (B,), share p of the votes for the chosen answer: `-p log sigma(d) - (1 - p) log sigma(-d)`
    """
    each = -F.logsigmoid(margin)
    if targets is not None:  # -log sigma(-d) = d - log sigma(d)
        each = each + (1 - targets.to(margin))[:, None] * margin
    return (each if weights is None else each * weights).mean(0)


def train(
    model: RewardModel,
    pairs: PairIds,
    recipe: Training,
    seed: int,
    on_step: Callable[[int], None] | None = None,
    precision: str = "fp32",
    weights: np.ndarray | None = None,
    penalty: str = "decay",
    strength: float = 0.0,
) -> list[float]:
    """Train heads and trunk in place; the order of the pairs comes from `seed`.

    Parameters
    ----------
    on_step : called after every step with the number of steps done
    precision : "fp32", or "bf16" for the trunk's products (the heads stay in float32)
    weights : (M, K), how often head k's bootstrap sample holds pair i; all ones unless said
    penalty, strength : on the heads, see `head_penalty`

    Returns
    -------
    The loss of every step, nats summed over heads.

    Raises
    ------
    ValueError
        As `fit`.
    """
    heads = list(model.head_parameters())
    own = {id(p) for p in heads}
    body = [p for p in model.model.parameters() if id(p) not in own]
    decay = recipe.weight_decay if penalty == "decay" else 0.0
    groups = [{"params": body}, {"params": heads, "weight_decay": decay}]
    extra = head_penalty(heads, penalty, strength)

    def hidden(batch: PairIds) -> torch.Tensor:
        return read_pairs(model.reader, batch.prompts, batch.chosen, batch.rejected)

    more = {"weights": weights, "extra": extra, "trunk": model.model}
    return fit(pairs, recipe, seed, groups, hidden, model.head, on_step, precision, **more)


def head_penalty(heads: list[torch.Tensor], penalty: str, strength: float) -> Callable | None:
    """What is added to the loss for the heads, as a function of nothing.

    "decay": nothing, AdamW's weight decay as everywhere; "none": nothing, and no weight decay; "l2":
    `strength` times the squared norm of w; "anchor": `strength` times that of w minus its initial value
    (randomised priors: Osband et al. 2018).
    """
    require(penalty in {"decay", "none", "l2", "anchor"}, "penalty", penalty, "decay, none, l2 or anchor")
    require(strength >= 0, "strength", strength, "0 or more")
    pulls = penalty in {"l2", "anchor"}
    mend = f"{'a number above 0' if pulls else '0'} with penalty {penalty!r}"
    require((strength > 0) == pulls, "strength", strength, mend)
    if not pulls:
        return None
    start = [p.detach().clone() if penalty == "anchor" else torch.zeros_like(p) for p in heads]
    return lambda: strength * sum((p - s).square().sum() for p, s in zip(heads, start, strict=True))


def fit(
    pairs: PairIds,
    recipe: Training,
    seed: int,
    groups: list[dict],
    hidden: Callable[[PairIds], torch.Tensor],
    head: Callable[[torch.Tensor], torch.Tensor],
    on_step: Callable[[int], None] | None = None,
    precision: str = "fp32",
    weights: np.ndarray | None = None,
    extra: Callable[[], torch.Tensor] | None = None,
    trunk: torch.nn.Module | None = None,
) -> list[float]:
    """The loop that every method shares: AdamW on `groups` of parameters, on `backbone.schedule`.

    Parameters
    ----------
    hidden, head : B pairs -> (2B, D), chosen before rejected; (2B, D) -> scores (2B, K)
    extra : a further loss of the parameters
    trunk : what `hidden` runs and `recipe.checkpointing` is of, None where it runs nothing; the rest as in `train`

    Raises
    ------
    ValueError
        Too few pairs for a batch, a rate or a precision that is none, parameters that are not float32. A loss
        or a gradient that is not finite stops it before the step is taken: the weights are those of the last
        good step, and the error says the step and the head.
    """
    parameters = [p for group in groups for p in group["params"]]
    _check_fit(pairs, recipe, parameters, precision)
    steps, decay = recipe.epochs * (len(pairs) // recipe.batch), recipe.weight_decay
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=decay, fused=True)
    plan, device = schedule(optimiser, steps), parameters[-1].device
    counts = None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=device)
    rng = stream(seed, "order")
    losses: list[float] = []

    def read(few: PairIds) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            states = hidden(few)
        return head(states)

    orders = (rng.permutation(len(pairs)) for _ in range(recipe.epochs))
    with recomputed(trunk if recipe.checkpointing else None):
        for index in (i for order in orders for i in pairs.batches(order, recipe.batch, rng)):
            optimiser.zero_grad(set_to_none=True)
            by_head, total = backward(
                pairs.take(index), recipe, read, None if counts is None else counts[index], extra
            )
            norm = _finite_norm(by_head, total, parameters, len(losses), recipe.lr)
            if recipe.max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, recipe.max_grad_norm, norm)
            optimiser.step()
            plan.step()
            losses.append(total.item())
            if on_step:
                on_step(len(losses))
    return losses


def _check_fit(pairs: PairIds, recipe: Training, parameters: list[torch.Tensor], precision: str) -> None:
    require(len(pairs) >= recipe.batch, "pairs", len(pairs), f"at least one batch of {recipe.batch}")
    require(precision in {"fp32", "bf16"}, "precision", precision, "fp32 or bf16")
    require(0 < recipe.lr < np.inf, "training.lr", recipe.lr, "a rate above 0")
    recipe.validate()
    types = {str(p.dtype) for p in parameters} - {"torch.float32"}
    mend = "float32 weights, as in model.float(); precision = 'bf16' takes the products in bfloat16"
    require(not types, "type of the trained weights", sorted(types), mend)


def backward(
    pairs: PairIds,
    recipe: Training,
    read: Callable[[PairIds], torch.Tensor],
    counts: torch.Tensor | None = None,
    extra: Callable[[], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up the gradients of a batch's loss, `recipe.micro_batch` pairs at a time: whatever that is, they are the same.

    Parameters
    ----------
    read : some of the pairs -> scores (2B, K), chosen before rejected
    counts : (B, K), the weights of the pairs; extra as in `fit`

    Returns
    -------
    The batch's loss by head (K,) and in total, nats, without gradients.
    """
    size, losses = recipe.micro_batch or len(pairs), []
    for start in range(0, len(pairs), size):
        rows = np.arange(start, min(start + size, len(pairs)))
        few = pairs if len(rows) == len(pairs) else pairs.take(rows)
        chosen, rejected = read(few).chunk(2)
        by_head = bt_loss(chosen - rejected, None if counts is None else counts[rows], few.targets)
        if recipe.centre:
            by_head = by_head + recipe.centre * (chosen + rejected).square().mean(0)
        by_head = by_head * (len(rows) / len(pairs))
        total = by_head.sum() if extra is None or start else by_head.sum() + extra()
        total.backward()
        losses.append((by_head.detach(), total.detach()))
    return tuple(torch.stack(parts).sum(0) for parts in zip(*losses, strict=True))


def _finite_norm(
    by_head: torch.Tensor, total: torch.Tensor, parameters: list[torch.Tensor], step: int, lr: float
) -> torch.Tensor:
    """The gradients' norm; a `ValueError` that says the step and the head, unless loss and gradients are finite."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if torch.isfinite(total) and torch.isfinite(norm):
        return norm
    bad = [k for k, x in enumerate(by_head.tolist()) if not np.isfinite(x)]
    who = ", ".join(f"head {k}" for k in bad) if bad else "the gradient"
    mend = f"lower training.lr = {lr}; the weights are those before the step"
    raise ValueError(f"loss = {total.item()} at step {step} ({who}): {mend}")


@contextmanager
def error_context(member: str) -> Iterator[None]:
    """Begin the `ValueError` of a member's training with the member."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{member}: {error}") from error


def score_pairs(ensemble: RewardEnsemble, pairs: PairIds, batch: int = 32) -> np.ndarray:
    """Aligned scores of M pairs, (M, 2, K) float32: chosen, then rejected."""
    return ensemble.align_raw(raw_score_pairs(ensemble, pairs, batch))


@torch.no_grad()
def raw_score_pairs(ensemble: RewardEnsemble, pairs: PairIds, batch: int = 32) -> np.ndarray:
    """Scores of M pairs as the members give them, (M, 2, K) float32: what `align` takes, as (2M, K)."""
    out = np.empty((len(pairs), 2, ensemble.members), np.float32)
    for start in range(0, len(pairs), batch):
        few = pairs.take(range(start, min(start + batch, len(pairs))))
        raw = ensemble.raw_pair_scores(few.prompts, few.chosen, few.rejected)
        require_scores(raw, 2 * len(few), ensemble.members)
        out[start : start + batch] = torch.stack(raw.chunk(2), 1).cpu().numpy()
    return out
