"""Transformers: tiny ones from a config, any other from a folder or the hub; pretraining and SFT.

Tiny and large models are the same Hugging Face classes, so everything downstream loads either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rmlab.recipe import Pretraining, Sft, Size, World, require, stream, stream_seed
from rmlab.sources.sandbox import world as sandbox
from rmlab.tokens import BOS, EOS, PAD, pad_right

Documents = Callable[[np.random.Generator, int], list[list[int]]]


def pretrain(size: Size, recipe: Pretraining, world: World, seed: int, index: int, tick=None) -> nn.Module:
    """Pretrain tiny backbone number `index`: its initial weights and its documents are its own.

    Returns a `LlamaForCausalLM` in eval mode. Phase one copies records, phase two reads answers.
    """

    def recaps(rng: np.random.Generator, count: int) -> list[list[int]]:
        return [sandbox.recap(r, rng) for r in sandbox.requests(count, rng)]

    def answers(rng: np.random.Generator, count: int) -> list[list[int]]:
        asked = sandbox.requests(count, rng)
        skill = sandbox.skills(count, sandbox.PRETRAIN_SKILL, rng)
        return [sandbox.document(r, s, rng, world) for r, s in zip(asked, skill, strict=True)]

    model = build(size, len(sandbox.VOCAB), stream_seed(seed, "pretrain", index, "weights")).to(device_of())
    rng = stream(seed, "pretrain", index, "documents")
    fit(model, batches(recaps, rng, recipe.recap_steps, recipe.batch), recipe.recap_steps, recipe.lr, tick)
    fit(model, batches(answers, rng, recipe.answer_steps, recipe.batch), recipe.answer_steps, recipe.lr, tick)
    return model.eval()


def sft(model: nn.Module, recipe: Sft, world: World, seed: int, tick=None) -> nn.Module:
    """Tune a backbone into the policy, on answers by better authors and no verdicts; in place, returned in eval mode."""
    plain = World(style_quality=world.style_quality, max_answer=world.max_answer, appraisals=0.0)

    def answers(rng: np.random.Generator, count: int) -> list[list[int]]:
        asked = sandbox.requests(count, rng)
        skill = sandbox.skills(count, sandbox.POLICY_SKILL, rng)
        return [sandbox.document(r, s, rng, plain) for r, s in zip(asked, skill, strict=True)]

    rng = stream(seed, "sft", "documents")
    fit(model, batches(answers, rng, recipe.steps, recipe.batch), recipe.steps, recipe.lr, tick)
    return model.eval()


def build(size: Size, vocab: int, seed: int) -> nn.Module:
    """A tiny `LlamaForCausalLM` with tied embeddings, its weights drawn from `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size.validate()
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=size.hidden, intermediate_size=size.ff, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, max_position_embeddings=128,
        tie_word_embeddings=True, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, attention_dropout=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.generation_config.suppress_tokens = [0, 1, 3, 4]
        for (
            name,
            weight,
        ) in (
            model.named_parameters()
        ):  # the default std of 0.02 delays copying by a thousand steps at this width
            if weight.ndim == 2:
                nn.init.normal_(weight, 0.0, 0.08 if "embed" in name else size.hidden**-0.5)
    return model


def load(name: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A causal language model from a folder or the hub, in eval mode and in `dtype` (float32 is the truth)."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(name), dtype=dtype).eval()


def device_of(name: str | None = None) -> torch.device:
    """Where a study runs: `name`, else the variable `RMLAB_DEVICE`, else `auto`: CUDA where there is one, or the CPU."""
    name = name or os.environ.get("RMLAB_DEVICE", "auto")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def batches(documents: Documents, rng: np.random.Generator, steps: int, batch: int) -> Iterator[torch.Tensor]:
    """`steps` batches of right-padded ids (B, T) int64, written by `documents` as they are needed."""
    for _ in range(steps):
        yield torch.from_numpy(pad_right(documents(rng, batch))[0])


def fit(model: nn.Module, data: Iterator[torch.Tensor], steps: int, lr: float, tick=None) -> list[float]:
    """Next-token training with AdamW: short warm-up, cosine to a tenth, gradients clipped at 1.

    data yields ids (B, T); PAD is not predicted. `tick(i)` is called after each step. Returns the loss of
    every step, nats a token; stops with a clear error when it is not finite.
    """
    require(steps >= 1, "steps", steps, "at least 1")
    model.train()
    place = next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    plan = schedule(optimiser, steps)
    losses = []
    for step, ids in enumerate(data):
        ids = ids.to(place)
        logits = model(input_ids=ids[:, :-1], attention_mask=ids[:, :-1] != PAD, use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
        if not torch.isfinite(loss):
            raise ValueError(f"loss = {loss.item()} at step {step}: lower lr = {lr}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        plan.step()
        losses.append(loss.item())
        if tick:
            tick(step)
    return losses


def schedule(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate of every training here: `lr_factor` of the optimiser's own at each step."""
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: lr_factor(step, steps))


def lr_factor(step: int, steps: int) -> float:
    """The share of the learning rate at a step: linear warm-up over 5% of the steps, then a cosine to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm)))
