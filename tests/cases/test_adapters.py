"""Adapters that are W + s B A are read as PEFT reads them; every other kind, and every target that is not there, is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from rmlab.reward.lora import Adapter, LoraModel
from rmlab.reward.methods import train_ensemble
from rmlab.reward.model import RewardModel, from_backbone
from tests.cases.tiny import ROW, build, close, inputs, judge, policy

# transformers deprecates a name that PEFT still uses
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:aLoRA is currently only supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:Adapter .default.. 2 LoRA tensor"),
]


def by_peft(folder, name, **options):
    """A base and an adapter far from zero, both as PEFT writes them; returns PEFT's logits of ROW."""
    peft = pytest.importorskip("peft")
    judge(name, 1).save_pretrained(folder / "base")
    base = build_back(folder / "base")
    settings = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = peft.get_peft_model(base, peft.LoraConfig(**settings)).eval()
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder / "member_0", save_embedding_layers=False)
    ids = torch.tensor([ROW])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.detach()


def build_back(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)


def scores(model):
    ids = torch.tensor([ROW])
    close(
        model.raw_pair_scores([ROW[:3]], [ROW[3:]], [[9, 2]])[:1], model(ids, torch.ones_like(ids)).detach()
    )
    return model(ids, torch.ones_like(ids))


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("Llama", "all-linear"),
        ("Llama, grouped keys", ["k_proj", "gate_proj"]),
        ("Qwen2", "all-linear"),
        ("GPT-NeoX", ["query_key_value", "dense_4h_to_h"]),
        ("Phi", ["q_proj", "fc1"]),
        ("OPT", ["q_proj", "fc1"]),
        ("Gemma 2", ["q_proj", "down_proj"]),
    ],
)
def test_pefts_own_folders_score_as_in_peft(name, targets, tmp_path):
    want = by_peft(tmp_path, name, target_modules=targets)
    close(scores(LoraModel.load(tmp_path)), want)
    close(scores(RewardModel.load(tmp_path / "member_0")), want)


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("GPT-2", {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}, "fan_in_fan_out"),
        ("Llama", {"alora_invocation_tokens": [7]}, "alora_invocation_tokens"),
        ("Llama", {"use_dora": True}, "use_dora"),
        ("Llama", {"use_rslora": True}, "use_rslora"),
        ("Llama", {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}}, "rank_pattern"),
        ("Llama", {"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ("Llama", {"target_modules": ["q_proj", "embed_tokens"]}, "tensors"),
        ("Llama", {"modules_to_save": ["norm"]}, "tensors"),
        ("Llama", {"trainable_token_indices": {"embed_tokens": [8]}}, "trainable_token_indices"),
        ("Qwen2", {"lora_bias": True}, "lora_bias"),
        ("Llama", {"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ],
)
def test_what_is_more_than_a_low_rank_change_is_refused_by_its_field(name, options, field, tmp_path):
    by_peft(tmp_path, name, **options)
    with pytest.raises(ValueError, match=rf"{field}.* of .*member_0"):
        LoraModel.load(tmp_path)


def test_an_adapter_in_the_older_file_is_refused_by_name(tmp_path):
    by_peft(tmp_path, "Llama")
    path = tmp_path / "member_0" / "adapter_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors': give an existing safetensors file"):
        LoraModel.load(tmp_path)


@pytest.mark.parametrize("field", ["lora_alpha", "r"])
def test_a_config_cut_short_is_named(field, tmp_path):
    by_peft(tmp_path, "Llama")
    path = tmp_path / "member_0" / "adapter_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != field}))
    with pytest.raises(ValueError, match=r"r and lora_alpha of .*member_0"):
        LoraModel.load(tmp_path)


def test_a_target_that_is_not_there_is_named():
    trunk = judge("Llama", 1).model
    with pytest.raises(ValueError, match=r"targets = 'v_porj': give .*v_proj"):
        Adapter.fresh(trunk, 2, 4.0, ("q_proj", "v_porj"), 0, seed=0)


@pytest.mark.parametrize("name", ["OPT", "GPT-2", "Bloom"])
@pytest.mark.parametrize("method", ["lora"])
def test_blocks_under_another_name_are_refused_as_such(name, method):
    with pytest.raises(
        ValueError, match=r"model = .*: give a decoder family whose blocks are its trunk's `layers`"
    ):
        train_ensemble(method, inputs(policy(name)), k=1)


@pytest.mark.parametrize(("method", "options"), [("lora", {"k": 2}), ("dropout", {"k": 2})])
@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "DeBERTa-v2", "T5"])
def test_edits_of_a_trunk_that_pools_are_refused_before_training(name, method, options, monkeypatch):
    from rmlab.reward import training

    monkeypatch.setattr(training, "bt_loss", lambda *args: pytest.fail("a step was taken"))
    with pytest.raises(ValueError, match=r"head of .*: give one of a decoder family"):
        train_ensemble(method, inputs(build("AutoModel", name)), **options)


def test_a_backbone_with_adapters_in_it_is_refused():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"])
    added, around = policy("Llama"), policy("Llama")
    added.add_adapter(config)
    for model in (
        added,
        get_peft_model(around, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])),
    ):
        with pytest.raises(ValueError, match=r"backbone = .*: give a plain model of its family"):
            from_backbone(model, 1, 0)
