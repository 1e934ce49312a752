"""Shared fixtures: a tiny world in which every step is real."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one core a worker
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file, and all that read the tiny studies, run in one process: what they share is made once."""
    for item in items:
        shared = "tiny_studies" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("tiny_studies" if shared else item.path.name))


@pytest.fixture(scope="session")
def tiny_lm():
    """An untrained Llama of two layers over the sandbox's vocabulary."""
    from rmlab.backbone import build
    from rmlab.recipe import Size
    from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS
    from rmlab.sources.sandbox.world import VOCAB

    return build(Size(hidden=32, layers=2, heads=4, ff=48), len(VOCAB), SPECIAL_TOKENS, seed=3).eval()


@pytest.fixture(scope="session")
def tiny_neox():
    """The same size as a GPT-NeoX: biases, LayerNorm, rotary on a quarter of each head."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from rmlab.sources.sandbox.world import VOCAB

    config = GPTNeoXConfig(
        vocab_size=len(VOCAB),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPTNeoXForCausalLM(config).eval()
        model.generation_config.suppress_tokens = [0, 1, 3, 4]
        for weight in model.parameters():  # biases and gains at their usual 0 and 1 would hide a mistake
            weight.data += 0.1 * torch.randn_like(weight)
        return model


@pytest.fixture(scope="session")
def tiny_qwen():
    """The same size as a Qwen2: a family without packed weights, on the model's own forward."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from rmlab.sources.sandbox.world import VOCAB

    config = Qwen2Config(
        vocab_size=len(VOCAB),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=48,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).eval()
        model.generation_config.suppress_tokens = [0, 1, 3, 4]
        return model


@pytest.fixture(scope="session")
def world_pairs():
    """48 pairs of author answers, the better by gold chosen, as ids."""
    from rmlab.recipe import stream
    from rmlab.reward.training import PairIds
    from rmlab.sources.sandbox import authors, gold
    from rmlab.sources.sandbox import world as w
    from rmlab.sources.sandbox.vocabulary import EOS
    from rmlab.tokens import pad_right

    rng = stream(0, "tests")
    requests = w.requests(48, rng)
    sides = []
    for _ in range(2):
        words = [
            authors.answer(r, s, rng)
            for r, s in zip(requests, authors.skills(48, authors.POLICY_SKILL, rng), strict=True)
        ]
        sides.append([[w.ID[x] for x in a] + [EOS] for a in words])
    worth = np.stack([gold.gold(pad_right(side)[0], gold.Truth.of(requests)) for side in sides])
    first = worth[0] >= worth[1]
    chosen = [sides[0][i] if f else sides[1][i] for i, f in enumerate(first)]
    rejected = [sides[1][i] if f else sides[0][i] for i, f in enumerate(first)]
    return PairIds([r.ids() for r in requests], chosen, rejected)


@pytest.fixture(scope="session")
def tiny_studies(tmp_path_factory):
    """The three tiny studies, run once on one store: name -> folder of tables; "artifacts" -> the store."""
    from rmlab.store import Store
    from rmlab.study.presets import PRESETS
    from rmlab.study.run import run

    root = tmp_path_factory.mktemp("studies")
    folders = {
        name: run(PRESETS[name](), root / name, root / "artifacts", workers=2, quiet=True)
        for name in ("tiny", "tiny_constructions", "tiny_ppo")
    }
    return {**folders, "artifacts": Store(root / "artifacts")}
