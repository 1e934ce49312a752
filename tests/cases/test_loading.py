"""A folder that does not hold its model is refused by name, and one that does gives the model's own scores."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlab import backbone
from rmlab.reward.ensemble import load
from rmlab.reward.model import RewardModel
from rmlab.study.text_source import shell_of
from rmlab.text import load_tokenizer
from tests.cases.tiny import ROW, close, judge, own_scores, policy


def saved(model, folder, change=None, **options):
    """The model's folder, its tensors changed by name."""
    model.save_pretrained(folder, **options)
    if change:
        tensors = change(load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def without(words):
    return lambda tensors: {name: t for name, t in tensors.items() if words not in name}


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("Llama", lambda s: {n.replace("score", "value_head"): t for n, t in s.items()}, "score.weight"),
        ("Llama", lambda s: {"_orig_mod." + n: t for n, t in s.items()}, "missing weights"),
        ("Llama", without("layers.1."), "layers.1"),
        ("GPT-NeoX", lambda s: {**s, "score.bias": torch.tensor([3.0, 3.0])}, "score.bias"),
        ("BERT", without("pooler"), "pooler.dense"),
        ("BERT", without("classifier.bias"), "classifier.bias"),
        ("DeBERTa-v2", without("pooler.dense.bias"), "pooler.dense.bias"),
        ("T5", without("classification_head.dense"), "classification_head.dense"),
    ],
)
def test_weights_that_are_missing_or_too_many_are_named(family, change, words, tmp_path):
    folder = saved(judge(family), tmp_path / "judge", change)
    with pytest.raises(ValueError, match=words):
        load(folder)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "BERT"])
def test_the_folder_of_a_language_model_is_no_judge(family, tmp_path):
    with pytest.raises(ValueError, match=r"missing weights of .*(score|classifier|pooler)"):
        load(saved(policy(family), tmp_path / "lm"))


def test_a_family_without_classifiers_is_named_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"CohereConfig.*give a whole folder.*of a family that has") as error:
        load(saved(policy("Cohere"), tmp_path / "lm"))
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"_orig_mod." + n: t for n, t in s.items()}, "missing_keys"),
        (without("layers.0.mlp"), "layers.0.mlp"),
    ],
)
def test_a_language_model_is_whole_or_refused(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        backbone.load(saved(policy("Qwen2"), tmp_path / "lm", change))


@pytest.mark.parametrize("family", ["Llama", "BERT", "T5"])
def test_shards_are_read_and_pickles_are_not(family, tmp_path):
    model = judge(family)
    close(load(saved(model, tmp_path / "s", max_shard_size="20KB"))(*row()), own_scores(model, [ROW]))
    folder = saved(model, tmp_path / "b")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="give a whole folder, with safetensors"):
        load(folder)


@pytest.mark.parametrize("family", ["Llama", "ModernBERT"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_file_is_named(family, share, tmp_path):
    folder = saved(judge(family), tmp_path / "judge")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="judge: cannot be read"):
        load(folder)


@pytest.mark.parametrize("door", [load, backbone.load, load_tokenizer, shell_of])
def test_code_that_comes_with_a_folder_is_not_run(door, tmp_path):
    folder = saved(policy("Llama"), tmp_path / "lm")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.C", "AutoTokenizer": ["own.T", None]}
    names |= dict.fromkeys(["AutoModelForCausalLM", "AutoModelForSequenceClassification"], "own.M")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": names}))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match=str(folder)):
        door(folder)


def test_a_family_that_transformers_has_is_its_own_whatever_code_stands_beside_it(tmp_path):
    folder = saved(policy("Llama"), tmp_path / "lm")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": names}))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    assert type(backbone.load(folder)) is type(policy("Llama"))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_language_model_is_named_in_one_line(share, tmp_path):
    folder = saved(policy("Llama"), tmp_path / "lm")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"name = .*lm': give a causal language model's folder") as error:
        backbone.load(folder)
    assert "\n" not in str(error.value)


def test_two_ensembles_of_one_model_are_saved_apart(tmp_path):
    from rmlab.reward.dropout import DropoutModel

    one = RewardModel(judge("Llama", 1))
    three = DropoutModel(one, 3, 0.2, seed=0)
    three.save(tmp_path / "three")
    one.save(tmp_path / "one")
    assert (load(tmp_path / "one").members, load(tmp_path / "three").members) == (1, 3)
    close(load(tmp_path / "one")(*row()), own_scores(one.model, [ROW]))


def test_a_device_may_be_named(tmp_path, monkeypatch):
    folder = saved(judge("Llama"), tmp_path / "judge")
    assert load(folder, device="cpu").centre.device.type == "cpu"
    monkeypatch.setenv("RMLAB_DEVICE", "cuda:99")
    for device in (None, "cuda:99"):
        with pytest.raises(ValueError, match="device = 'cuda:99'"):
            load(folder, device=device)


def row():
    ids = torch.tensor([ROW])
    return ids, torch.ones_like(ids)
