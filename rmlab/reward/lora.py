"""LoRA members: one base, K low-rank adapters, each with a head of its own.

`W' = W + (alpha / rank) B A`, A (rank, in) random, B (out, rank) zero (Hu et al. 2106.09685). Zhang et al.
2401.16635 train in two stages, because a base that has never seen a reward is a poor one to adapt: first the
encoder with K linear heads on a part of the pairs, then an adapter and a head per member on the rest. With
`stage1 = 0` it is one stage on all the pairs: the control at equal data.

On disk a member is a plain PEFT adapter folder, beside the base's plain Hugging Face folder. PEFT itself is
not needed here: training and scoring run on merged weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from rmlab.fast.packed import depth_of
from rmlab.fast.plain import Edits
from rmlab.fast.rows import read_pairs
from rmlab.recipe import Training, require, stream_seed
from rmlab.reward.classifier import load_classifier, require_linear_head, with_heads
from rmlab.reward.folder import numbered, read_card, read_json, read_tensors, require_distinct, write_card
from rmlab.reward.methods import TrainingInputs
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import PairIds, error_context, fit
from rmlab.reward.training import train as train_model
from rmlab.reward.variants import Variants

TARGETS = "all-linear"  # every matrix inside the blocks
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# PEFT's fields that say nothing of the numbers, or that are read here; any other one must be empty
PLAIN_FIELDS = set(
    "auto_mapping base_model_name_or_path bias exclude_modules inference_mode init_lora_weights "
    "layers_pattern layers_to_transform lora_alpha lora_dropout megatron_core modules_to_save peft_type "
    "peft_version qalora_group_size r revision target_modules task_type".split()
)
STARTS_AS_BASE = (True, False, "gaussian")  # init_lora_weights that leave the base's own weights as they are


def train(
    inputs: TrainingInputs,
    k: int = 5,
    rank: int = 8,
    alpha: float = 16.0,
    targets: str | Sequence[str] = TARGETS,
    lora_layers: int = 0,
    stage1: float = 0.0,
    rate: float = 5.0,
    epochs: int | None = None,
) -> LoraModel:
    """Train K adapters, each with its own head, data order and streams.

    Parameters
    ----------
    rank, alpha : of the adapters
    targets : names of the matrices to adapt as they end (`q_proj`, `down_proj`, ...), or "all-linear"
    lora_layers : adapt the last m layers only, so that members share what is below; 0 for all
    stage1 : share of the pairs, the first ones, on which the encoder is trained first, with K heads; 0 for
        none
    rate : the adapters' learning rate, in units of the recipe's
    epochs : other epochs than the recipe's, in either stage

    Returns
    -------
    LoraModel; member k's numbers depend on k and the seed, and, without stage 1, not on K.
    """
    require(0 <= stage1 < 1, "stage1", stage1, "a share of the pairs from 0 up to 1")
    pairs, training, seed = inputs.pairs, inputs.training_for(epochs), inputs.seed_of()
    first = round(stage1 * len(pairs))
    base = from_backbone(inputs.backbones[0], k, seed)
    require_linear_head(base.model)
    if first:
        train_model(base, pairs.take(range(first)), training, seed, precision=inputs.precision)
    heads = base.model.score.weight.detach().float().clone()
    rest = pairs.take(range(first, len(pairs)))
    base.requires_grad_(False)
    own = dataclasses.replace(training, lr=training.lr * rate)
    adapters = []
    for i in range(k):
        adapter = Adapter.fresh(base.trunk, rank, alpha, targets, lora_layers, stream_seed(seed, "lora", i))
        with error_context(f"member {i} at rate = {rate} x training.lr"):
            order = stream_seed(seed, "lora order", i)
            heads[i] = train_adapter(base, adapter, heads[i], rest, own, order, inputs.precision)
        adapters.append(adapter)
    model = LoraModel(with_heads(base.model, torch.zeros(1, heads.shape[1])), adapters, heads)
    model.untrained = 0 if first else sum(p.numel() for p in base.trunk.parameters())
    return model


def train_adapter(
    base: RewardModel,
    adapter: Adapter,
    head: torch.Tensor,
    pairs: PairIds,
    training: Training,
    seed: int,
    precision: str = "fp32",
) -> torch.Tensor:
    """Train an adapter of a fixed base, in place, with a head (D,); returns the trained head."""
    head = nn.Parameter(head.clone())

    def hidden(batch: PairIds) -> torch.Tensor:
        edits = adapter.merged(base.trunk)
        return read_pairs(base.model, batch.prompts, batch.chosen, batch.rejected, edits)

    def score(states: torch.Tensor) -> torch.Tensor:
        return states.float() @ head[:, None]

    groups = [
        {"params": list(adapter.parameters()), "weight_decay": 0.0},
        {"params": [head], "weight_decay": training.weight_decay},
    ]
    fit(pairs, training, seed, groups, hidden, score, precision=precision, trunk=base.model)
    return head.detach()


def relative_cost(
    adapter_fraction: Callable[[int, int], float],
    k: int = 5,
    rank: int = 8,
    lora_layers: int = 0,
    stage1: float = 0.0,
) -> tuple[float, float, float]:
    """A training a member on its share of the pairs, K passes to score, a model and K adapters to hold."""
    return stage1 + k * (1 - stage1), k, 1 + k * adapter_fraction(rank, lora_layers)


def load(folder: str | Path) -> LoraModel:
    """Read the folder of LoRA members and their base."""
    return LoraModel.load(folder)


class Adapter(nn.Module):
    """Low-rank changes to matrices of a trunk: `pairs` is name -> (A (rank, in), B (out, rank)).

    Parameters
    ----------
    pairs : the matrices by the trunk's parameter that they change
    rank, alpha : the change is (alpha / rank) B A
    """

    def __init__(self, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], rank: int, alpha: float):
        super().__init__()
        self.names, self.rank, self.alpha = list(pairs), rank, alpha
        self.first = nn.ParameterList([a for a, _ in pairs.values()])
        self.second = nn.ParameterList([b for _, b in pairs.values()])

    @property
    def pairs(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The matrices (A, B) by name."""
        return dict(zip(self.names, zip(self.first, self.second, strict=True), strict=True))

    @classmethod
    def fresh(
        cls,
        trunk: nn.Module,
        rank: int,
        alpha: float,
        targets: str | Sequence[str],
        lora_layers: int,
        seed: int,
    ) -> Adapter:
        """A drawn uniformly as PEFT draws it (Kaiming, a = sqrt 5), B zero: the adapter starts as the base.

        Raises a `ValueError` for a target that no matrix's name ends in.
        """
        require(rank >= 1, "rank", rank, "at least 1")
        depth = trunk.config.num_hidden_layers
        in_range = 0 <= lora_layers <= depth
        require(in_range, "lora_layers", lora_layers, f"0 (all) to {depth}, the last m layers")
        first = depth - lora_layers if lora_layers else 0
        ends = (targets,) if isinstance(targets, str) else tuple(targets)
        layers = {n: depth_of(n) for n, w in trunk.named_parameters() if w.ndim == 2}
        names = [
            n.removesuffix(".weight") for n, layer in layers.items() if layer is not None and layer >= first
        ]
        mend = "a decoder family whose blocks are its trunk's `layers`"
        require(len(names) > 0, "model", type(trunk).__name__, mend)
        known = ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
        for end in () if targets == TARGETS else ends:
            hit = any(name.endswith(end) for name in names)
            require(hit, "targets", end, f"ends of matrices' names, such as {known}, or '{TARGETS}'")
        noise = torch.Generator().manual_seed(seed)
        pairs = {}
        for name in names:
            if targets != TARGETS and not name.endswith(ends):
                continue
            weight = trunk.get_parameter(f"{name}.weight")
            out, into = weight.shape
            bound = 1 / math.sqrt(into)
            uniform = torch.rand(rank, into, generator=noise) * 2 * bound - bound
            pairs[f"{name}.weight"] = tuple(w.to(weight.device) for w in (uniform, torch.zeros(out, rank)))
        return cls(pairs, rank, alpha)

    def merged(self, trunk: nn.Module) -> Edits:
        """The adapted matrices, W + (alpha / rank) B A, in the type of W."""
        weights, scale = dict(trunk.named_parameters()), self.alpha / self.rank
        edits = {}
        for name, (a, b) in self.pairs.items():
            whole = weights[name]
            edits[name] = torch.addmm(whole.float(), b.float(), a.float(), alpha=scale).to(whole.dtype)
        return edits


