"""A sequence classification model of transformers: which layer is its head, and what is read in front of it.

Decoder families end in one matrix, `score`, on the last token's hidden state: their trunk is read as any other's. The
others (BERT, ModernBERT, DeBERTa, T5, heads of several layers) pool and mix before their last linear layer: `Features`
runs all of that as the model's own code does.

Letters: B rows, T tokens, D the width of what the last linear layer reads, K its labels.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from rmlab.fast.plain import trunk_of
from rmlab.fast.rows import read_ends
from rmlab.recipe import require
from rmlab.tokens import SpecialTokens

EXACT, ROUNDED = 1e-4, 3e-2  # of the largest logit: float32's rounding, and bfloat16's


def head_name(model: nn.Module) -> str:
    """The name of a classifier's last linear layer, from which its K logits come.

    Raises a `ValueError` where it ends in none.
    """
    stem = f"{getattr(model, 'base_model_prefix', '')}."
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.startswith(stem)
    ]
    name, width = (layers[-1][0], layers[-1][1].out_features) if layers else (None, None)
    labels = getattr(model.config, "num_labels", None)
    mend = f"a sequence classification model that ends in a linear layer of {labels} outputs, one a label"
    require(width is not None and width == labels, f"head of {type(model).__name__}", (name, width), mend)
    return name


def ends_in_score(model: nn.Module) -> bool:
    """Whether a classifier is its trunk and the linear layer `score`, as those of decoder families are."""
    head = getattr(model, "score", None)
    return isinstance(getattr(head, "original_module", head), nn.Linear)  # PEFT wraps a head that it saved


def require_linear_head(model: nn.Module) -> None:
    """Raise a `ValueError` unless a classifier's head is one matrix, `score.weight` (K, D), on its trunk."""
    name = head_name(model)
    plain = ends_in_score(model) and model.get_submodule(name).bias is None
    mend = (
        "one of a decoder family, the linear `score` without a bias: edits of its trunk are all that changes"
    )
    require(plain, f"head of {type(model).__name__}", name, mend)


def reader_of(model: nn.Module) -> nn.Module:
    """What `rmlab.fast` reads in front of a classifier's head: its trunk, or its `Features`."""
    return model if ends_in_score(model) else Features(model)


class Features(nn.Module):
    """A classifier up to its head, in the place of a trunk: the hidden states that its last linear layer reads.

    Where the classifier pools a row, every token of the row has the row's features.
    """

    base_model_prefix = "base_model"  # it is read as it is

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.config, self.head = model, model.config, head_name(model)
        eos, mend = (
            getattr(model.config, "eos_token_id", None),
            "one EOS: an encoder-decoder family reads at its last place",
        )
        require(isinstance(eos, int) or not model.config.is_encoder_decoder, "eos_token_id", eos, mend)

    @property
    def base_model(self) -> Features:
        """Itself: what `fast.plain.trunk_of` looks for."""
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The classifier's own."""
        return self.model.get_input_embeddings()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, use_cache: bool = False
    ) -> BaseModelOutput:
        """Ids and mask (B, T), padded on the right with anything -> `last_hidden_state` (B, T, D).

        Raises a `ValueError` where an encoder-decoder family is to read a row without an EOS: it reads at the last one.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids = input_ids.masked_fill(mask == 0, self.config.pad_token_id)
        if not self.config.is_encoder_decoder:
            return BaseModelOutput(last_hidden_state=self._read(ids, mask))
        ends, states = (ids == self.config.eos_token_id).sum(1), None
        mend = f"rows that hold the EOS, {self.config.eos_token_id}: {type(self.model).__name__} reads at the last one"
        require(bool((ends > 0).all()), "EOS in a row", 0, mend)
        for count in ends.unique():  # its forward takes rows with as many of them
            rows = ends == count
            part = self._read(ids[rows], mask[rows])
            states = part.new_empty(*ids.shape, part.shape[-1]) if states is None else states
            states[rows] = part
        return BaseModelOutput(last_hidden_state=states)

    def _read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the head reads while the classifier's own forward runs, (B, T, D)."""
        seen: list[torch.Tensor] = []
        head = self.model.get_submodule(self.head)
        hook = head.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            self.model(input_ids=ids, attention_mask=mask)
        finally:
            hook.remove()
        return seen[0] if seen[0].ndim == 3 else seen[0][:, None].expand(-1, ids.shape[1], -1)


