"""A study of text, small enough for a test: models with random weights, pairs of a few topics, gold of another tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rmlab.backbone import fit_language_model, load
from rmlab.preferences import Preferences
from rmlab.recipe import Labels, PoolSize, Ppo, PpoStudy, Recipe, Replicates, Training, ensemble
from rmlab.store import Store
from rmlab.study.run import run
from rmlab.study.text_source import TextSource
from rmlab.tokens import pad_right
from rmlab.workbench.judges import fit
from tests.own_model import EOS, PAD, own_folder, own_tokenizer


def text_rows(seed: int = 0, count: int = 96) -> pd.DataFrame:
    """Chats of twelve topics, two questions a topic; the warm answer is chosen."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        prompt = [{"role": "user", "content": f"Why {i % 24}?"}]
        chosen, rejected = f"Warm {rng.integers(99)}", f"No {'x' * int(rng.integers(6))}{i}"
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "topic": i % 12, "id": str(i)})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def text_place(tmp_path_factory):
    """Folders: a policy, two backbones, a gold model whose tokenizer numbers other ids; and a file of pairs."""
    place = tmp_path_factory.mktemp("text")
    for seed, name in enumerate(("policy", "backbone-a", "backbone-b")):
        own_folder(place / name, seed=seed)
    _teach_to_end(place / "policy")
    own_folder(place / "gold-backbone", seed=3, tokenizer=own_tokenizer(first=300))
    text_rows().to_json(place / "pairs.jsonl", orient="records", lines=True)
    prefs = Preferences.read(text_rows(), group="topic")
    fit(place / "gold-backbone", prefs, "heads", k=2, lr=1e-3, seed=5).save(place / "gold")
    return place


def _teach_to_end(folder: Path) -> None:
    """Train a policy on a few letters and an EOS, so that some of its short answers end and some are cut."""
    model = load(folder, device="cpu")
    ends = (i % 20 for i in range(64))
    rows = [
        [60 + (i + j) % 8 for j in range(min(end, 14))] + [EOS] * (end < 14) for i, end in enumerate(ends)
    ]
    batch = torch.from_numpy(pad_right([[60, *row] for row in rows], PAD)[0])
    fit_language_model(model, [batch] * 30, 30, 1e-2, PAD)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def text_recipe(text_place):
    """Two replicates of two backbones, a method a kind, PPO of two steps."""
    source = TextSource(
        policy=text_place / "policy",
        backbones=(text_place / "backbone-a", text_place / "backbone-b"),
        pairs=text_place / "pairs.jsonl",
        gold_model=text_place / "gold",
        group="topic",
        heldout=0.3,
        max_new_tokens=12,
        max_length=64,
    )
    steps = Ppo(steps=2, batch=4, max_new_tokens=12, minibatches=2, epochs=1, eval_every=1, lr=1e-4)
    return Recipe(
        name="tiny_text",
        source=source,
        size=source.size,
        labels=Labels(pairs=48, flips=0.25, heldout=16),
        training=Training(epochs=1, batch=8),
        replicates=Replicates(draws=2, backbones=2, finetune=1),
        pool=PoolSize(prompts=4, answers=24),
        ensembles=(
            ensemble("single", "single"),
            ensemble("heads2", "heads", k=2),
            ensemble("pretrain2", "pretrain", k=2),
        ),
        ppo_study=PpoStudy(steps, ("mean", "min"), (0.0,), prompts=3, answers=2),
    )


@pytest.fixture(scope="session")
def text_study(text_recipe, tmp_path_factory):
    """The study, run once: (folder of tables, store)."""
    root = tmp_path_factory.mktemp("text-study")
    return run(text_recipe, root, root / "artifacts", workers=1, quiet=True), Store(root / "artifacts")
