"""LoRA members: one base, K low-rank adapters, each with a head of its own.

`W' = W + (alpha / rank) B A`, A (rank, in) random, B (out, rank) zero (Hu et al. 2106.09685). Zhang et al.
2401.16635 train in two stages, because a base that has never seen a reward is a poor one to adapt: first the
encoder with K linear heads on a part of the pairs, then an adapter and a head per member on the rest. With
`stage1 = 0` it is one stage on all the pairs: the control at equal data.

On disk a member is a plain PEFT adapter folder, beside the base's plain Hugging Face folder. PEFT itself is not
needed here: training and scoring run on merged weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from rmlab.fast.packed import depth_of
from rmlab.fast.prefix import Edits, read_pairs
from rmlab.recipe import Training, require, stream_seed
from rmlab.reward.model import from_backbone, with_heads
from rmlab.reward.training import PairIds, descend, train, whose
from rmlab.reward.variants import Variants

TARGETS = "all-linear"  # every matrix inside the blocks
# PEFT's options that make an adapter something else than W' = W + (alpha / rank) B A
PEFT_ONLY = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layer_replication")


def lora(
    backbone: nn.Module, pairs: PairIds, training: Training, seed: int, k: int = 5, rank: int = 8, alpha: float = 16.0,
    targets: str | Sequence[str] = TARGETS, lora_layers: int = 0, stage1: float = 0.0, rate: float = 5.0, tick=None,
    precision: str = "fp32",
) -> LoraModel:  # fmt: skip
    """Train K adapters, each with its own head, data order and streams.

    Parameters
    ----------
    rank, alpha : of the adapters
    targets : names of the matrices to adapt as they end (`q_proj`, `down_proj`, ...), or "all-linear"
    lora_layers : adapt the last m layers only, so that members share what is below; 0 for all
    stage1 : share of the pairs, the first ones, on which the encoder is trained first, with K heads; 0 for none
    rate : the adapters' learning rate, in units of the recipe's

    Returns
    -------
    LoraModel; member k's numbers depend on k and the seed, and, without stage 1, not on K.
    """
    import dataclasses

    require(0 <= stage1 < 1, "stage1", stage1, "a share of the pairs from 0 up to 1")
    first = round(stage1 * len(pairs))
    base = from_backbone(backbone, k, seed)
    if first:
        train(base, pairs.take(range(first)), training, seed, tick, precision)
    heads = base.model.score.weight.detach().clone()
    rest = pairs.take(range(first, len(pairs)))
    for weight in base.model.parameters():
        weight.requires_grad_(False)
    own = dataclasses.replace(training, lr=training.lr * rate)
    members = []
    for i in range(k):
        adapter = Adapter.fresh(base.trunk, rank, alpha, targets, lora_layers, stream_seed(seed, "lora", i))
        head = nn.Parameter(heads[i].clone())

        def hidden(batch: PairIds, adapter: Adapter = adapter) -> torch.Tensor:
            return read_pairs(
                base.model, batch.prompts, batch.chosen, batch.rejected, adapter.merged(base.trunk)
            )

        def score(read: torch.Tensor, head: torch.Tensor = head) -> torch.Tensor:
            return read.float() @ head[:, None]

        groups = [{"params": adapter.parameters(), "weight_decay": 0.0}, {"params": [head], "weight_decay": training.weight_decay}]  # fmt: skip
        with whose(f"member {i} at rate = {rate} x training.lr"):
            descend(rest, own, stream_seed(seed, "lora order", i), groups, hidden, score, tick, precision, device=base.centre.device)  # fmt: skip
        members.append((adapter.detached(), head.detach()))
    made = LoraModel(
        with_heads(base.model, torch.zeros(1, heads.shape[1])),
        [a for a, _ in members],
        torch.stack([h for _, h in members]),
    )
    made.untrained = 0 if first else sum(p.numel() for p in base.trunk.parameters())
    return made


class Adapter:
    """Low-rank changes to some of a trunk's matrices: name -> (A (rank, in), B (out, rank))."""

    def __init__(self, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], rank: int, alpha: float):
        self.pairs, self.rank, self.alpha = pairs, rank, alpha

    @classmethod
    def fresh(cls, trunk: nn.Module, rank: int, alpha: float, targets: str | Sequence[str], lora_layers: int, seed: int) -> Adapter:  # fmt: skip
        """A drawn uniformly as PEFT draws it (Kaiming, a = sqrt 5), B zero: the adapter starts as the base."""
        require(rank >= 1, "rank", rank, "at least 1")
        depth = trunk.config.num_hidden_layers
        require(
            0 <= lora_layers <= depth, "lora_layers", lora_layers, f"0 (all) to {depth}, the last m layers"
        )
        first = depth - lora_layers if lora_layers else 0
        ends = (targets,) if isinstance(targets, str) else tuple(targets)
        noise = torch.Generator().manual_seed(seed)
        pairs = {}
        for name, weight in trunk.named_parameters():
            layer = depth_of(name)
            if layer is None or layer < first or weight.ndim != 2:
                continue
            if targets != TARGETS and not name.removesuffix(".weight").endswith(ends):
                continue
            out, into = weight.shape
            bound = 1 / math.sqrt(into)
            drawn = torch.rand(rank, into, generator=noise) * 2 * bound - bound
            pairs[name] = tuple(nn.Parameter(w.to(weight.device)) for w in (drawn, torch.zeros(out, rank)))
        if not pairs:
            raise ValueError(
                f"targets = {targets!r}: no matrix of the model ends so; give names such as q_proj or '{TARGETS}'"
            )
        return cls(pairs, rank, alpha)

    def parameters(self) -> list[torch.Tensor]:
        return [w for pair in self.pairs.values() for w in pair]

    def merged(self, trunk: nn.Module) -> Edits:
        """The adapted matrices, W + (alpha / rank) B A."""
        weights, scale = dict(trunk.named_parameters()), self.alpha / self.rank
        return {n: torch.addmm(weights[n], b, a, alpha=scale) for n, (a, b) in self.pairs.items()}

    def detached(self) -> Adapter:
        return Adapter(
            {n: (a.detach(), b.detach()) for n, (a, b) in self.pairs.items()}, self.rank, self.alpha
        )


