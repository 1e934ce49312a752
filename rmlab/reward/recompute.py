"""Layers computed again in the backward pass instead of kept: memory for a third more time (Chen et al. 1604.06174).

transformers' own switch, `gradient_checkpointing_enable`, works in training mode alone, where a model's dropout is on,
and its second pass reads the weights as they are by then. Here layers stay in eval mode, and the second pass has the
weights of the first, edits such as an adapter's included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rmlab.recipe import require


@contextmanager
def recomputed(model: nn.Module | None) -> Iterator[None]:
    """Keep no more of a transformer's layers than their inputs, while the block lasts; None: nothing changes.

    The model then runs its own forward: numbers and gradients are the same.

    Raises
    ------
    ValueError
        A family whose layers transformers does not know how to compute again.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    every = () if model is None else model.modules()
    layers = [(layer, layer.training) for layer in every if isinstance(layer, GradientCheckpointingLayer)]
    mend = "False: transformers cannot compute this family's layers again"
    require(model is None or len(layers) > 0, "training.checkpointing", True, mend)
    for layer, _ in layers:
        layer._gradient_checkpointing_func = _runner(layer)
        layer.gradient_checkpointing = layer.training = True  # of the layer alone, not of what is in it
    try:
        yield
    finally:
        for layer, training in layers:
            del layer.gradient_checkpointing, layer._gradient_checkpointing_func
            layer.training = training


def _runner(layer: nn.Module) -> Callable:
    """What transformers calls with a layer's forward, its keywords bound, and its other arguments."""

    def run(forward: Callable, *inputs: torch.Tensor) -> torch.Tensor:
        weights = dict(layer.named_parameters())

        def once(*inputs: torch.Tensor) -> torch.Tensor:
            layer.training = False
            try:
                return torch.func.functional_call(layer, weights, inputs, forward.keywords)
            finally:
                layer.training = True

        return checkpoint(once, *inputs, use_reentrant=False)

    return run
