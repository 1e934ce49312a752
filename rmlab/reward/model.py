"""The reward model: K linear heads on one transformer, as a plain Hugging Face folder.

The model is `AutoModelForSequenceClassification` with `num_labels=K`, K = 1 included: anyone can load its
folder without rmlab and gets the raw scores as its logits. Each head may be a network of its own
(`MlpHeads`): such a folder needs rmlab, and its linear head is NaN so that nobody mistakes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from rmlab.fast.prefix import open_prompts
from rmlab.fast.rows import read_ends, read_pairs
from rmlab.recipe import require, stream_seed
from rmlab.reward.ensemble import Ids, Read, RewardEnsemble
from rmlab.reward.folder import read_tensors
from rmlab.tokens import SpecialTokens

MLP_FILE = "mlp_heads.safetensors"


class RewardModel(RewardEnsemble):
    """K heads on one transformer: build one with `from_backbone`, or `load` one.

    Parameters
    ----------
    model : a Hugging Face sequence classification model whose head is the linear `score` (K, D), without a
        bias
    mlp : heads with a hidden layer, in the place of `score`
    """

    format = "heads"

    def __init__(self, model: nn.Module, mlp: MlpHeads | None = None):
        require_linear_head(model)
        super().__init__(model.config.num_labels, SpecialTokens.of(model), next(model.parameters()).device)
        count = self.members if mlp is None else len(mlp.second)
        require(count == self.members, "mlp", f"{count} heads", f"{self.members}, as the model has labels")
        self.model, self.mlp = model.eval(), None if mlp is None else mlp.to(self.centre.device)

    @property
    def trunk(self) -> nn.Module:
        """The transformer under the heads."""
        return getattr(self.model, self.model.base_model_prefix)

    def raw_forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Raw scores of whole rows, ids and mask (B, T) -> (B, K) float32."""
        return self.head(read_ends(self.trunk, ids, mask))

    def raw_pair_scores(self, prompts: Ids, chosen: Ids, rejected: Ids) -> torch.Tensor:
        """Raw scores of B chosen, then B rejected answers, (2B, K); gradients flow."""
        return self.head(read_pairs(self.model, prompts, chosen, rejected))

    def prompt_scorer(self, prompts: torch.Tensor, max_new_tokens: int) -> Read:
        """Raw scores (R, K) of answers on their prompts' cache."""
        read = open_prompts(self.model, prompts, max_new_tokens)
        return lambda ids, lengths: self.head(read(ids, lengths))

    def floats_per_token(self) -> int:
        """Floats that a scored token needs at a time, at most."""
        return activations_per_token(self.model.config)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., D) -> raw scores (..., K), in float32 whatever the trunk runs in."""
        if self.mlp is not None:
            return self.mlp(hidden.float())
        return hidden.float() @ self.model.score.weight.float().T

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The heads' own parameters."""
        return (self.model.score if self.mlp is None else self.mlp).parameters()

    def _subset(self, members: list[int]) -> RewardModel:
        few = with_heads(self.model, self.model.score.weight[members])
        return RewardModel(few, None if self.mlp is None else self.mlp.subset(members))

    def _write_weights(self, folder: Path) -> dict:
        self.model.save_pretrained(str(folder))
        if self.mlp is not None:
            weights = {n: p.detach().cpu().contiguous() for n, p in self.mlp.named_parameters()}
            save_file(weights, folder / MLP_FILE)
        return {}

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> RewardModel:
        """Read a folder that `save` wrote, or any sequence classification model with a linear `score` head.

        Raises
        ------
        ValueError
            Weights that are missing, unexpected, cut or of another shape; another kind of head; heads that
            are copies.
        """
        model, path = load_classifier(folder, dtype), Path(folder) / MLP_FILE
        require_linear_head(model)
        reward = cls(model, MlpHeads.of(read_tensors(path), path) if path.is_file() else None)
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


