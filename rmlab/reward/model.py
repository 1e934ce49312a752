"""The reward model: K linear heads on one transformer, as a plain Hugging Face folder.

The model is `AutoModelForSequenceClassification` with `num_labels=K`, K = 1 included: anyone can load its
folder without rmlab and gets the raw scores as its logits. What stands before its last linear layer (a pooler, a
dense layer) is a part of the encoder: see `classifier.py`. Each head may be a network of its own (`MlpHeads`): such a
folder needs rmlab, and its linear head is NaN so that nobody mistakes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from rmlab.backbone import device_of
from rmlab.fast.plain import trunk_of
from rmlab.fast.prefix import open_prompts
from rmlab.fast.rows import read_ends, read_pairs
from rmlab.recipe import require, stream_seed
from rmlab.reward.classifier import (
    check_head,
    ends_in_score,
    head_name,
    load_classifier,
    reader_of,
    with_heads,
    with_labels,
)
from rmlab.reward.ensemble import Ids, Read, RewardEnsemble
from rmlab.reward.folder import read_tensors
from rmlab.tokens import SpecialTokens

MLP_FILE = "mlp_heads.safetensors"


class RewardModel(RewardEnsemble):
    """K heads on one transformer: build one with `from_backbone`, or `load` one.

    Parameters
    ----------
    model : a Hugging Face sequence classification model that ends in a linear layer (K, D), with or without a bias
    mlp : heads with a hidden layer, in the place of that layer
    """

    format = "heads"

    def __init__(self, model: nn.Module, mlp: MlpHeads | None = None):
        name = head_name(model)
        super().__init__(model.config.num_labels, SpecialTokens.of(model), next(model.parameters()).device)
        self.head_name = name
        count = self.members if mlp is None else len(mlp.second)
        require(count == self.members, "mlp", f"{count} heads", f"{self.members}, as the model has labels")
        self.model, self.mlp = model.eval(), None if mlp is None else mlp.to(self.centre.device)
        if not ends_in_score(model):
            check_head(model, self.special)

    @property
    def trunk(self) -> nn.Module:
        """The transformer under the heads."""
        return getattr(self.model, self.model.base_model_prefix)

    @property
    def reader(self) -> nn.Module:
        """What `rmlab.fast` reads in front of the heads."""
        return reader_of(self.model)

    @property
    def linear(self) -> nn.Linear:
        """The linear heads, weight (K, D)."""
        return self.model.get_submodule(self.head_name)

    def raw_forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Raw scores of whole rows, ids and mask (B, T) -> (B, K) float32."""
        return self.head(read_ends(trunk_of(self.reader), ids, mask))

    def raw_pair_scores(self, prompts: Ids, chosen: Ids, rejected: Ids) -> torch.Tensor:
        """Raw scores of B chosen, then B rejected answers, (2B, K); gradients flow."""
        return self.head(read_pairs(self.reader, prompts, chosen, rejected))

    def prompt_scorer(self, prompts: torch.Tensor, max_new_tokens: int) -> Read:
        """Raw scores (R, K) of answers on their prompts' cache."""
        read = open_prompts(self.reader, prompts, max_new_tokens)
        return lambda ids, lengths: self.head(read(ids, lengths))

    def floats_per_token(self) -> int:
        """Floats that a scored token needs at a time, at most."""
        return activations_per_token(self.model.config)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., D) -> raw scores (..., K), in float32 whatever the trunk runs in."""
        if self.mlp is not None:
            return self.mlp(hidden.float())
        scores, bias = hidden.float() @ self.linear.weight.float().T, self.linear.bias
        return scores if bias is None else scores + bias.float()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The heads' own parameters."""
        return (self.linear if self.mlp is None else self.mlp).parameters()

    def _subset(self, members: list[int]) -> RewardModel:
        return RewardModel(self._few(members), None if self.mlp is None else self.mlp.subset(members))

    def _few(self, members: list[int]) -> nn.Module:
        """The classifier with these linear heads alone."""
        weight, bias = self.linear.weight, self.linear.bias
        return with_heads(self.model, weight[members], None if bias is None else bias[members])

    def _write_weights(self, folder: Path) -> dict:
        self.model.save_pretrained(str(folder))
        if self.mlp is not None:
            weights = {n: p.detach().cpu().contiguous() for n, p in self.mlp.named_parameters()}
            save_file(weights, folder / MLP_FILE)
        return {}

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype = torch.float32, special: SpecialTokens | None = None
    ) -> RewardModel:
        """Read a folder that `save` wrote, or any sequence classification model that ends in a linear layer.

        special : PAD and EOS where its config names none, as BERT's does not; its config then names these

        Raises
        ------
        ValueError
            Weights that are missing, unexpected, cut or of another shape; another kind of head; heads that
            are copies; no PAD or EOS.
        """
        model, path = load_classifier(folder, dtype), Path(folder) / MLP_FILE
        if special is not None:
            eos = special.eos[0] if len(special.eos) == 1 else list(special.eos)
            model.config.pad_token_id, model.config.eos_token_id = special.pad, eos
        reward = cls(model, MlpHeads.of(read_tensors(path), path) if path.is_file() else None)
        if ends_in_score(model):
            check_head(model, reward.special)
        heads = next(reward.head_parameters()).detach().flatten(1).float()
        require(
            len(heads.unique(dim=0)) == reward.members, f"heads of {folder}", "copies", "every member its own"
        )
        reward.restore_alignment(folder)
        return reward