class LoraModel(Variants):
    """K adapters on one base: see `Variants` for scoring.

    Parameters
    ----------
    model : the base, a sequence classification model with one label
    adapters : K of them; heads (K, D)
    """

    def __init__(self, model: nn.Module, adapters: list[Adapter], heads: torch.Tensor):
        super().__init__(model, len(adapters))
        require(heads.shape == (len(adapters), model.config.hidden_size), "heads", tuple(heads.shape), f"({len(adapters)}, {model.config.hidden_size}), a head of the encoder's width each")  # fmt: skip
        self.adapters, self.heads = adapters, heads.to(self.centre.device)

    def edits(self, k: int) -> Edits:
        with torch.no_grad():
            return self.adapters[k].merged(self.trunk)

    def size(self) -> int:
        adapters = sum(w.numel() for a in self.adapters for w in a.parameters())
        return sum(p.numel() for p in self.trunk.parameters()) + adapters + self.heads.numel()

    def save(self, folder: str | Path) -> None:
        """`base/` (a Hugging Face folder), `member_0/`, `member_1/`, ... (PEFT folders, each with the base's hash)."""
        from safetensors.torch import save_file

        folder, prefix = Path(folder), self.model.base_model_prefix
        self.model.config.rmlab_members = {"centre": self.centre.tolist(), "scale": self.scale.tolist()}
        self.model.save_pretrained(str(folder / "base"))
        named = fingerprint(self.model)
        for k, adapter in enumerate(self.adapters):
            at = folder / f"member_{k}"
            at.mkdir(parents=True, exist_ok=True)
            weights = {}
            for name, pair in adapter.pairs.items():
                stem = f"base_model.model.{prefix}.{name.removesuffix('.weight')}"
                weights |= {
                    f"{stem}.lora_{w}.weight": x.detach().contiguous()
                    for w, x in zip("AB", pair, strict=True)
                }
            weights["base_model.model.score.weight"] = self.heads[k : k + 1].clone()
            save_file(weights, at / "adapter_model.safetensors", {"format": "pt", "base": named})
            names = sorted({n.removesuffix(".weight").split(".", 2)[2] for n in adapter.pairs})
            config = {
                "peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "../base", "inference_mode": True,
                "r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": names,
                "layers_to_transform": sorted({depth_of(n) for n in adapter.pairs}), "modules_to_save": ["score"],
                "fan_in_fan_out": False, "init_lora_weights": True,
            }  # fmt: skip
            (at / "adapter_config.json").write_text(json.dumps(config, indent=1))

    @classmethod
    def load(cls, folder: str | Path, members: Sequence[str | Path] | None = None) -> LoraModel:
        """Read `base/` and its member folders (or those named, each a PEFT folder made for that base).

        Raises
        ------
        ValueError
            No member, a folder twice, an adapter made for another base, a head of the wrong width, a PEFT option that
            is not plain LoRA's.
        """
        from transformers import AutoModelForSequenceClassification

        folder = Path(folder)
        model = AutoModelForSequenceClassification.from_pretrained(str(folder / "base"), dtype=torch.float32)
        stored = getattr(model.config, "rmlab_members", None)
        listed = sorted(folder.glob("member_*"), key=lambda p: int(p.name.split("_")[1]))
        chosen = [Path(m) for m in members] if members is not None else listed
        require(len(chosen) > 0, "members", [str(c) for c in chosen], f"at least one adapter folder beside {folder / 'base'}")  # fmt: skip
        real = [c.resolve() for c in chosen]
        twice = sorted({str(c) for c in real if real.count(c) > 1})
        require(not twice, "members", twice, "every adapter folder once")
        named, read = fingerprint(model), [_read(c, model) for c in chosen]
        for at, (_, _, base) in zip(chosen, read, strict=True):
            require(base in {None, named}, f"base hash of {at}", base and base[:12], f"an adapter made for this base, {named[:12]}")  # fmt: skip
        if stored and members is None:
            saved = len(stored["centre"])
            require(saved == len(chosen), "members", len(chosen), f"the {saved} that were saved: other member folders in {folder} are of another model")  # fmt: skip
        made = cls(model, [a for a, _, _ in read], torch.stack([h for _, h, _ in read]))
        if stored and members is None:
            made.centre, made.scale = torch.tensor(stored["centre"]), torch.tensor(stored["scale"])
        return made


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a base's trunk: what an adapter was made for."""
    trunk = getattr(model, model.base_model_prefix).state_dict()
    parts = (
        n.encode() + trunk[n].detach().cpu().contiguous().float().numpy().tobytes() for n in sorted(trunk)
    )
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _read(folder: Path, model: nn.Module) -> tuple[Adapter, torch.Tensor, str | None]:
    """A PEFT folder as (adapter, head (D,), hash of the base it was made for, or None where PEFT wrote it)."""
    from safetensors import safe_open

    config = json.loads((folder / "adapter_config.json").read_text())
    start = f"base_model.model.{model.base_model_prefix}."
    weights, pairs = dict(getattr(model, model.base_model_prefix).named_parameters()), {}
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name).float() for name in file.keys()}
        base = (file.metadata() or {}).get("base")
    for option in PEFT_ONLY:
        require(not config.get(option), f"{option} of {folder}", config.get(option), "an adapter without it")
    init = config.get("init_lora_weights", True)
    require(init in (True, False, "gaussian"), f"init_lora_weights of {folder}", init, "one that leaves the base as it is, such as True")  # fmt: skip
    head, wide = stored.pop("base_model.model.score.weight", None), model.config.hidden_size
    shape = None if head is None else tuple(head.shape)
    require(
        shape == (1, wide), f"score.weight of {folder}", shape, f"a head (1, {wide}), as wide as the base"
    )
    for name in sorted(n for n in stored if n.endswith(".lora_A.weight")):
        matrix = name.removeprefix(start).removesuffix(".lora_A.weight") + ".weight"
        a, b = stored.pop(name), stored.pop(name.replace(".lora_A.", ".lora_B."))
        require(config["r"] == len(a), f"r of {folder}", config["r"], f"the rank of its matrices, {len(a)}")
        fits = matrix in weights and weights[matrix].shape == (len(b), a.shape[1])
        require(
            fits,
            f"{matrix} of {folder}",
            (len(b), a.shape[1]),
            "an adapter made for this base: its matrices differ",
        )
        pairs[matrix] = (a, b)
    require(
        not stored,
        f"tensors of {folder}",
        sorted(stored)[:3],
        "an adapter of the blocks' matrices, and its head",
    )
    return Adapter(pairs, config["r"], config["lora_alpha"]), head[0], base