def from_backbone(backbone: nn.Module, members: int, seed: int, init: float = 1.0) -> RewardModel:
    """K fresh heads on a copy of a language model's trunk.

    Head k is drawn from its own stream, with std init/sqrt(D + 1) (Stiennon et al. 2020 with init = 1), so
    members differ from the start and head k does not depend on K.
    """
    from transformers import AutoModelForSequenceClassification

    require(members >= 1, "members", members, "at least 1")
    config = _config(backbone.config, members)
    model = AutoModelForSequenceClassification.from_config(config).to(next(backbone.parameters()).dtype)
    require_linear_head(model)
    trunk = getattr(backbone, backbone.base_model_prefix).state_dict()
    names = getattr(model, model.base_model_prefix).load_state_dict(trunk, strict=False)
    other = sorted(names.missing_keys + names.unexpected_keys)
    require(
        not other,
        "backbone",
        other[:3],
        "a plain model of its family: these weights are not its classifier's",
    )
    with torch.no_grad():
        for k in range(members):
            model.score.weight[k] = fresh_head(config.hidden_size, seed, k, init)
    return RewardModel(model.to(next(backbone.parameters()).device))


def fresh_head(width: int, seed: int, k: int = 0, init: float = 1.0) -> torch.Tensor:
    """Head k's initial weights (D,), std init/sqrt(D + 1), from a stream of its own."""
    noise = torch.Generator().manual_seed(stream_seed(seed, "head", k))
    return init * torch.randn(width, generator=noise) / math.sqrt(width + 1)


def with_heads(model: nn.Module, heads: torch.Tensor) -> nn.Module:
    """The same trunk, shared and not copied, under the linear heads (K, D)."""
    from transformers import AutoModelForSequenceClassification

    trunk = getattr(model, model.base_model_prefix)
    wide = trunk.config.hidden_size
    require(heads.shape[1:] == (wide,), "heads", tuple(heads.shape), f"(K, {wide}), as wide as the encoder")
    with torch.device("meta"):  # its own trunk is never used
        classifier = AutoModelForSequenceClassification.from_config(_config(model.config, len(heads)))
    setattr(classifier, classifier.base_model_prefix, trunk)
    classifier.score = nn.Linear(wide, len(heads), bias=False)
    classifier.score.weight.data = heads.detach().to(next(trunk.parameters())).clone()
    return classifier


def load_classifier(folder: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A sequence classification model from a folder or the hub: safetensors alone, and none of its code.

    Raises a `ValueError` that names the folder and what is missing, unexpected, cut or of another shape.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    strict = {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            str(folder), dtype=dtype, output_loading_info=True, **strict
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: cannot be read ({error}); give a whole folder, with safetensors"
        ) from error
    for name, stored, expected in sorted(report["mismatched_keys"])[:1]:
        wide = f"{tuple(expected)}, as its config says"
        require(False, f"{name} of {folder}", tuple(stored), wide)
    for problem in ("missing", "unexpected"):
        names = sorted(report[f"{problem}_keys"])
        mend = "a folder with exactly the weights of its config's model"
        require(not names, f"{problem} weights of {folder}", names[:3], mend)
    return model


def require_linear_head(model: nn.Module) -> None:
    """Raise a `ValueError` unless a classifier's head is one matrix, `score.weight` (K, D)."""
    head = getattr(model, "score", None)
    head = getattr(head, "original_module", head)  # PEFT's wrapper around a head that it saved
    plain = isinstance(head, nn.Linear) and head.bias is None
    mend = "one of a decoder family, the linear `score` without a bias"
    require(plain, f"head of {type(model).__name__}", type(head).__name__, mend)


def activations_per_token(config: object) -> int:
    """Floats that a token of a model of this config needs at a time while it is scored, at most."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return 6 * config.hidden_size + 3 * inner + 256 * config.num_attention_heads


def _config(config: object, labels: int) -> object:
    """A copy of a model's configuration with K labels."""
    plain = {k: v for k, v in config.to_dict().items() if k not in {"id2label", "label2id", "num_labels"}}
    return type(config).from_dict({**plain, "num_labels": labels})
