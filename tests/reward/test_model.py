"""The reward model: where it reads, what it saves, and what it refuses to load."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rmlab.recipe import Training
from rmlab.reward.ensemble import load
from rmlab.reward.heads import train as train_heads
from rmlab.reward.model import MlpHeads, RewardModel, activations_per_token, from_backbone, with_heads
from rmlab.reward.training import raw_score_pairs
from rmlab.tokens import last_index


@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox"])
def test_padding_changes_nothing(lm, rows, request):
    model = from_backbone(request.getfixturevalue(lm), 3, seed=0)
    ids, mask = (x[:6] for x in rows)
    want = model(ids, mask)
    for left, right in ((0, 5), (4, 0), (3, 2)):
        padded = F.pad(ids, (left, right), value=model.special.pad)
        torch.testing.assert_close(model(padded, F.pad(mask, (left, right))), want, atol=1e-5, rtol=1e-5)


def test_the_end_of_an_answer_is_scored(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 1, seed=0)
    row = world_pairs.prompts[0] + world_pairs.chosen[0]
    assert row[-1] in model.special.eos
    whole, cut = (torch.from_numpy(np.array([r])) for r in (row, row[:-1]))
    assert (model(whole, whole > 0) - model(cut, cut > 0)).abs() > 1e-3


def test_pad_equal_to_eos_is_refused(tiny_lm):
    model = copy.deepcopy(from_backbone(tiny_lm, 1, seed=0).model)
    model.config.pad_token_id = model.config.eos_token_id
    with pytest.raises(ValueError, match="give a PAD token of its own"):
        RewardModel(model)


def test_a_row_without_tokens_is_refused():
    with pytest.raises(ValueError, match="no real token"):
        last_index(torch.tensor([[True, False], [False, False]]))


def test_members_differ_from_the_start_and_do_not_depend_on_k(tiny_lm, rows):
    three, five = (from_backbone(tiny_lm, k, seed=1)(*rows) for k in (3, 5))
    assert (five.std(1) > 1e-4).all()
    torch.testing.assert_close(three, five[:, :3])


def test_scores_do_not_depend_on_the_batch_or_the_path(tiny_lm, answers, world_pairs):
    model = from_backbone(tiny_lm, 2, seed=0)
    fast = model.raw_scores(*answers, chunk_tokens=100)
    for i in (0, 7, 30):
        row = torch.tensor([world_pairs.prompts[0] + world_pairs.chosen[i]])
        np.testing.assert_allclose(fast[i], model.raw_forward(row, row >= 0)[0].detach(), atol=1e-5)


def test_a_saved_model_is_plain_hugging_face(tiny_lm, world_pairs, rows, tmp_path):
    """A process that never imports rmlab reads the folder and gets the raw member scores."""
    model = from_backbone(tiny_lm, 4, seed=0)
    model.align(raw_score_pairs(model, world_pairs).reshape(-1, 4))
    model.save(tmp_path / "reward")
    ids, mask = (x[:6] for x in rows)
    np.savez(tmp_path / "batch.npz", ids=ids.numpy(), mask=mask.numpy())
    code = """
import sys, numpy as np, torch
from transformers import AutoModelForSequenceClassification
data = np.load("batch.npz")
model = AutoModelForSequenceClassification.from_pretrained("reward").eval()
with torch.no_grad():
    logits = model(input_ids=torch.from_numpy(data["ids"]), attention_mask=torch.from_numpy(data["mask"]).long()).logits