@torch.no_grad()
def check_head(model: nn.Module, special: SpecialTokens) -> None:
    """Hold the head on what is read in front of it against the classifier's own logits, on two rows, each alone.

    Raises a `ValueError` where they differ: the model does more to its logits than its last linear layer does, or takes
    padding on the right for the end of a row (XLNet).
    """
    name, training = head_name(model), model.training
    head, eos = model.get_submodule(name), special.eos[0]
    word = next(i for i in range(len(special.eos) + 2) if i not in (special.pad, *special.eos))
    ids = torch.tensor([[word, eos, 0, 0], [word, word, word, eos]], device=head.weight.device)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], device=ids.device)
    model.eval()
    ours = F.linear(read_ends(trunk_of(reader_of(model)), ids, mask), head.weight, head.bias)
    alone = [row[None, real > 0] for row, real in zip(ids, mask, strict=True)]
    own = torch.cat([model(input_ids=row, attention_mask=torch.ones_like(row)).logits for row in alone])
    model.train(training)
    error = (ours - own).abs().max() / own.abs().max().clamp_min(1)
    most = EXACT if head.weight.dtype == torch.float32 else ROUNDED
    mend = "a classifier whose logits are its last linear layer's, whatever padding is on a row's right"
    # a NaN: heads with a hidden layer stand beside it
    require(not error > most, f"logits of {type(model).__name__}", f"{error:.2g} of the largest away", mend)


def with_heads(model: nn.Module, heads: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    """The same classifier under the linear heads (K, D) and their bias (K,): what is before them is shared and not copied."""
    name = head_name(model)
    old, trunk = model.get_submodule(name), getattr(model, model.base_model_prefix)
    wide = old.in_features
    require(heads.shape[1:] == (wide,), "heads", tuple(heads.shape), f"(K, {wide}), as wide as the encoder")
    new = nn.Linear(wide, len(heads), bias=bias is not None, device="meta")
    for at, numbers in (("weight", heads), ("bias", bias)):
        if numbers is not None:
            setattr(new, at, nn.Parameter(numbers.detach().to(old.weight).clone()))
    shared = {id(weight): weight for weight in (*model.parameters(), *model.buffers())}
    classifier = copy.deepcopy(model, {**shared, id(trunk): trunk, id(old): new})
    classifier.config, classifier.num_labels = with_labels(model.config, len(heads)), len(heads)
    return classifier


def with_labels(config: PretrainedConfig, labels: int) -> PretrainedConfig:
    """A copy of a model's configuration with K labels."""
    plain = {k: v for k, v in config.to_dict().items() if k not in {"id2label", "label2id", "num_labels"}}
    return type(config).from_dict({**plain, "num_labels": labels})


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
        reason = str(error).strip().split("\n")[0]
        mend = "give a whole folder, with safetensors, of a family that has a sequence classification model"
        raise ValueError(f"{folder}: cannot be read ({reason}); {mend}") from error
    for name, stored, expected in sorted(report["mismatched_keys"])[:1]:
        wide = f"{tuple(expected)}, as its config says"
        require(False, f"{name} of {folder}", tuple(stored), wide)
    for problem in ("missing", "unexpected"):
        names = sorted(report[f"{problem}_keys"])
        mend = "a folder with exactly the weights of its config's model"
        require(not names, f"{problem} weights of {folder}", names[:3], mend)
    return model
