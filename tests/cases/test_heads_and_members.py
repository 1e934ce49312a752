"""Heads of other names, with a bias or of several layers, are the model's own; members are different and were trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlab.reward.average import average
from rmlab.reward.ensemble import load
from rmlab.reward.heads import train as train_heads
from rmlab.reward.laplace import around
from rmlab.reward.methods import train_ensemble
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import train
from tests.cases.tiny import ROW, build, close, inputs, judge, own_scores, pairs, policy

HEADS = {
    "BERT": "classifier",
    "ModernBERT": "classifier",
    "DeBERTa-v2": "classifier",
    "T5": "classification_head.out_proj",
    "roberta": "classifier.out_proj",
    "electra": "classifier.out_proj",
    "distilbert": "classifier",
}
ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}
OVER = {"roberta": ROBERTA, "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}}


def scores(model):
    ids = torch.tensor([ROW, [5, 30, 31, 2, 0, 0]])
    return model(ids, torch.tensor([[1] * 6, [1] * 4 + [0] * 2]))


def whole(model):
    """The classifier's own logits of the same rows."""
    return own_scores(model, [ROW, [5, 30, 31, 2]])


def biased():
    model = judge("Llama", 2)
    model.score = torch.nn.Linear(32, 2)
    return model


def layered():
    model = judge("Llama", 2)
    model.score = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    return model


@pytest.mark.parametrize("name", HEADS)
def test_the_last_linear_layer_is_the_head_and_its_bias_is_kept(name, tmp_path):
    model = judge(name, **OVER.get(name, {}))
    model.save_pretrained(tmp_path / "judge")
    reward = load(tmp_path / "judge")
    assert reward.head_name == HEADS[name]
    assert reward.linear.bias.abs().max() > 0.1
    close(scores(reward), whole(model))
    reward.align(np.random.default_rng(0).normal(2, 3, (9, 2)))
    reward.subset([1]).save(tmp_path / "one")
    one = load(tmp_path / "one")
    close(scores(one), scores(reward)[:, [1]])
    assert one.members == 1 and scores(reward).shape == (2, 2)


@pytest.mark.parametrize("build_head", [biased, layered])
def test_a_decoder_with_a_head_of_its_own(build_head):
    model = build_head()
    reward = RewardModel(model)
    close(scores(reward), whole(model))
    close(scores(reward.subset([1, 0])), whole(model)[:, ::-1])
    close(reward.score(np.array(ROW[:3]), np.array([ROW[3:]]), np.array([3])), own_scores(model, [ROW]))


@pytest.mark.parametrize("change", ["no linear layer", "another width"])
def test_a_head_that_ends_in_no_linear_layer_is_refused(change):
    model = judge("Llama", 2)
    model.score = torch.nn.Identity() if change == "no linear layer" else torch.nn.Linear(32, 3)
    with pytest.raises(
        ValueError, match=r"head of LlamaForSequenceClassification = .*: give .*linear layer of 2"
    ):
        RewardModel(model)


@pytest.mark.parametrize("name", ["Llama", "BERT"])
def test_logits_that_are_more_than_the_last_layers_are_refused(name, tmp_path, monkeypatch):
    from transformers.models.bert import modeling_bert
    from transformers.models.llama import modeling_llama

    judge(name).save_pretrained(tmp_path)
    kind = {
        "Llama": modeling_llama.LlamaForSequenceClassification,
        "BERT": modeling_bert.BertForSequenceClassification,
    }[name]
    own = kind.forward

    def forward(self, *args, **kwargs):
        out = own(self, *args, **kwargs)
        out.logits = out.logits * 2
        return out

    monkeypatch.setattr(kind, "forward", forward)
    with pytest.raises(ValueError, match=rf"logits of {kind.__name__} = .* of the largest away"):
        load(tmp_path)


def test_a_classifier_that_reads_the_padding_is_refused():
    """XLNet's reads the last place of the array, whatever is there."""
    from transformers import XLNetConfig, XLNetForSequenceClassification

    size = {"vocab_size": 110, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "eos_token_id": 2}
    model = XLNetForSequenceClassification(XLNetConfig(**size, pad_token_id=0, num_labels=2))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0, 0.2, generator=torch.Generator().manual_seed(weight.numel()))
    with pytest.raises(ValueError, match=r"logits of XLNet.*: give .* whatever padding is on a row's right"):
        RewardModel(model)


@pytest.mark.parametrize("name", ["BERT", "ModernBERT", "DeBERTa-v2", "T5"])
def test_encoders_are_trained_and_saved(name, tmp_path):
    reward, data = from_backbone(build("AutoModel", name), 2, seed=0), pairs()
    before = reward.raw_pair_scores(data.prompts, data.chosen, data.rejected).detach()
    losses = train(reward, data, inputs(epochs=12, lr=3e-3).training, seed=0)
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    after = reward.raw_pair_scores(data.prompts, data.chosen, data.rejected).detach()
    assert (after - before).abs().max() > 1e-2
    reward.save(tmp_path / "judge")
    close(scores(load(tmp_path / "judge")), scores(reward).detach())
    close(scores(reward), whole(reward.model))


@pytest.mark.parametrize("name", ["BERT", "T5"])
def test_the_other_methods_on_an_encoder(name, tmp_path):
    backbone = build("AutoModel", name)
    frozen = train_heads(inputs(backbone), k=2, frozen=True)
    close(scores(frozen), whole(frozen.model))
    mlp = train_heads(inputs(backbone), k=2, mlp=4)
    mlp.save(tmp_path / "mlp")
    close(scores(load(tmp_path / "mlp")), scores(mlp).detach())
    single = train_ensemble("single", inputs(backbone))
    mean = average([single, single])
    close(scores(mean), whole(single.model))
    draws = around(single, pairs(), 3, seed=0)
    assert (draws.linear.bias == single.linear.bias).all()
    draws.save(tmp_path / "draws")
    close(scores(load(tmp_path / "draws")), whole(draws.model))


def test_members_that_are_copies_or_untrained_are_refused(tmp_path):
    model = judge("BERT")
    with torch.no_grad():
        model.classifier.weight[1] = model.classifier.weight[0]
    model.save_pretrained(tmp_path / "copies")
    with pytest.raises(ValueError, match=r"heads of .*copies"):
        load(tmp_path / "copies")
    lora = train_ensemble("lora", inputs(policy("Llama")), k=2, rank=2)
    lora.save(tmp_path / "lora")
    for k in range(2):
        path = tmp_path / "lora" / f"member_{k}" / "adapter_model.safetensors"
        tensors = {n: t * ("lora_B" not in n) for n, t in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lora_B of .*zero in every matrix"):
        load(tmp_path / "lora")


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (lambda: policy("Granite"), "family of the backbone = 'granite'"),
        (lambda: policy("BERT"), r"backbone = \[.*pooler"),
        (lambda: build("AutoModelForSeq2SeqLM", "T5"), "backbone = "),
        (lambda: torch.nn.Linear(2, 2), "backbone = 'Linear': give a transformers model"),
    ],
    ids=["no classifier", "no pooler", "another head", "no transformer"],
)
def test_a_backbone_that_gives_no_judge_is_refused(backbone, words):
    with pytest.raises(ValueError, match=words):
        from_backbone(backbone(), 2, seed=0)