class LoraModel(Variants):
    """K adapters on one base: see `Variants` for scoring.

    Parameters
    ----------
    model : the base, a sequence classification model with one label
    adapters : K of them
    heads : (K, D)
    """

    format = "lora"

    def __init__(self, model: nn.Module, adapters: Sequence[Adapter], heads: torch.Tensor):
        super().__init__(model, len(adapters))
        shape = (len(adapters), model.score.in_features)
        mend = f"{shape}, a head of the encoder's width each"
        require(heads.shape == shape, "heads", tuple(heads.shape), mend)
        self.adapters = nn.ModuleList(adapters).requires_grad_(False)
        self.heads = nn.Parameter(heads.detach().to(self.centre.device), requires_grad=False)

    def edits(self, k: int) -> Edits:
        """Member k's adapted matrices, by name."""
        with torch.no_grad():
            return self.adapters[k].merged(self.trunk)

    def parameter_count(self) -> int:
        """Numbers of the trunk, the adapters and the heads."""
        held = (self.trunk, self.adapters)
        return sum(p.numel() for module in held for p in module.parameters()) + self.heads.numel()

    def _subset(self, members: list[int]) -> LoraModel:
        return LoraModel(self.model, [self.adapters[m] for m in members], self.heads[members])

    def _write_weights(self, folder: Path) -> dict:
        """`base/` (Hugging Face), `member_0/`, `member_1/`, ... (PEFT; their cards hold the base's hash)."""
        self.model.save_pretrained(str(folder / "base"))
        base = base_hash(self.model)
        for k, adapter in enumerate(self.adapters):
            at = folder / f"member_{k}"
            at.mkdir()
            write_adapter(at, adapter, self.heads[k], self.model.base_model_prefix)
            write_card(at, {"base": base})
        return {}

    @classmethod
    def load(cls, folder: str | Path, members: Sequence[int | str | Path] | None = None) -> LoraModel:
        """Read `base/` and its member folders, with their alignment.

        members : which, by number; or PEFT folders made for that base, which have no alignment

        Raises
        ------
        ValueError
            No member, a member twice or a copy, an adapter made for another base, untrained or not plain
            LoRA, a head of the wrong width, weights that are missing, unexpected or cut.
        """
        folder = Path(folder)
        model, saved = load_classifier(folder / "base"), numbered(folder, "member")
        require_linear_head(model)
        every = range(len(saved)) if members is None else members
        chosen = [folder / f"member_{m}" if isinstance(m, int) else Path(m) for m in every]
        mend = f"at least one adapter folder beside {folder / 'base'}"
        require(len(chosen) > 0, "members", [str(c) for c in chosen], mend)
        real = [c.resolve() for c in chosen]
        twice = sorted({str(c) for c in real if real.count(c) > 1})
        require(not twice, "members", twice, "every adapter folder once")
        base, adapters, heads = base_hash(model), [], []
        for at in chosen:
            adapter, head = read_adapter(at, model)
            stored = (read_card(at) or {}).get("base")
            mend = f"an adapter made for this base, {base[:12]}"
            require(stored in {None, base}, f"base hash of {at}", stored, mend)
            adapters.append(adapter)
            heads.append(head)
        require_distinct(chosen, "members")
        lora = cls(model, adapters, torch.stack(heads))
        numbers = {path.resolve(): k for k, path in enumerate(saved)}
        if all(path in numbers for path in real):
            lora.restore_alignment(folder, None if members is None else [numbers[path] for path in real])
        return lora


