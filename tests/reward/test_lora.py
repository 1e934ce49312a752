"""LoRA members against PEFT's own: adapters that we train and PEFT reads, and the reverse."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlab.recipe import Training
from rmlab.reward.ensemble import load
from rmlab.reward.lora import Adapter, LoraModel, base_hash, train
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.reward.training import raw_score_pairs
from rmlab.reward.training import train as train_model

# transformers deprecates a name that PEFT 0.21 still uses
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
QUICK = Training(epochs=1, batch=16, lr=2e-3)


@pytest.fixture(scope="module")
def lora(tiny_lm, inputs_of):
    """A function (backbone, pairs, options) -> LoRA members, of the tiny backbone on all pairs unless said."""

    def trained(backbone=tiny_lm, pairs=None, **options):
        more = {} if pairs is None else {"pairs": pairs}
        return train(inputs_of(backbone, training=QUICK, **more), **options)

    return trained


@pytest.fixture(scope="module")
def seed(tiny_lm, inputs_of):
    return inputs_of(tiny_lm).seed_of()


@pytest.fixture(scope="module")
def trained(lora):
    return lora(k=2, rank=2, lora_layers=1)


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "lora")
    return tmp_path / "lora"


def _base(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("lora_layers", [0, 1])
@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox", "tiny_qwen"])
def test_members_equal_peft_adapter_by_adapter(lm, lora_layers, lora, rows, answers, request, tmp_path):
    """Merged weights, and the shared trunk below them, against PEFT's unmerged layers on the plain model."""
    peft = pytest.importorskip("peft")
    backbone = request.getfixturevalue(lm)
    model = lora(backbone, k=2, rank=2, alpha=6.0, lora_layers=lora_layers, rate=10.0)
    assert {n.split(".")[1] for a in model.adapters for n in a.pairs} == (
        {"1"} if lora_layers else {"0", "1"}
    )
    model.save(tmp_path)
    (ids, mask), scores = rows, model.score(*answers)
    with torch.no_grad():
        raw = model.raw_forward(ids, mask)
        for k in range(2):
            theirs = peft.PeftModel.from_pretrained(_base(tmp_path / "base"), tmp_path / f"member_{k}").eval()
            want = theirs(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
            np.testing.assert_allclose(raw[:, k], want, atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(scores[:, k], want, atol=1e-5, rtol=1e-5)
            with theirs.disable_adapter():
                without = theirs.base_model(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
            assert (without - want).abs().max() > 1e-2
    assert np.abs(scores[:, 0] - scores[:, 1]).max() > 1e-2


def test_a_member_folder_opens_with_peft_alone(saved, trained, rows, monkeypatch):
    peft = pytest.importorskip("peft")
    ids, mask = rows
    with torch.no_grad():
        want = trained.raw_forward(ids, mask)
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


def test_adapters_that_peft_wrote_are_read(saved, rows, answers):
    ids, mask = rows
    theirs = [
        _by_peft(saved, "a"),
        _by_peft(saved, "other", r=2, layers_to_transform=[1], target_modules=["up_proj"]),
    ]
    model = LoraModel.load(saved, [saved / "a", str(saved / "other")])
    assert [len(a.pairs) for a in model.adapters] == [4, 1]
    with torch.no_grad():
        want = torch.cat([m(input_ids=ids, attention_mask=mask.long()).logits for m in theirs], -1)
        torch.testing.assert_close(model.raw_forward(ids, mask), want, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(model.score(*answers), want, atol=1e-5, rtol=1e-5)


def test_adapters_in_bfloat16_are_read(saved, trained, answers):
    at = saved / "member_0" / "adapter_model.safetensors"
    save_file({n: w.bfloat16() for n, w in load_file(at).items()}, at, {"format": "pt"})
    got, want = (m.score(*answers) for m in (LoraModel.load(saved), trained))
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
        from_backbone(tiny_neox, 1, seed=0).model.save_pretrained(saved / "base")
    _by_peft(saved, "odd", **changed)
    with pytest.raises(ValueError, match=words):
        LoraModel.load(saved, [saved / "odd"])


def test_members_are_read_with_their_alignment_in_any_choice(lora, world_pairs, rows, tmp_path):
    model = lora(k=11, rank=1, lora_layers=1)  # member_10 after member_9
    model.align(raw_score_pairs(model, world_pairs).reshape(-1, 11))
    model.save(tmp_path / "lora")
    with torch.no_grad():
        want, again = model(*rows), load(tmp_path / "lora")
        assert again.members == 11 and again.aligned
        torch.testing.assert_close(again(*rows), want, atol=1e-5, rtol=1e-5)
        for few in ([7, 2], [tmp_path / "lora" / "member_7", str(tmp_path / "lora" / "member_2")]):
            chosen = LoraModel.load(tmp_path / "lora", few)
            assert chosen.aligned
            torch.testing.assert_close(chosen(*rows), want[:, [7, 2]], atol=1e-5, rtol=1e-5)


def test_an_adapter_from_elsewhere_has_no_alignment(saved, trained, world_pairs):
    model = copy.deepcopy(trained)
    model.align(raw_score_pairs(model, world_pairs).reshape(-1, 2))
    model.save(saved)
    (saved / "member_1").rename(saved.parent / "elsewhere")
    chosen = LoraModel.load(saved, [0, saved.parent / "elsewhere"])
    assert chosen.members == 2 and not chosen.aligned and chosen.centre.tolist() == [0, 0]


def test_a_folder_has_the_same_bytes_every_time(saved, trained, tmp_path):
    """Of several keys of a safetensors file the order is a hash's, and each file draws another one."""
    files = {p.relative_to(saved) for p in saved.rglob("*") if p.is_file()}
    assert len(files) == 2 + 1 + 2 * 3
    for i in range(6):
        trained.save(tmp_path / f"again{i}")
        for file in files:
            assert (tmp_path / f"again{i}" / file).read_bytes() == (saved / file).read_bytes(), file


def test_a_member_does_not_depend_on_k(lora, trained):
    three = lora(k=3, rank=2, lora_layers=1)
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


def test_one_stage_trains_adapters_and_heads_and_leaves_the_base(tiny_lm, seed, answers, trained):
    before = tiny_lm.model.state_dict()
    assert all(torch.equal(w, before[n]) for n, w in trained.trunk.state_dict().items())
    fresh = from_backbone(tiny_lm, 2, seed).model.score.weight
    assert trained.untrained == sum(w.numel() for w in trained.trunk.parameters())
    assert not torch.equal(trained.heads[0], fresh[0]) and not torch.equal(trained.heads[1], fresh[1])
    for name, (a, b) in trained.adapters[0].pairs.items():
        other_a, other_b = trained.adapters[1].pairs[name]
        assert b.any() and other_b.any() and not torch.equal(a, other_a) and not torch.equal(b, other_b)
    scores = trained.score(*answers)
    assert np.abs(scores[:, 0] - scores[:, 1]).mean() > 0.05


def test_the_first_stage_reads_the_first_part_of_the_pairs_and_the_second_the_rest(
    lora, tiny_lm, world_pairs
):
    def run(pairs):
        return lora(pairs=pairs, k=2, rank=2, stage1=1 / 3)

    def turned(start, stop):
        swap = range(start, stop)
        chosen = [world_pairs.rejected[i] if i in swap else a for i, a in enumerate(world_pairs.chosen)]
        rejected = [world_pairs.chosen[i] if i in swap else a for i, a in enumerate(world_pairs.rejected)]
        return type(world_pairs)(world_pairs.prompts, chosen, rejected)

    plain, first, rest = (run(p) for p in (world_pairs, turned(0, 16), turned(16, 48)))
    assert base_hash(plain.model) == base_hash(rest.model) != base_hash(first.model)
    untrained = from_backbone(tiny_lm, 1, seed=0)
    assert base_hash(plain.model) != base_hash(untrained.model) and plain.untrained == 0
    name = next(iter(plain.adapters[0].pairs))
    for k in range(2):
        assert not torch.equal(plain.adapters[k].pairs[name][1], rest.adapters[k].pairs[name][1])
        assert not torch.equal(plain.heads[k], rest.heads[k])
    assert not torch.equal(plain.heads[0], plain.heads[1])
    assert not torch.equal(*(a.pairs[name][1] for a in plain.adapters))


def test_adapters_start_apart_and_on_the_heads_of_the_first_stage(lora, tiny_lm, seed, world_pairs, answers):
    """With a rate of next to nothing the second stage leaves the start: the base's own heads score."""
    model = lora(k=2, stage1=2 / 3, rate=1e-9)
    base = from_backbone(tiny_lm, 2, seed)
    train_model(base, world_pairs.take(range(32)), QUICK, seed)
    np.testing.assert_allclose(model.score(*answers), base.score(*answers), atol=1e-5)
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
        (
            {"targets": ["c_attn"]},
            r"targets = 'c_attn': give ends of matrices' names, such as q_proj, k_proj",
        ),
        (
            {"targets": ("q_proj", "v_porj")},
            "targets = 'v_porj': give ends of matrices' names, .* or 'all-linear'",
        ),
        ({"targets": "embed_tokens"}, "targets = 'embed_tokens': give"),
        (
            {"targets": "layers.0.self_attn.q_proj", "lora_layers": 1},
            r"targets = 'layers\.0\.self_attn\.q_proj': give",
        ),
        ({"stage1": 1.0}, r"stage1 = 1\.0: give a share of the pairs from 0 up to 1"),
        ({"stage1": -0.5}, r"stage1 = -0\.5: give"),
        ({"stage1": 0.8}, "pairs = 10: give at least one batch of 16"),
        ({"k": 0}, "members = 0: give at least 1"),
    ],
    ids=str,
)
def test_bad_options_are_named(options, words, lora):
    with pytest.raises(ValueError, match=words):
        lora(**{"k": 2, **options})


def test_a_family_whose_blocks_are_not_its_layers_is_refused(lora):
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 48}
    opt = OPTForCausalLM(
        OPTConfig(vocab_size=200, **shape, word_embed_proj_dim=32, pad_token_id=0, eos_token_id=2)
    )
    with pytest.raises(
        ValueError, match="model = 'OPTModel': give a decoder family whose blocks are its trunk's `layers`"
    ):
        lora(opt, k=1)


def test_a_base_in_bfloat16_is_adapted_in_float32(lora, tiny_lm, answers):
    model = lora(copy.deepcopy(tiny_lm).bfloat16(), k=2, rank=2)
    assert {w.dtype for w in model.parameters()} == {torch.float32}
    scores = model.score(*answers)
    assert np.isfinite(scores).all() and np.abs(scores[:, 0] - scores[:, 1]).mean() > 0.01


def test_folders_that_are_not_this_model_s_are_refused(saved):
    with pytest.raises(ValueError, match=r"members = \[\]: give at least one adapter folder beside .*base"):
        LoraModel.load(saved, [])
    one = saved / "member_0"
    with pytest.raises(ValueError, match=r"members = \['.*member_0'\]: give every adapter folder once"):
        LoraModel.load(saved, [one, saved / "member_1", saved / "base" / ".." / "member_0"])
    with pytest.raises(ValueError, match=r"member_7/adapter_config\.json: cannot be read"):
        LoraModel.load(saved, [7])
    for k in range(2):
        for file in (saved / f"member_{k}").iterdir():
            file.unlink()
        (saved / f"member_{k}").rmdir()
    with pytest.raises(ValueError, match=r"members = \[\]: give at least one adapter folder"):
        load(saved)


def test_an_adapter_of_another_base_is_refused(saved, tiny_lm, another):
    from_backbone(another(tiny_lm), 1, seed=0).model.save_pretrained(saved / "base")
    words = r"base hash of .*member_0 = '[0-9a-f]{64}': give an adapter made for this base, [0-9a-f]{12}"
    with pytest.raises(ValueError, match=words):
        load(saved)
    from_backbone(another(tiny_lm, num_hidden_layers=1), 1, seed=0).model.save_pretrained(saved / "base")
    with pytest.raises(ValueError, match=r"layers\.1\..* of .*member_0 = .*made for this base"):
        load(saved)


def test_members_that_are_copies_are_refused(saved):
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (saved / "member_1" / name).write_bytes((saved / "member_0" / name).read_bytes())
    with pytest.raises(ValueError, match="members = 'member_1 is member_0 again': give every member once"):
        load(saved)


def _rewritten(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def _without(s, ending):
    return {n: w for n, w in s.items() if not n.endswith(ending)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {**s, "base_model.model.score.weight": torch.zeros(1, 48)},
            r"score\.weight of .*member_1 = \(1, 48\): give a head \(1, 32\)",
        ),
        (
            lambda s: {**s, "base_model.model.score.weight": torch.zeros(2, 32)},
            r"score\.weight of .*member_1 = \(2, 32\): give",
        ),
        (
            lambda s: {n: w * ("lora_B" not in n) for n, w in s.items()},
            "lora_B of .*member_1 = 'zero in every matrix': give an adapter that was trained",
        ),
        (
            lambda s: _without(s, "q_proj.lora_B.weight"),
            r"lora_B of .*member_1 = 'none for layers\.1\.self_attn\.q_proj",
        ),
        (
            lambda s: _without(s, "q_proj.lora_A.weight"),
            r"tensors of .*member_1 = \['.*q_proj\.lora_B\.weight'\]: give an adapter of the blocks",
        ),
    ],
    ids=["width", "K", "zero", "no B", "no A"],
)
def test_an_adapter_that_is_not_whole_is_refused(change, words, saved):
    _rewritten(saved / "member_1", change)
    with pytest.raises(ValueError, match=words):
        load(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 4}, r"r of .*member_0 = 4: give the rank of its matrices, 2"),
        ({"lora_alpha": None}, r"r and lora_alpha of .*member_0 = \(2, None\): give two numbers above 0"),
        ({"r": None}, r"r and lora_alpha of .*member_0 = \(None, 16\.0\)"),
        (
            {"fan_in_fan_out": True},
            "fan_in_fan_out of .*member_0 = True: give an adapter without it: plain LoRA",
        ),
        ({"alora_invocation_tokens": [7]}, r"alora_invocation_tokens of .*member_0 = \[7\]: give"),
        ({"some_new_kind": {"x": 1}}, "some_new_kind of .*member_0 = {'x': 1}: give an adapter without it"),
    ],
    ids=str,
)
def test_a_config_that_is_not_plain_lora_is_refused(changes, words, saved):
    at = saved / "member_0" / "adapter_config.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), **changes}))
    with pytest.raises(ValueError, match=words):
        load(saved)


