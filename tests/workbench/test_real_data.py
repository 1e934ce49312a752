"""Real preference files, where they are at hand: read, trained on, reported; no text of theirs is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import rmlab
from rmlab.backbone import fit_language_model
from rmlab.cli import main
from rmlab.dialogues import words
from rmlab.tokens import pad_right
from tests.own_model import TEMPLATE

REAL = Path(
    os.environ.get("RMLAB_REAL_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data" / "real"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REAL.is_dir(), reason="the real sample is not here; set RMLAB_REAL_DATA to its folder"
    ),
]


def backbone(folder: Path, texts: list[str], steps: int = 150) -> Path:
    """A small Llama and a tokenizer of 1,000 pieces, trained on these texts in seconds."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    rows = [tokenizer(text)["input_ids"][:95] + [1] for text in texts]
    batches = (
        torch.from_numpy(pad_right([rows[(16 * i + j) % len(rows)] for j in range(16)])[0])
        for i in range(steps)
    )
    losses = fit_language_model(model, batches, steps, 3e-3, pad=0)
    assert losses[-1] < losses[0] - 0.5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts_of(prefs: rmlab.Preferences, most: int = 2400) -> list[str]:
    return [words(side) for pair in prefs.pairs[:most] for side in (pair.prompt, pair.chosen, pair.rejected)]


def accuracies(report) -> dict[str, tuple[float, float, float]]:
    whole = report.rows().query("measure == 'accuracy' and part == 'all'")
    return {row.scorer: (row.value, row.low, row.high) for row in whole.itertuples()}


def test_arguments_by_three_methods_from_the_command_line(tmp_path, capsys, monkeypatch):
    """Heads, finetuning seeds and LoRA in one table beside length and a bag of words; calibration against votes."""
    data = REAL / "ukpconvarg1"
    train = rmlab.Preferences.read(data / "train.jsonl", soft="soft_label")
    lm = backbone(tmp_path / "lm", texts_of(train))
    (tmp_path / "train.jsonl").write_text(
        "".join((data / "train.jsonl").read_text("utf-8").splitlines(True)[::6]), "utf-8"
    )
    (tmp_path / "test.jsonl").write_text(
        "".join((data / "test.jsonl").read_text("utf-8").splitlines(True)[::4]), "utf-8"
    )
    table = {}
    for method in ("heads", "finetune", "lora"):
        out = tmp_path / method
        sizes = ["--k", "2", "--lr", "1e-3", "--max-length", "128", "--held-out", "0.1"]
        main(["fit", str(lm), str(tmp_path / "train.jsonl"), "--method", method, *sizes, "--out", str(out)])
        main(
            [
                "report",
                str(tmp_path / "test.jsonl"),
                "--judges",
                str(out),
                "--out",
                str(tmp_path / f"{method}-report"),
            ]
        )
        test = rmlab.Preferences.read(tmp_path / "test.jsonl")
        judges = rmlab.load(out)
        judges.max_length = 128
        report = judges.report(test, train)
        table[method] = accuracies(report)
        errors = report.rows().query("measure == 'calibration_error' and part == 'all'")
        assert errors.value.between(0, 0.7).all() and (errors.low <= errors.value).all()
    out = capsys.readouterr().out
    assert "separated" in out and "1156 read, 1156 kept" in out
    print(
        "\n"
        + "\n".join(
            f"{m}: " + ", ".join(f"{s} {v:.3f} [{a:.3f}, {b:.3f}]" for s, (v, a, b) in t.items())
            for m, t in table.items()
        )
    )
    for rows in table.values():
        assert {"member 0", "member 1", "mean", "min", "longer", "bag of words"} <= set(rows)
        assert rows["longer"][0] > 0.7 and all(low < value < high for value, low, high in rows.values())


PANDALM = {
    "prompt": ("instruction", "input"),
    "chosen": "response1",
    "rejected": "response2",
    "votes": ("annotator1", "annotator2", "annotator3"),
    "id": "idx",
}


@pytest.mark.parametrize(
    ("name", "columns"),
    [("hh_harmless_base/train.jsonl", {}), ("pandalm_3annotators/test_raw.jsonl", PANDALM)],
)
def test_chats_and_votes_are_trained_on_and_reported(name, columns, tmp_path):
    prefs = rmlab.Preferences.read(REAL / name, on_bad="drop", **columns)
    lines = len((REAL / name).read_text("utf-8").splitlines())
    assert columns or prefs.counts.kept + prefs.counts.dropped.total() == lines
    lm = backbone(tmp_path / "lm", texts_of(prefs, 300), steps=60)
    train, test = prefs.split(0.3)
    few = rmlab.Preferences(train.pairs[:160], on_bad="drop")
    judges = rmlab.fit(lm, few, "heads", k=2, lr=1e-3, max_length=128, votes=bool(columns))
    text = str(judges.report(test, few))
    assert "bag of words" in text and f"of {len(test)} test pairs" in text
    longer = [words(pair.chosen) for pair in test.pairs if len(words(pair.chosen)) > 40]
    assert not any(answer[:40] in text for answer in longer)
