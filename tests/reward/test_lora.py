"""LoRA members against PEFT's own: adapters that we train and PEFT reads, and the reverse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rmlab.backbone import build
from rmlab.recipe import Size, Training
from rmlab.reward.lora import Adapter, LoraModel, fingerprint, lora
from rmlab.reward.model import from_backbone
from rmlab.reward.training import score_pairs
from rmlab.sources.sandbox.world import VOCAB
from rmlab.tokens import pad_right

# transformers deprecates a name that PEFT 0.21 still uses
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
QUICK = Training(epochs=1, batch=16, lr=2e-3)


def _batch(pairs):
    ids, mask = pad_right([pairs.prompts[0] + a for a in pairs.chosen])
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _asked(pairs):
    return np.array(pairs.prompts[0]), pad_right(pairs.chosen)[0], np.array([len(a) for a in pairs.chosen])


@pytest.fixture(scope="module")
def trained(tiny_lm, world_pairs):
    return lora(tiny_lm, world_pairs, QUICK, seed=0, k=2, rank=2, lora_layers=1)


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path)
    return tmp_path


def _base(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("lora_layers", [0, 1])
@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox", "tiny_qwen"])
def test_members_equal_peft_adapter_by_adapter(lm, lora_layers, world_pairs, request, tmp_path):
    """Merged weights, and the shared trunk below them, against PEFT's unmerged layers on the plain model."""
    peft = pytest.importorskip("peft")
    backbone = request.getfixturevalue(lm)
    model = lora(backbone, world_pairs, QUICK, 0, k=2, rank=2, alpha=6.0, lora_layers=lora_layers, rate=10.0)
    assert {n.split(".")[1] for a in model.adapters for n in a.pairs} == (
        {"1"} if lora_layers else {"0", "1"}
    )
    model.save(tmp_path)
    (ids, mask), scores = _batch(world_pairs), model.score(*_asked(world_pairs))
    with torch.no_grad():
        raw = model.raw(ids, mask)
        for k in range(2):
            theirs = peft.PeftModel.from_pretrained(_base(tmp_path / "base"), tmp_path / f"member_{k}").eval()
            want = theirs(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
            np.testing.assert_allclose(raw[:, k], want, atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(scores[:, k], want, atol=1e-5, rtol=1e-5)
            with theirs.disable_adapter():
                without = theirs.base_model(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
            assert (without - want).abs().max() > 1e-2
    assert np.abs(scores[:, 0] - scores[:, 1]).max() > 1e-2


def test_a_member_folder_opens_with_peft_alone(saved, trained, world_pairs, monkeypatch):
    peft = pytest.importorskip("peft")
    ids, mask = _batch(world_pairs)
    with torch.no_grad():
        want = trained.raw(ids, mask)
        for k in range(2):
            monkeypatch.chdir(saved / f"member_{k}")  # the base is named beside it, ../base
            theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(".", num_labels=1).eval()
            got = theirs(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
            torch.testing.assert_close(got, want[:, k], atol=1e-5, rtol=1e-5)


def _by_peft(saved, name, head=1, **changed):
    """A folder that PEFT wrote, its adapter far from zero, and its model."""
    peft = pytest.importorskip("peft")
    options = {
        "task_type": "SEQ_CLS",
        "r": 3,
        "lora_alpha": 12,
        "target_modules": ["q_proj", "down_proj"],
        **changed,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        model = peft.get_peft_model(_base(saved / "base"), peft.LoraConfig(**options)).eval()
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += 0.2 * torch.randn_like(weight)
    model.save_pretrained(saved / name, save_embedding_layers=False)
    return model


def test_adapters_that_peft_wrote_are_read(saved, world_pairs):
    ids, mask = _batch(world_pairs)
    theirs = [
        _by_peft(saved, "a"),
        _by_peft(saved, "other", r=2, layers_to_transform=[1], target_modules=["up_proj"]),
    ]
    model = LoraModel.load(saved, [saved / "a", str(saved / "other")])
    assert [len(a.pairs) for a in model.adapters] == [4, 1]
    with torch.no_grad():
        want = torch.cat([m(input_ids=ids, attention_mask=mask.long()).logits for m in theirs], -1)
        torch.testing.assert_close(model.raw(ids, mask), want, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(model.score(*_asked(world_pairs)), want, atol=1e-5, rtol=1e-5)


def test_adapters_in_bfloat16_are_read(saved, trained, world_pairs):
    from safetensors.torch import load_file, save_file

    at = saved / "member_0" / "adapter_model.safetensors"
    save_file({n: w.bfloat16() for n, w in load_file(at).items()}, at, {"format": "pt"})
    got, want = (m.score(*_asked(world_pairs)) for m in (LoraModel.load(saved), trained))
    np.testing.assert_allclose(got, want, atol=0.05)
    np.testing.assert_allclose(got[:, 1], want[:, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"use_rslora": True}, "use_rslora of .* = True: give"),
        ({"use_dora": True}, "use_dora of .* = True: give"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern of .* = {'q_proj': 2}: give"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern of .* = {'q_proj': 2}: give"),
        ({"init_lora_weights": "olora"}, "init_lora_weights of .* = 'olora': give one that leaves the base"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"tensors of .* = \[.*embed_tokens.*\]: give"),
        ({"bias": "all", "target_modules": ["query_key_value"]}, r"tensors of .* = \[.*bias.*\]: give"),
        ({"task_type": "FEATURE_EXTRACTION"}, r"score\.weight of .* = None: give a head \(1, 32\)"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_peft_can_and_we_do_not_is_refused(changed, words, saved, tiny_neox):
    """Read as if it were plain LoRA it would score wrongly, in silence."""
    if "bias" in changed:
        from_backbone(tiny_neox, 1, seed=0).save(saved / "base")
    _by_peft(saved, "odd", **changed)
    with pytest.raises(ValueError, match=words):
        LoraModel.load(saved, [saved / "odd"])


def test_a_saved_model_is_read_with_its_alignment(tiny_lm, world_pairs, tmp_path):
    model = lora(tiny_lm, world_pairs, QUICK, seed=0, k=11, rank=1, lora_layers=1)  # member_10 after member_9
    model.align(score_pairs(model, world_pairs).reshape(-1, 11))
    model.save(tmp_path)
    again, (ids, mask) = LoraModel.load(tmp_path), _batch(world_pairs)
    assert again.members == 11 and again.centre.abs().min() > 0
    with torch.no_grad():
        torch.testing.assert_close(again(ids, mask), model(ids, mask), atol=1e-6, rtol=1e-6)
        few = LoraModel.load(tmp_path, [tmp_path / "member_7", tmp_path / "member_2"])
        torch.testing.assert_close(few.raw(ids, mask), model.raw(ids, mask)[:, [7, 2]], atol=1e-6, rtol=1e-6)


def test_a_member_does_not_depend_on_k(tiny_lm, world_pairs, trained):
    three = lora(tiny_lm, world_pairs, QUICK, seed=0, k=3, rank=2, lora_layers=1)
    for mine, theirs in zip(trained.adapters, three.adapters, strict=False):
        for name, pair in mine.pairs.items():
            assert all(torch.equal(a, b) for a, b in zip(pair, theirs.pairs[name], strict=True))
    assert torch.equal(three.heads[:2], trained.heads)


def test_a_fresh_adapter_is_the_base(tiny_lm):
    base = from_backbone(tiny_lm, 1, seed=0)
    adapter = Adapter.fresh(base.trunk, 4, 8.0, "all-linear", 0, seed=1)
    assert len(adapter.pairs) == 14  # seven matrices in each of two blocks
    for name, weight in adapter.merged(base.trunk).items():
        assert torch.equal(weight, base.trunk.get_parameter(name))
        a, b = adapter.pairs[name]
        assert a.abs().max() <= a.shape[1] ** -0.5 and a.std() > 0.4 * a.shape[1] ** -0.5 and not b.any()


def test_one_stage_trains_adapters_and_heads_and_leaves_the_base(tiny_lm, world_pairs, trained):
    before = tiny_lm.model.state_dict()
    assert all(torch.equal(w, before[n]) for n, w in trained.trunk.state_dict().items())
    fresh = from_backbone(tiny_lm, 2, seed=0).model.score.weight
    assert not torch.equal(trained.heads[0], fresh[0]) and not torch.equal(trained.heads[1], fresh[1])
    for name, (a, b) in trained.adapters[0].pairs.items():
        other_a, other_b = trained.adapters[1].pairs[name]
        assert b.any() and other_b.any() and not torch.equal(a, other_a) and not torch.equal(b, other_b)
    scores = trained.score(*_asked(world_pairs))
    assert np.abs(scores[:, 0] - scores[:, 1]).mean() > 0.05


def test_the_first_stage_reads_the_first_part_of_the_pairs_and_the_second_the_rest(tiny_lm, world_pairs):
    def run(pairs):
        return lora(tiny_lm, pairs, QUICK, seed=0, k=2, rank=2, stage1=1 / 3)

    def turned(start, stop):
        swap = range(start, stop)
        chosen = [world_pairs.rejected[i] if i in swap else a for i, a in enumerate(world_pairs.chosen)]
        rejected = [world_pairs.chosen[i] if i in swap else a for i, a in enumerate(world_pairs.rejected)]
        return type(world_pairs)(world_pairs.prompts, chosen, rejected)

    plain, first, rest = (run(p) for p in (world_pairs, turned(0, 16), turned(16, 48)))
    assert fingerprint(plain.model) == fingerprint(rest.model) != fingerprint(first.model)
    untrained = from_backbone(tiny_lm, 1, seed=0)
    assert fingerprint(plain.model) != fingerprint(untrained.model)
    name = next(iter(plain.adapters[0].pairs))
    for k in range(2):
        assert not torch.equal(plain.adapters[k].pairs[name][1], rest.adapters[k].pairs[name][1])
        assert not torch.equal(plain.heads[k], rest.heads[k])
    assert not torch.equal(plain.heads[0], plain.heads[1])
    assert not torch.equal(*(a.pairs[name][1] for a in plain.adapters))


def test_adapters_start_apart_and_on_the_heads_of_the_first_stage(tiny_lm, world_pairs):
    """With a rate of next to nothing the second stage leaves the start: the base's own heads score."""
    from rmlab.reward.training import train

    model = lora(tiny_lm, world_pairs, QUICK, seed=0, k=2, stage1=2 / 3, rate=1e-9)
    base = from_backbone(tiny_lm, 2, seed=0)
    train(base, world_pairs.take(range(32)), QUICK, 0)
    np.testing.assert_allclose(model.score(*_asked(world_pairs)), base.score(*_asked(world_pairs)), atol=1e-5)
    one, two = (next(iter(a.pairs.values()))[0] for a in model.adapters)
    assert (one - two).abs().max() > 0.05


def test_targets_are_names_as_they_end(tiny_lm):
    trunk = from_backbone(tiny_lm, 1, seed=0).trunk
    for targets in ("q_proj", ["q_proj"], ("q_proj",)):
        names = list(Adapter.fresh(trunk, 2, 4.0, targets, 0, seed=0).pairs)
        assert names == [f"layers.{i}.self_attn.q_proj.weight" for i in range(2)]
    both = Adapter.fresh(trunk, 2, 4.0, ("v_proj", "up_proj"), 1, seed=0).pairs
    assert set(both) == {"layers.1.self_attn.v_proj.weight", "layers.1.mlp.up_proj.weight"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank = 0: give at least 1"),
        ({"lora_layers": 3}, r"lora_layers = 3: give 0 \(all\) to 2"),
        ({"lora_layers": -1}, "lora_layers = -1: give"),
        ({"targets": ["c_attn"]}, r"targets = \['c_attn'\]: no matrix of the model ends so"),
        ({"targets": "embed_tokens"}, "targets = 'embed_tokens': no matrix"),
        ({"stage1": 1.0}, r"stage1 = 1\.0: give a share of the pairs from 0 up to 1"),
        ({"stage1": -0.5}, r"stage1 = -0\.5: give"),
        ({"stage1": 0.8}, "pairs = 10: give at least one batch of 16"),
        ({"k": 0}, "members = 0: give at least 1"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, words, tiny_lm, world_pairs):
    with pytest.raises(ValueError, match=words):
        lora(tiny_lm, world_pairs, QUICK, seed=0, **{"k": 2, **options})


def test_folders_that_are_not_this_model_s_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match=r"members = \[\]: give at least one adapter folder beside .*base"):
        LoraModel.load(saved, [])
    one = saved / "member_0"
    with pytest.raises(ValueError, match=r"members = \['.*member_0'\]: give every adapter folder once"):
        LoraModel.load(saved, [one, saved / "member_1", saved / "base" / ".." / "member_0"])
    for k in range(2):
        for file in (saved / f"member_{k}").iterdir():
            file.unlink()
        (saved / f"member_{k}").rmdir()
    with pytest.raises(ValueError, match=r"members = \[\]: give at least one adapter folder"):
        LoraModel.load(saved)


def test_an_adapter_of_another_base_is_refused(saved, tiny_lm):
    other = build(Size(hidden=32, layers=2, heads=4, ff=48), len(VOCAB), seed=4)
    from_backbone(other, 1, seed=0).save(saved / "base")
    with pytest.raises(
        ValueError, match=r"base hash of .*member_0 = '[0-9a-f]{12}': give an adapter made for this"
    ):
        LoraModel.load(saved)
    shallow = build(Size(hidden=32, layers=1, heads=4, ff=48), len(VOCAB), seed=4)
    from_backbone(shallow, 1, seed=0).save(saved / "base")
    with pytest.raises(ValueError, match=r"layers\.1\..* of .*member_0 = .*made for this base"):
        LoraModel.load(saved)


@pytest.mark.parametrize("shape", [(1, 48), (2, 32)])
def test_a_head_of_another_shape_is_refused(saved, shape):
    from safetensors.torch import load_file, save_file

    at = saved / "member_1" / "adapter_model.safetensors"
    save_file({**load_file(at), "base_model.model.score.weight": torch.zeros(shape)}, at, {"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"score\.weight of .*member_1 = \({shape[0]}, {shape[1]}\): give a head \(1, 32\)"
    ):
        LoraModel.load(saved)


def test_a_rank_that_is_not_the_adapter_s_is_refused(saved):
    at = saved / "member_0" / "adapter_config.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), "r": 4}))
    with pytest.raises(ValueError, match=r"r of .*member_0 = 4: give .*2"):
        LoraModel.load(saved)


def test_a_member_left_from_another_save_is_not_read_as_one(saved, tiny_lm, world_pairs):
    model = lora(tiny_lm, world_pairs, QUICK, seed=0, k=1, rank=2, lora_layers=1)
    model.save(saved)
    with pytest.raises(ValueError, match=r"members = 2: give the 1 that were saved"):
        LoraModel.load(saved)


def test_heads_that_do_not_fit_the_adapters_are_refused(trained):
    with pytest.raises(ValueError, match=r"heads = \(1, 32\): give \(2, 32\)"):
        LoraModel(trained.model, trained.adapters, trained.heads[:1])
    with pytest.raises(ValueError, match="k = 0: give at least 1"):
        LoraModel(trained.model, [], trained.heads[:0])