def test_a_cut_or_pickled_adapter_is_named(saved):
    path = saved / "member_1" / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"member_1/adapter_model\.safetensors: cut or damaged"):
        load(saved)
    path.unlink()
    torch.save({}, saved / "member_1" / "adapter_model.bin")
    with pytest.raises(
        ValueError, match=r"member_1/adapter_model\.safetensors': give an existing safetensors file"
    ):
        load(saved)


def test_a_member_too_many_or_too_few_is_refused(saved):
    (saved / "member_1").rename(saved.parent / "member_1")
    with pytest.raises(ValueError, match=r"members of .*rmlab\.json = 2: give its weights' 1"):
        load(saved)


def test_heads_that_do_not_fit_the_adapters_are_refused(trained):
    with pytest.raises(ValueError, match=r"heads = \(1, 32\): give \(2, 32\)"):
        LoraModel(trained.model, trained.adapters, trained.heads[:1])
    with pytest.raises(ValueError, match="k = 0: give at least 1"):
        LoraModel(trained.model, [], trained.heads[:0])


def test_a_single_peft_folder_is_a_reward_model_of_one_member(saved, rows):
    ids, mask = rows
    theirs = _by_peft(saved, "alone")
    with torch.no_grad():
        want = theirs(input_ids=ids, attention_mask=mask.long()).logits
        torch.testing.assert_close(RewardModel.load(saved / "alone")(ids, mask), want, atol=1e-5, rtol=1e-5)
