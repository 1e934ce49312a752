"""Families x entry points: each gives the model's own numbers, or refuses in words; data/families.md says which.

`RMLAB_WRITE=1 pytest tests/cases/test_families.py` writes the table anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rmlab.fast.packed import packed
from rmlab.fast.plain import trunk_of
from rmlab.optimise.sampling import sample
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.tokens import SpecialTokens, pad_right
from tests.cases.tiny import (
    DECODERS,
    FAMILIES,
    build,
    close,
    judge,
    own_logprobs,
    own_scores,
    policy,
    ppo_once,
)

TABLE = Path(__file__).resolve().parents[2] / "data" / "families.md"
PROMPT, ANSWERS = [5, 6, 7], [[8, 9, 2], [20, 2], [30, 31, 32, 33, 34, 35, 36, 2]]
WHY = {  # what a refusal says -> what the table says
    "Unrecognized configuration class": "no classifier of its family in transformers",
    "family of the backbone": "no classifier of its family in transformers",
    "give a transformers causal language model": "no causal language model",
    "give a causal policy": "sees ahead, or more than one layer stands behind its hidden states",
}
TEXT = """# Families of models, and what runs them

Scores, log-probabilities and PPO's first ratio are the model's own to 1e-5 in float32, on tiny random models.
"fast": on the packed forward. "own forward": on transformers' own code. "refused": one error says why.

| family | a reward model's folder | `from_backbone` | `sample` | `ppo` |
|---|---|---|---|---|
"""


def path_of(model) -> str:
    return "own forward" if packed(trunk_of(model), 40) is None else "fast"


def check_scores(reward: RewardModel) -> str:
    """Every way to a score against the classifier's own logits."""
    want = own_scores(reward.model, [PROMPT + a for a in ANSWERS])
    ids, mask = pad_right(ANSWERS)
    close(reward.score(np.array(PROMPT), ids, mask.sum(1)), want)
    whole = [torch.from_numpy(x) for x in pad_right([PROMPT + a for a in ANSWERS])]
    close(reward(*whole), want)
    left = [x.flip(1) for x in whole]
    for row, (ids, real) in enumerate(zip(left[0], left[1], strict=True)):
        left[0][row, real] = ids[real].flip(0)
    close(reward(*left), want)
    pairs = reward.raw_pair_scores([PROMPT] * 3, ANSWERS, ANSWERS[::-1])
    close(pairs, np.concatenate([want, want[::-1]]))
    return path_of(reward.reader)


def loaded(name: str, tmp: Path) -> str:
    auto = "AutoModelForCausalLM" if name in ("Cohere", "Granite", "Mamba") else None
    model = build(auto, name) if auto else judge(name)
    model.save_pretrained(tmp / "judge")
    return check_scores(RewardModel.load(tmp / "judge"))


def fresh(name: str, tmp: Path) -> str:
    backbone = build("AutoModelForCausalLM" if name in DECODERS else "AutoModel", name)
    return check_scores(from_backbone(backbone, 2, seed=0))


def language_model(name: str):
    kinds = {
        "ModernBERT": "AutoModelForMaskedLM",
        "DeBERTa-v2": "AutoModelForMaskedLM",
        "T5": "AutoModelForSeq2SeqLM",
    }
    return build(kinds[name], name) if name in kinds else policy(name)


def sampled(name: str, tmp: Path) -> str:
    model = language_model(name)
    prompts = [[10, 11, 12], [20, 21, 22, 23, 24, 25]]
    got = sample(model, prompts, 3, 10, seed=0)
    for i, (ids, length) in enumerate(zip(got.ids, got.lengths, strict=True)):
        want = own_logprobs(model, SpecialTokens.of(model), prompts[i // 3], ids[:length].tolist())
        close(got.logprobs[i, :length], want)
    return path_of(model)


def optimised(name: str, tmp: Path) -> str:
    model = language_model(name)
    row = ppo_once(model)[0]
    close(row["ratio_error"], 0.0, 3.0)
    close(row["k1"], 0.0, 3.0)
    return path_of(model)


def row_of(name: str, tmp: Path) -> str:
    """A family's row: each entry point is run, and what it gives is held against the truth."""
    cells = []
    for entry in (loaded, fresh, sampled, optimised):
        try:
            cells.append(entry(name, tmp))
        except ValueError as error:
            reasons = [why for words, why in WHY.items() if words in str(error)]
            assert len(reasons) == 1, f"{entry.__name__}: {error}"
            cells.append(f"refused: {reasons[0]}")
    return f"| {' | '.join([name, *cells])} |\n"


@pytest.fixture(scope="module", autouse=True)
def table(tmp_path_factory) -> str:
    if os.environ.get("RMLAB_WRITE"):
        rows = [row_of(name, tmp_path_factory.mktemp("table")) for name in FAMILIES]
        TABLE.write_text(TEXT + "".join(rows), encoding="utf-8")
    return TABLE.read_text("utf-8")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_entry_point_is_right_or_refuses_as_the_table_says(name, table, tmp_path):
    assert row_of(name, tmp_path) in table


def test_the_table_holds_these_families_and_no_other(table):
    assert table.startswith(TEXT) and len(table.splitlines()) == len(TEXT.splitlines()) + len(FAMILIES)
