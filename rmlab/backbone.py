"""Transformers: tiny ones from a config, any other from a folder or the hub; training them on a source.

Tiny and large models are the same Hugging Face classes, so everything downstream loads either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rmlab.recipe import Pretraining, Size, Tuning, require, stream, stream_seed
from rmlab.sources.base import Source
from rmlab.tokens import SpecialTokens, pad_right

OnStep = Callable[[int], None]
PLAIN = 0.3  # weight of the mean over all tokens beside loss terms of their own


def pretrain(
    source: Source,
    size: Size,
    settings: Pretraining,
    seed: int,
    index: int,
    on_step: OnStep | None = None,
) -> nn.Module:
    """Pretrain tiny backbone number `index`: its initial weights and its documents are its own.

    Phase one copies records, phase two reads answers. With `settings.sight` above 0 a share of the documents says
    which facts are right. The result is in eval mode, on `device_of()`.

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
    terms = source.checking_ids if settings.sight > 0 else ()
    for kind, steps in (("records", settings.record_steps), ("answers", settings.answer_steps)):
        batches = _batches(source, kind, steps, settings.batch, rng, settings.sight)
        fit_language_model(
            model, batches, steps, settings.lr, source.special.pad, on_step, settings.muon_lr, terms
        )
    return model.eval()


def tune(
    model: nn.Module, source: Source, settings: Tuning, seed: int, on_step: OnStep | None = None
) -> nn.Module:
    """Tune a backbone into the policy, on demonstrations by better authors; in place, returned in eval mode.

    Arguments and errors are those of `pretrain`.
    """
    rng, pad = stream(seed, "sft", "documents"), source.special.pad
    batches = _batches(source, "demonstrations", settings.steps, settings.batch, rng)
    fit_language_model(model, batches, settings.steps, settings.lr, pad, on_step)
    return model.eval()


def _batches(
    source: Source, kind: str, steps: int, size: int, rng: np.random.Generator, sight: float = 0.0
) -> Iterator[torch.Tensor]:
    """`steps` batches of a source's documents as right-padded ids (B, T), written as they are needed."""
    for _ in range(steps):
        documents = source.documents(kind, size, rng, sight)
        mend = f"a source that has {kind} to train on, or load a trained model with rmlab.backbone.load"
        require(documents is not None, "source", type(source).__name__, mend)
        yield torch.from_numpy(pad_right(documents, source.special.pad)[0])


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
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                # layers begin near the identity: Muon then learns to compare in 100 steps
                weight.data.mul_(0.1)
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
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    strict = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    mend = "a causal language model's folder that holds exactly the model's weights, as safetensors"
    try:  # sizes that differ are let through to be named below
        model, report = AutoModelForCausalLM.from_pretrained(
            str(name), dtype=dtype, ignore_mismatched_sizes=True, **strict
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first = str(error).split("\n")[0]
        require(False, "name", str(name), f"{mend}, or a model's name on the hub ({first})")
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
    muon_lr: float | None = None,
    terms: Sequence[Sequence[int]] = (),
) -> list[float]:
    """Next-token training: the rate of `lr_factor`, gradients clipped at 1.

    Parameters
    ----------
    batches : `steps` of them, right-padded ids (B, T) int64
    lr : of AdamW
    pad : the id of PAD, which is neither read nor predicted
    on_step : called with the number of the step after each
    muon_lr : of Muon (Jordan et al. 2024), which then trains the matrices other than embeddings; None: AdamW trains all
    terms : groups of ids; the mean loss of predicting a group's ids is added to `PLAIN` times the mean over all tokens,
        so that a few tokens of a document weigh as much as the rest

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
    optimisers = _optimisers(model, lr, muon_lr)
    rates = [schedule(optimiser, steps) for optimiser in optimisers]
    groups = [torch.tensor(list(group), device=device) for group in terms]
    losses = []
    for step, ids in enumerate(batches):
        ids = ids.to(device)
        logits = model(input_ids=ids[:, :-1], attention_mask=ids[:, :-1] != pad, use_cache=False).logits
        loss = _loss(logits.float().flatten(0, 1), ids[:, 1:].flatten(), pad, groups)
        if not torch.isfinite(loss):
            raise ValueError(f"loss = {loss.item()} at step {step}: lower lr = {lr}")
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.step()
            rate.step()
        losses.append(loss.item())
        if on_step:
            on_step(step)
    return losses


def _optimisers(model: nn.Module, lr: float, muon_lr: float | None) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for matrices other than embeddings and AdamW for the rest."""
    adamw = {"lr": lr, "betas": (0.9, 0.95), "weight_decay": 0.01, "fused": True}
    if muon_lr is None:
        return [torch.optim.AdamW(model.parameters(), **adamw)]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    known = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in known]
    return [torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01), torch.optim.AdamW(rest, **adamw)]


def _loss(logits: torch.Tensor, next_ids: torch.Tensor, pad: int, groups: list[torch.Tensor]) -> torch.Tensor:
    """Mean loss over tokens, and that of each group's tokens beside it; logits (R, V), next_ids (R,)."""
    if not groups:
        return F.cross_entropy(logits, next_ids, ignore_index=pad)
    each = F.cross_entropy(logits, next_ids, ignore_index=pad, reduction="none")
    loss = PLAIN * each.sum() / (next_ids != pad).sum()
    for group in groups:
        chosen = torch.isin(next_ids, group)
        loss = loss + (each * chosen).sum() / chosen.sum().clamp(min=1)
    return loss


@torch.no_grad()
def next_token_shares(
    model: nn.Module, rows: Sequence[Sequence[int]], ids: Sequence[int], pad: int
) -> torch.Tensor:
    """How a model divides its belief among some ids as the next token after each row, (B, len(ids)) summing to 1.

    rows : ids of B rows of any length
    """
    shares, device = [], next(model.parameters()).device
    for start in range(0, len(rows), 128):
        padded, mask = (torch.from_numpy(x).to(device) for x in pad_right(rows[start : start + 128], pad))
        logits = model(input_ids=padded, attention_mask=mask, use_cache=False).logits
        last = logits[torch.arange(len(padded), device=device), mask.sum(1) - 1]
        shares.append(last[:, list(ids)].float().softmax(-1).cpu())
    return torch.cat(shares)


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