def base_hash(model: nn.Module) -> str:
    """SHA-256 of a base's trunk: what an adapter was made for."""
    trunk = getattr(model, model.base_model_prefix).state_dict()
    digest = hashlib.sha256()
    for name in sorted(trunk):
        digest.update(name.encode() + trunk[name].detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def write_adapter(folder: Path, adapter: Adapter, head: torch.Tensor, prefix: str) -> None:
    """Write a PEFT folder: an adapter of the trunk that a model holds as `prefix`, and a head (D,)."""
    weights = {}
    for name, pair in adapter.pairs.items():
        stem = f"base_model.model.{prefix}.{name.removesuffix('.weight')}"
        for letter, matrix in zip("AB", pair, strict=True):
            weights[f"{stem}.lora_{letter}.weight"] = matrix.detach().cpu().contiguous()
    weights["base_model.model.score.weight"] = head.detach().cpu()[None].clone()
    save_file(weights, folder / ADAPTER, {"format": "pt"})  # of several keys the order would be random
    names = sorted({n.removesuffix(".weight").split(".", 2)[2] for n in adapter.pairs})
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "../base",
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": names,
        "layers_to_transform": sorted({depth_of(n) for n in adapter.pairs}),
        "modules_to_save": ["score"],
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1))


def read_adapter(folder: Path, model: nn.Module) -> tuple[Adapter, torch.Tensor]:
    """A PEFT folder as an adapter of a model's trunk, and its head (D,)."""
    config, stored = read_json(folder / CONFIG), read_tensors(folder / ADAPTER)
    stored = {name: tensor.float() for name, tensor in stored.items()}
    for name, value in config.items():
        mend = "an adapter without it: plain LoRA, W + (alpha / r) B A"
        require(name in PLAIN_FIELDS or not value, f"{name} of {folder}", value, mend)
    init, rank, alpha = (config.get(n) for n in ("init_lora_weights", "r", "lora_alpha"))
    mend = "one that leaves the base as it is, such as True"
    require(init is None or init in STARTS_AS_BASE, f"init_lora_weights of {folder}", init, mend)
    numbers = all(isinstance(x, int | float) and x > 0 for x in (rank, alpha))
    require(numbers, f"r and lora_alpha of {folder}", (rank, alpha), "two numbers above 0")
    head, wide = stored.pop("base_model.model.score.weight", None), model.score.in_features
    shape = None if head is None else tuple(head.shape)
    require(
        shape == (1, wide), f"score.weight of {folder}", shape, f"a head (1, {wide}), as wide as the base"
    )
    trunk, pairs = getattr(model, model.base_model_prefix), {}
    weights, start = dict(trunk.named_parameters()), f"base_model.model.{model.base_model_prefix}."
    for name in sorted(n for n in stored if n.endswith(".lora_A.weight")):
        matrix = name.removeprefix(start).removesuffix(".lora_A.weight") + ".weight"
        a, b = stored.pop(name), stored.pop(name.replace(".lora_A.", ".lora_B."), None)
        require(b is not None, f"lora_B of {folder}", f"none for {matrix}", "both matrices of a change")
        require(rank == len(a), f"r of {folder}", rank, f"the rank of its matrices, {len(a)}")
        size = (len(b), a.shape[1])
        fits = matrix in weights and weights[matrix].shape == size
        require(fits, f"{matrix} of {folder}", size, "an adapter made for this base: its matrices differ")
        pairs[matrix] = (a, b)
    mend = "an adapter of the blocks' matrices, and its head"
    require(not stored, f"tensors of {folder}", sorted(stored)[:3], mend)
    trained = any(bool(b.any()) for _, b in pairs.values())
    require(trained, f"lora_B of {folder}", "zero in every matrix", "an adapter that was trained")
    return Adapter(pairs, rank, alpha), head[0]