class MlpHeads(nn.Module):
    """K networks D -> width -> 1 (tanh) side by side; head k is drawn from its own stream."""

    def __init__(self, k: int, width_in: int, width: int, seed: int = 0, init: float = 1.0):
        super().__init__()
        require(width >= 1, "mlp", width, "a width of at least 1, or 0 for linear heads")
        first, second = [], []
        for i in range(k):
            noise = torch.Generator().manual_seed(stream_seed(seed, "mlp head", i))
            first.append(torch.randn(width, width_in, generator=noise) / math.sqrt(width_in))
            second.append(init * torch.randn(width, generator=noise) / math.sqrt(width + 1))
        self.first = nn.Parameter(torch.stack(first))  # (K, width, D)
        self.bias = nn.Parameter(torch.zeros(k, width))
        self.second = nn.Parameter(torch.stack(second))  # (K, width)

    @classmethod
    def of(cls, weights: dict[str, torch.Tensor], where: Path | str = "weights") -> MlpHeads:
        """The heads with these weights; a `ValueError` names `where` they are from if they are none."""
        names, first = sorted(weights), weights.get("first")
        whole = names == ["bias", "first", "second"] and first.ndim == 3
        fits = whole and all(weights[n].shape == first.shape[:2] for n in ("bias", "second"))
        shapes = {n: tuple(w.shape) for n, w in weights.items()}
        require(fits, str(where), shapes, "first (K, width, D), bias and second (K, width)")
        heads = cls(first.shape[0], first.shape[2], first.shape[1])
        heads.load_state_dict(weights)
        return heads

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., D) float32 -> scores (..., K) float32, whatever the weights are held in."""
        first, bias, second = (p.float() for p in (self.first, self.bias, self.second))
        inner = torch.tanh(hidden @ first.flatten(0, 1).T + bias.flatten())
        return (inner.unflatten(-1, second.shape) * second).sum(-1)

    def subset(self, members: list[int]) -> MlpHeads:
        """The heads with these numbers."""
        return MlpHeads.of({n: w.detach()[members] for n, w in self.named_parameters()})


def from_backbone(
    backbone: nn.Module,
    members: int,
    seed: int,
    init: float = 1.0,
    device: str | torch.device | None = None,
) -> RewardModel:
    """K fresh heads on a copy of a language model's trunk, in float32 whatever the backbone is held in.

    Head k is drawn from its own stream, with std init/sqrt(D + 1) (Stiennon et al. 2020 with init = 1), so
    members differ from the start and head k does not depend on K. What a family has between its trunk and its heads is
    drawn from a stream too.

    device : where to, "auto" as in `rmlab.backbone.device_of`; the backbone's own unless said

    Raises
    ------
    ValueError
        A family without a sequence classification model, weights that are not its trunk's, no PAD or EOS.
    """
    require(members >= 1, "members", members, "at least 1")
    model = _fresh_classifier(backbone, members, stream_seed(seed, "before the heads"))
    names = getattr(model, model.base_model_prefix).load_state_dict(
        backbone.base_model.state_dict(), strict=False
    )
    other = sorted(names.missing_keys + names.unexpected_keys)
    require(
        not other,
        "backbone",
        other[:3],
        "a plain model of its family: these weights are not its classifier's",
    )
    where = next(backbone.parameters()).device if device is None else device_of(device)
    reward = RewardModel(model.to(where))
    head = reward.linear
    with torch.no_grad():
        for k in range(members):
            head.weight[k] = fresh_head(head.in_features, seed, k, init)
        if head.bias is not None:
            head.bias.zero_()
    return reward


def _fresh_classifier(backbone: nn.Module, members: int, seed: int) -> nn.Module:
    """A float32 classifier of a backbone's family with K labels, its own weights drawn from a seed."""
    from transformers import AutoModelForSequenceClassification

    base = getattr(backbone, "base_model", None)
    require(isinstance(base, nn.Module), "backbone", type(backbone).__name__, "a transformers model")
    config = with_labels(backbone.config, members)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return AutoModelForSequenceClassification.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
        except ValueError as error:
            mend = "a backbone whose family has a sequence classification model in transformers"
            raise ValueError(f"family of the backbone = {config.model_type!r}: give {mend}") from error


def fresh_head(width: int, seed: int, k: int = 0, init: float = 1.0) -> torch.Tensor:
    """Head k's initial weights (D,), std init/sqrt(D + 1), from a stream of its own."""
    noise = torch.Generator().manual_seed(stream_seed(seed, "head", k))
    return init * torch.randn(width, generator=noise) / math.sqrt(width + 1)


def activations_per_token(config: object) -> int:
    """Floats that a token of a model of this config needs at a time while it is scored, at most."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return 6 * config.hidden_size + 3 * inner + 256 * config.num_attention_heads
