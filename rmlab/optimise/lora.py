"""A policy's low-rank changes, beside weights that stay as they are: its reference is itself with them off.

`h = W x + (alpha / rank) B A x` (Hu et al. 2106.09685), A random and B zero, so that a policy starts as its reference::

    with low_rank(policy, rank=8):
        rows = ppo.train(policy, prompts, reward, settings, seed)

No weight of the policy is copied, and Adam keeps moments of A and B alone. A policy with changes beside its weights runs
its own forward: the packed one reads W.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rmlab.optimise.head import trunk
from rmlab.recipe import require, stream_seed
from rmlab.reward.lora import TARGETS, Adapter

NAME = "low_rank"  # of the changes among a policy's modules: its state, and so its checkpoints, hold them


@contextmanager
def low_rank(policy: nn.Module, rank: int, seed: int = 0, alpha: float | None = None) -> Iterator[None]:
    """While the block lasts, low-rank changes of every matrix in a policy's blocks are all of it that is trained.

    At the block's end, also by an error, they are added to the weights, in place, and nothing else is left behind.

    Parameters
    ----------
    policy : a transformers causal language model
    rank : of the changes; 0: there are none, and the weights are trained
    seed : of A
    alpha : twice the rank unless given

    Raises
    ------
    ValueError
        A rank below 0, a family whose blocks are not its trunk's `layers`, or whose matrices are not linear layers.
    """
    if rank == 0:
        yield
        return
    frozen = [weight for weight in policy.parameters() if weight.requires_grad]
    changes = Changes(trunk(policy), rank, seed, 2.0 * rank if alpha is None else alpha)
    policy.requires_grad_(False)
    policy.add_module(NAME, changes)
    try:
        yield
    finally:
        changes.merge(trunk(policy))
        delattr(policy, NAME)
        for weight in frozen:
            weight.requires_grad_(True)


def changes_of(policy: nn.Module) -> Changes | None:
    """The low-rank changes of a policy, or None where it has none."""
    return getattr(policy, NAME, None)


@contextmanager
def switched_off(policy: nn.Module) -> Iterator[None]:
    """A policy without its low-rank changes, if it has some, while the block lasts: its reference."""
    changes = changes_of(policy)
    if changes:
        changes.on = False
    try:
        yield
    finally:
        if changes:
            changes.on = True


class Changes(nn.Module):
    """An adapter of a trunk that adds to its matrices' outputs, and can be switched off. Arguments as in `low_rank`."""

    def __init__(self, below: nn.Module, rank: int, seed: int, alpha: float):
        super().__init__()
        self.adapter = Adapter.fresh(below, rank, alpha, TARGETS, 0, stream_seed(seed, "ppo", "lora"))
        layers = [below.get_submodule(name.removesuffix(".weight")) for name in self.adapter.names]
        other = sorted({type(layer).__name__ for layer in layers if type(layer) is not nn.Linear})
        require(
            not other, "matrices of the policy", other, "a policy whose blocks' matrices are linear layers"
        )
        self.on, pairs = True, self.adapter.pairs.values()
        self.hooks = [self._add_to(layer, *pair) for layer, pair in zip(layers, pairs, strict=True)]

    @torch.no_grad()
    def merge(self, below: nn.Module) -> None:
        """Add the changes to the trunk's weights, W + (alpha / rank) B A, and leave its layers as they were."""
        for name, whole in self.adapter.merged(below).items():
            below.get_parameter(name).copy_(whole)
        for hook in self.hooks:
            hook.remove()

    def _add_to(
        self, layer: nn.Linear, first: nn.Parameter, second: nn.Parameter
    ) -> torch.utils.hooks.RemovableHandle:
        scale = self.adapter.alpha / self.adapter.rank

        def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            return output + scale * (inputs[0] @ first.T @ second.T) if self.on else output

        return layer.register_forward_hook(add)