np.save("logits.npy", logits.numpy())
assert not any(m.split(".")[0] == "rmlab" for m in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    logits = np.load(tmp_path / "logits.npy")
    assert logits.shape == (6, 4)
    np.testing.assert_allclose(logits, model.raw_forward(ids, mask).detach(), atol=1e-5)


def _rewritten(folder, change):
    """The folder with the weights that `change` makes of its own."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


@pytest.fixture
def saved(tiny_lm, tmp_path):
    from_backbone(tiny_lm, 2, seed=0).save(tmp_path / "reward")
    return tmp_path / "reward"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {n: w for n, w in s.items() if n != "score.weight"},
            r"missing weights of .* = \['score\.weight'\]",
        ),
        (
            lambda s: {n: w for n, w in s.items() if "layers.1.self_attn.q" not in n},
            r"missing weights .*layers\.1\.self_attn\.q_proj",
        ),
        (
            lambda s: {("v_head.weight" if n == "score.weight" else n): w for n, w in s.items()},
            r"missing weights .*score\.weight",
        ),
        (lambda s: {"_orig_mod." + n: w for n, w in s.items()}, "missing weights"),
        (
            lambda s: {**s, "score.bias": torch.ones(2)},
            r"unexpected weights of .* = \['score\.bias'\]: give a folder with exactly",
        ),
        (
            lambda s: {**s, "score.weight": torch.zeros(2, 48)},
            r"score\.weight of .* = \(2, 48\): give \(2, 32\), as its config",
        ),
        (
            lambda s: {**s, "score.weight": torch.zeros(3, 32)},
            r"score\.weight of .* = \(3, 32\): give \(2, 32\), as its config",
        ),
        (
            lambda s: {**s, "model.norm.weight": torch.zeros(48)},
            r"model\.norm\.weight of .* = \(48,\): give \(32,\)",
        ),
        (
            lambda s: {**s, "score.weight": torch.ones(2, 32)},
            "heads of .* = 'copies': give every member its own",
        ),
    ],
    ids=["head", "layer", "renamed", "prefix", "bias", "width", "K", "norm", "copies"],
)
def test_a_folder_whose_weights_are_not_its_models_is_refused(change, words, saved):
    with pytest.raises(ValueError, match=words):
        load(_rewritten(saved, change))


def test_a_language_model_is_no_reward_model(tiny_lm, tmp_path):
    tiny_lm.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"missing weights of .* = \['score\.weight'\]"):
        RewardModel.load(tmp_path)


@pytest.mark.parametrize("size", [0, 2000, -4])
def test_a_cut_file_is_named(size, saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r"reward: cannot be read \(.*\); give a whole folder, with safetensors"
    ):
        load(saved)


def test_a_pickle_is_not_opened(saved):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"cannot be read .*model\.safetensors"):
        load(saved)


def test_a_config_that_names_its_own_code_is_not_run(saved):
    config = json.loads((saved / "config.json").read_text())
    names = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    (saved / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="cannot be read"):
        load(saved)


def test_weights_in_several_files_are_read(tiny_lm, answers, tmp_path):
    model = from_backbone(tiny_lm, 2, seed=0)
    model.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    np.testing.assert_allclose(load(tmp_path).score(*answers), model.score(*answers), atol=1e-6)


def test_a_head_that_is_not_linear_is_refused(tiny_lm):
    model = copy.deepcopy(from_backbone(tiny_lm, 1, seed=0).model)
    model.score = torch.nn.Tanh()
    with pytest.raises(
        ValueError, match=r"head of Llama.* = \(None, None\): give .* a linear layer of 1 outputs"
    ):
        RewardModel(model)


def test_a_backbone_that_is_not_plain_is_refused(tiny_lm):
    peft = pytest.importorskip("peft")
    wrapped = copy.deepcopy(tiny_lm)
    wrapped.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"backbone = \['layers\.0.*'\]: give a plain model of its family"):
        from_backbone(wrapped, 1, seed=0)


@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox", "tiny_qwen"])
def test_other_heads_on_a_trunk_share_it(lm, request, rows):
    model = from_backbone(request.getfixturevalue(lm), 3, seed=0)
    turned = RewardModel(with_heads(model.model, -model.model.score.weight[:2]))
    assert turned.trunk is model.trunk and model.members == 3 and turned.members == 2
    assert turned.model.config.num_labels == 2 and model.model.config.num_labels == 3
    with torch.no_grad():
        torch.testing.assert_close(turned(*rows), -model(*rows)[:, :2])
    with pytest.raises(ValueError, match=r"heads = \(3, 48\): give \(K, 32\)"):
        with_heads(model.model, torch.zeros(3, 48))


def test_activations_are_counted_for_a_config_without_an_inner_width(tiny_lm):
    from transformers import GPT2Config

    assert activations_per_token(GPT2Config(n_embd=32, n_head=4)) == 6 * 32 + 3 * 4 * 32 + 256 * 4
    assert activations_per_token(tiny_lm.config) == 6 * 32 + 3 * 48 + 256 * 4


def test_a_head_with_a_hidden_layer_does_not_depend_on_k_and_is_what_it_says():
    five, two = MlpHeads(5, 32, 4, seed=1), MlpHeads(2, 32, 4, seed=1)
    for name, weight in two.named_parameters():
        assert torch.equal(weight, five.get_parameter(name)[:2])
    assert len({w.numpy().tobytes() for w in five.first.detach()}) == 5
    hidden = torch.randn(3, 7, 32)
    got = five(hidden)
    assert got.shape == (3, 7, 5)
    for k in range(5):
        want = torch.tanh(hidden @ five.first[k].T + five.bias[k]) @ five.second[k]
        torch.testing.assert_close(got[..., k], want, atol=1e-5, rtol=1e-5)


def test_mlp_heads_are_saved_and_read_and_nobody_takes_their_linear_head(tiny_lm, inputs_of, rows, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = train_heads(inputs_of(tiny_lm, training=Training(epochs=1, batch=16)), k=3, mlp=4)
    model.save(tmp_path)
    ids, mask = rows
    again, plain = load(tmp_path), AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(ids, mask), model(ids, mask)) and torch.isfinite(again(ids, mask)).all()
        assert plain(input_ids=ids, attention_mask=mask.long()).logits.isnan().all()
    with pytest.raises(ValueError, match="mlp = '2 heads': give 3, as the model has labels"):
        RewardModel(model.model, model.mlp.subset([0, 1]))
    stored = load_file(tmp_path / "mlp_heads.safetensors")
    for changed in ({**stored, "bias": torch.zeros(2, 4)}, {"first": stored["first"]}):
        save_file(changed, tmp_path / "mlp_heads.safetensors")
        with pytest.raises(ValueError, match=r"mlp_heads\.safetensors = .*: give first \(K, width, D\)"):
            load(tmp_path)
