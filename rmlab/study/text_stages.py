"""Stages of a text study where the sandbox trains or draws: a model from its folder, pairs from the file, the explorer.

Every other stage is that of `stages.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmlab.recipe import Recipe, require, stream, stream_seed
from rmlab.study.results import ExplorerSlice, read_scores
from rmlab.study.text_source import TextSource, folder_digest, require_unchanged, shell_of


def validate_text(recipe: Recipe) -> None:
    """Raise a `ValueError` that names what a recipe wants that its text source does not have."""
    source, study = recipe.source, recipe.ppo_study
    backbones, prompts = len(source.backbones), len(source.for_evaluation.listed)
    mend = f"at most {backbones}, the source's backbones"
    require(
        recipe.replicates.backbones <= backbones, "replicates.backbones", recipe.replicates.backbones, mend
    )
    for name, count in {
        "pool.prompts": recipe.pool.prompts,
        "ppo_study.prompts": study.prompts if study else 0,
    }.items():
        require(
            count <= prompts,
            name,
            count,
            f"at most {prompts}, the held-out prompts that leave room for an answer",
        )
    tokens, mend = (
        study.ppo.max_new_tokens if study else source.max_new_tokens,
        f"the source's, {source.max_new_tokens}",
    )
    require(tokens == source.max_new_tokens, "ppo.max_new_tokens", tokens, mend)
    temperature = recipe.labels.temperature
    require(temperature == 0, "labels.temperature", temperature, "0: the file says which answer is better")


@dataclass(frozen=True)
class LoadModel:
    """A model's folder, and the digest of what it holds."""

    folder: str
    content: str


def load_model(out: Path, settings: LoadModel, policy: Path | None = None) -> None:
    """Write a language model with a tokenizer and a PAD of its own, float32: a copy that says its special tokens itself.

    policy : where it stands, a backbone gets the policy's tokenizer and special tokens, by which the pairs are encoded
    """
    from transformers import GenerationConfig

    from rmlab.backbone import load
    from rmlab.text import ensure_pad

    require_unchanged(settings.folder, folder_digest(settings.folder), settings.content)
    text = shell_of(policy or settings.folder).format
    model, special = load(settings.folder, device="cpu"), text.special
    ensure_pad(model, text.tokenizer)
    ends, banned = list(special.eos), list(special.never_sampled)
    for config in (model.config, model.config.get_text_config()):
        config.eos_token_id = ends
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=special.pad, suppress_tokens=banned
    )
    model.save_pretrained(out)
    text.save(out)


@dataclass(frozen=True)
class EncodePairs:
    """Pairs of a text source as ids: `name` is "heldout", or a label draw, whose name its flips are drawn under.

    count : pairs of a draw, or held-out pairs at most; flips : share of labels turned round
    """

    source: TextSource
    name: str
    count: int
    flips: float
    seed: int


def encode_pairs(out: Path, settings: EncodePairs) -> None:
    """Write `pairs.npz`. A draw is a bootstrap sample of the training groups, as many as give `count` pairs.

    A `ValueError` for draws from a single group, which would all be the same.
    """
    from rmlab.noise import flip_mask
    from rmlab.reward.training import PairIds

    s = settings
    train, heldout = s.source.parts
    rng = stream(s.seed, "pairs", s.name)
    if s.name == "heldout":
        pairs = heldout.encode(s.source.format, s.source.max_length)
        pairs = pairs.take(np.sort(rng.permutation(len(pairs))[: s.count]).tolist())
    else:
        pairs = train.encode(s.source.format, s.source.max_length)
        pairs = pairs.take(group_sample(pairs.groups, s.count, rng))
    turned = flip_mask([f"{s.name}-{i}" for i in pairs.ids], s.flips, stream_seed(s.seed, "flips"))
    sides = list(zip(pairs.chosen, pairs.rejected, turned, strict=True))
    chosen, rejected = ([(pair[1 - i] if flip else pair[i]) for *pair, flip in sides] for i in (0, 1))
    PairIds(pairs.prompts, chosen, rejected, pairs.ids, pairs.groups).save(out)


def group_sample(groups: list[str], count: int, rng: np.random.Generator) -> list[int]:
    """Indices of `count` pairs: whole groups (M,) drawn with replacement, the last one cut to fit."""
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    names = sorted(members)
    require(len(names) > 1, "groups of training pairs", len(names), "pairs of at least two groups")
    index: list[int] = []
    while len(index) < count:
        index += members[names[rng.integers(len(names))]]
    return index[:count]


def text_explorer(
    out: Path,
    settings: ExplorerSlice,
    members: list[Path],
    scores: list[Path],
    pool: list[Path],
    prompts: list[Path],
) -> None:
    """Write `explorer.npz`, a compact pool of a typical replicate: answers as text, gold a number without a bill."""
    from rmlab.measure.explorer_slice import FEW, text_slice
    from rmlab.optimise.pool import Pool
    from rmlab.sources.base import load_prompts

    source = settings.recipe.source
    table = read_scores(settings.recipe, members, scores=scores, pool=pool)
    answers = Pool.load([p / "pool.npz" for p in pool]).ids[: FEW[0]]
    texts = [[source.text(ids) for ids in row] for row in answers]
    listed = [x.text for folder in prompts for x in load_prompts(folder)]
    text_slice(table, listed, texts).save(out / "explorer.npz")
