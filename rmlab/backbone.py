"""Transformers: tiny ones from a config, any other from a folder or the hub; training them on a source.

Tiny and large models are the same Hugging Face classes, so everything downstream loads either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rmlab.recipe import Pretraining, Size, Tuning, require, stream, stream_seed
from rmlab.sources.base import Source
from rmlab.tokens import SpecialTokens, pad_right

OnStep = Callable[[int], None]


def pretrain(
    source: Source,
    size: Size,
    settings: Pretraining,
    seed: int,
    index: int,
    on_step: OnStep | None = None,
) -> nn.Module:
    """Pretrain tiny backbone number `index`: its initial weights and its documents are its own.

    Phase one copies records, phase two reads answers. The result is in eval mode, on `device_of()`.

    Parameters
    ----------
    seed : the recipe's
    on_step : called with the number of the step after each, from 0 in either phase

    Raises
    ------
    ValueError
        The source has no documents, or the loss is not finite.
    """
    weights = stream_seed(seed, "pretrain", index, "weights")
    model = build(size, source.vocab_size, source.special, weights).to(device_of())
    rng = stream(seed, "pretrain", index, "documents")
    for kind, steps in (("records", settings.record_steps), ("answers", settings.answer_steps)):
        _fit_documents(model, source, kind, steps, settings, rng, on_step)
    return model.eval()


def tune(
    model: nn.Module, source: Source, settings: Tuning, seed: int, on_step: OnStep | None = None
) -> nn.Module:
    """Tune a backbone into the policy, on demonstrations by better authors; in place, returned in eval mode.

    Arguments and errors are those of `pretrain`.
    """
    rng = stream(seed, "sft", "documents")
    _fit_documents(model, source, "demonstrations", settings.steps, settings, rng, on_step)
    return model.eval()


def _fit_documents(
    model: nn.Module,
    source: Source,
    kind: str,
    steps: int,
    settings: Pretraining | Tuning,
    rng: np.random.Generator,
    on_step: OnStep | None,
) -> None:
    """Train on `steps` batches of a source's documents, written as they are needed."""

    def batch() -> torch.Tensor:
        documents = source.documents(kind, settings.batch, rng)
        mend = f"a source that has {kind} to train on, or load a trained model with rmlab.backbone.load"
        require(documents is not None, "source", type(source).__name__, mend)
        return torch.from_numpy(pad_right(documents, source.special.pad)[0])

    batches = (batch() for _ in range(steps))
    fit_language_model(model, batches, steps, settings.lr, source.special.pad, on_step)


def build(size: Size, vocab_size: int, special: SpecialTokens, seed: int) -> nn.Module:
    """A tiny `LlamaForCausalLM` with tied embeddings, its weights drawn from `seed`.

    Its config and generation config say what `special` is, so that `SpecialTokens.of` reads the same from the
    model and from a copy that was saved and loaded.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    size.validate()
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden,
        intermediate_size=size.ff,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=special.pad,
        bos_token_id=None,  # a prompt holds its own
        eos_token_id=special.eos[0] if len(special.eos) == 1 else list(special.eos),
        attention_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # the default std of 0.02 delays copying by a thousand steps at this width
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, 0.0, 0.08 if "embed" in name else size.hidden**-0.5)
    model.generation_config.suppress_tokens = list(special.never_sampled)
    return model


def load(
    name: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
) -> nn.Module:
    """A causal language model from a folder or the hub, in eval mode.

    Only safetensors are read, no code that comes with the model is run, and a model whose weights are not all
    there is refused.

    Parameters
    ----------
    dtype : of the weights; float32 is the truth
    device : where to; unless said, what `device_of()` says

    Raises
    ------
    ValueError
        No such folder or model, no safetensors in it, weights that the model needs and the folder does not
        hold, or the other way round; it names the first of them.
    """
    from transformers import AutoModelForCausalLM

    strict = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    mend = "a causal language model's folder that holds exactly the model's weights, as safetensors"
    try:  # sizes that differ are let through to be named below
        model, report = AutoModelForCausalLM.from_pretrained(
            str(name), dtype=dtype, ignore_mismatched_sizes=True, **strict
        )
    except OSError as error:
        require(False, "name", str(name), f"{mend}, or a model's name on the hub ({error})")
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, report[kind]))
        require(not keys, f"{kind} of {name}", _few(keys), mend)
    return model.eval().to(device_of(device))


def device_of(name: str | torch.device | None = None) -> torch.device:
    """Where a study runs: `name`, else the variable `RMLAB_DEVICE`, else `auto`: CUDA, or else the CPU.

    Raises
    ------
    ValueError
        No such device here.
    """
    name = str(name or os.environ.get("RMLAB_DEVICE") or "auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        require(False, "device", name, "auto, cpu, cuda or cuda:0")
    here = device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()
    require(here, "device", name, f"auto or cpu: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def fit_language_model(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    steps: int,
    lr: float,
    pad: int,
    on_step: OnStep | None = None,
) -> list[float]:
    """Next-token training with AdamW: the rate of `lr_factor`, gradients clipped at 1.

    Parameters
    ----------
    batches : `steps` of them, right-padded ids (B, T) int64
    pad : the id of PAD, which is neither read nor predicted
    on_step : called with the number of the step after each

    Returns
    -------
    The loss of every step, nats a token.

    Raises
    ------
    ValueError
        A loss that is not finite, weights that are not float32: small steps would not move them.
    """
    require(steps >= 1, "steps", steps, "at least 1")
    types = sorted({str(weight.dtype) for weight in model.parameters()} - {"torch.float32"})
    require(not types, "type of the trained weights", types, "float32 weights, as in model.float()")
    model.train()
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    rate = schedule(optimiser, steps)
    losses = []
    for step, ids in enumerate(batches):
        ids = ids.to(device)
        logits = model(input_ids=ids[:, :-1], attention_mask=ids[:, :-1] != pad, use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad)
        if not torch.isfinite(loss):
            raise ValueError(f"loss = {loss.item()} at step {step}: lower lr = {lr}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rate.step()
        losses.append(loss.item())
        if on_step:
            on_step(step)
    return losses


def schedule(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate of every training here: `lr_factor` of the optimiser's own at each step."""
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: lr_factor(step, steps))


def lr_factor(step: int, steps: int) -> float:
    """The rate at a step as a share of the highest: linear over 5% of `steps`, then a cosine to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm)))


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= 4 else [*names[:4], f"and {len(names) - 4} more"]
