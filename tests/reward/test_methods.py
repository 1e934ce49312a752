"""The table of constructions: one member of each is the single model, and every bad line is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmlab.backbone import build as backbone
from rmlab.recipe import Size, Training
from rmlab.reward.lora import LoraModel
from rmlab.reward.methods import CONSTRUCTIONS, Ingredients, build, check, load, members_of
from rmlab.reward.model import RewardModel, Union, checksums, from_backbone
from rmlab.reward.training import train
from rmlab.sources.sandbox.world import VOCAB
from rmlab.tokens import pad_right

QUICK = Training(epochs=1, batch=16, lr=5e-3)
ONE = {"single": {}, "mixed": {"parts": (("finetune", {"k": 1}),)}}
TWO = {
    "single": {},
    "mixed": {"parts": (("finetune", {"k": 2}), ("pretrain", {"k": 2}), ("laplace", {"k": 2}))},
}


@pytest.fixture(scope="module")
def data(tiny_lm, world_pairs):
    other = backbone(Size(hidden=32, layers=2, heads=4, ff=48), len(VOCAB), seed=4).eval()
    return Ingredients([tiny_lm, other], world_pairs, QUICK, seed=7)


def _single(data, of=0, finetune=0):
    """A single reward model, written out."""
    seed = data.seed_of(of, finetune)
    model = from_backbone(data.backbones[of], 1, seed)
    train(model, data.pairs, data.training, seed)
    return model


def _score(model, pairs):
    ids, lengths = pad_right(pairs.chosen)[0], np.array([len(a) for a in pairs.chosen])
    return model.score(np.array(pairs.prompts[0]), ids, lengths)


def _same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(w, theirs[n]) for n, w in mine.items())


@pytest.mark.parametrize("kind", [k for k in CONSTRUCTIONS if k != "lora"])
def test_one_member_is_the_single_model_bit_for_bit(kind, data):
    got, want = build(kind, data, **ONE.get(kind, {"k": 1})), _single(data)
    assert isinstance(got, RewardModel) and got.members == 1
    assert _same(got.model, want.model)
    assert np.array_equal(_score(got, data.pairs), _score(want, data.pairs))


def test_one_adapter_is_the_first_of_many(data):
    """With one member LoRA is an adapter still; what K does not change is the member."""
    one, two = (build("lora", data, k=k, rank=2) for k in (1, 2))
    assert isinstance(one, LoraModel) and one.members == 1
    np.testing.assert_allclose(_score(one, data.pairs)[:, 0], _score(two, data.pairs)[:, 0], atol=1e-6)


@pytest.mark.parametrize("kind", CONSTRUCTIONS)
def test_a_line_has_as_many_members_as_it_says_and_they_differ(kind, data):
    options = TWO.get(kind, {"k": 2})
    model = build(kind, data, **options)
    assert model.members == members_of(kind, options) == {"single": 1, "average": 1, "mixed": 5}.get(kind, 2)
    scores = _score(model, data.pairs)
    assert scores.shape == (48, model.members) and np.isfinite(scores).all()
    for i in range(model.members):
        for j in range(i):
            assert np.abs(scores[:, i] - scores[:, j]).max() > 1e-3, (i, j)
    again = build(kind, data, **options)
    assert np.array_equal(_score(again, data.pairs), scores)


def test_unions_are_the_single_models_of_their_seeds(data):
    finetune, pretrain = build("finetune", data, k=2), build("pretrain", data, k=2)
    singles = {(b, f): _single(data, b, f) for b, f in ((0, 0), (0, 1), (1, 0))}
    for union, seeds in ((finetune, ((0, 0), (0, 1))), (pretrain, ((0, 0), (1, 0)))):
        for part, seed in zip(union.parts, seeds, strict=True):
            assert _same(part.model, singles[seed].model)
    mixed = build("mixed", data, **TWO["mixed"])
    assert isinstance(mixed, Union) and [p.members for p in mixed.parts] == [1, 1, 1, 2]
    for part, seed in zip(mixed.parts, ((0, 0), (0, 1), (1, 0)), strict=False):  # (0, 0) is trained once
        assert _same(part.model, singles[seed].model)
    assert len(checksums(mixed.parts[:3])) == 3


def test_an_average_is_that_of_the_finetuned_members(data):
    members, got = build("finetune", data, k=2).parts, build("average", data, k=2)
    one, two = (dict(m.model.named_parameters()) for m in members)
    for name, weight in got.model.named_parameters():
        torch.testing.assert_close(weight, (one[name] + two[name]) / 2, atol=1e-7, rtol=1e-6)
    probed = build("average", data, k=2, probed=True)
    assert probed.members == 1 and not _same(probed.model, got.model)


def test_options_reach_the_construction(data):
    assert build("heads", data, k=2, mlp=4).mlp.first.shape == (2, 4, 32)
    assert build("lora", data, k=1, rank=3, lora_layers=1).adapters[0].rank == 3
    assert build("dropout", data, k=2, rate=0.25).rate == 0.25
    assert build("laplace", data, k=2, tau=3.0).posterior.tau == 3.0
    for kind in ("heads", "lora"):
        longer, shorter = (build(kind, data, k=1, epochs=n) for n in (2, None))
        assert not np.array_equal(_score(longer, data.pairs), _score(shorter, data.pairs))


@pytest.mark.parametrize("kind", CONSTRUCTIONS)
def test_a_line_s_defaults_are_written_out(kind):
    check(kind, CONSTRUCTIONS[kind].options)
    assert members_of(kind, {}) == members_of(kind, CONSTRUCTIONS[kind].options)
    line = CONSTRUCTIONS[kind]
    assert line.label and line.origin and line.source


@pytest.mark.parametrize("k", [0, -3, 2.5, "3"])
@pytest.mark.parametrize("kind", [k for k in CONSTRUCTIONS if k not in {"single", "mixed"}])
def test_a_k_that_is_no_number_of_members_is_refused(kind, k, data):
    words = rf"k of {kind} = {k!r}: give a whole number of members, at least 1"
    with pytest.raises(ValueError, match=words):
        check(kind, {"k": k})
    with pytest.raises(ValueError, match=words):
        build(kind, data, k=k)
    with pytest.raises(ValueError, match=words):
        build("mixed", data, parts=(("finetune", {"k": 1}), (kind, {"k": k})))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("boosting", {}, r"construction = 'boosting': give one of single, finetune, pretrain, heads"),
        ("heads", {"depth": 2}, r"option of heads = 'depth': give one of k, frozen, init, penalty"),
        ("single", {"k": 2}, "option of single = 'k': give"),
        ("mixed", {"k": 2}, "option of mixed = 'k': give one of parts"),
        ("mixed", {"parts": (("boosting", {}),)}, "construction = 'boosting': give one of"),
        ("mixed", {"parts": (("dropout", {"init": 2}),)}, "option of dropout = 'init': give one of k, rate"),
        ("mixed", {"parts": ()}, "parts = 0: give at least one scorer"),
        ("heads", {"k": 2, "penalty": "lasso"}, "penalty = 'lasso': give decay, none, l2 or anchor"),
        ("dropout", {"k": 2, "rate": 1.0}, r"rate = 1\.0: give a share from 0 up to 1"),
        ("lora", {"k": 2, "rank": 0}, "rank = 0: give at least 1"),
        ("laplace", {"k": 2, "tau": -1.0}, r"tau = -1\.0: give None or a positive number"),
    ],
)
def test_a_bad_line_is_named(kind, options, words, data):
    with pytest.raises(ValueError, match=words):
        build(kind, data, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("pretrain", {"k": 3}),
        ("pretrain", {}),
        ("mixed", {"parts": (("finetune", {"k": 2}), ("pretrain", {"k": 3}))}),
    ],
    ids=str,
)
def test_more_pretraining_seeds_than_backbones_are_refused_before_any_training(
    kind, options, data, monkeypatch
):
    import rmlab.reward.training as training

    monkeypatch.setattr(training, "descend", lambda *_, **__: pytest.fail("it trained"))
    wanted = options.get("k", 3 if options else 5)
    with pytest.raises(ValueError, match=f"backbones of {kind} = 2: give at least {wanted}"):
        build(kind, data, **options)


@pytest.mark.parametrize(
    ("kind", "options", "who"),
    [
        ("single", {}, "backbone 0, finetuning seed 0: "),
        ("heads", {"k": 2}, ""),
        ("lora", {"k": 2}, r"member 0 at rate = 5\.0 x training\.lr: "),
        ("lora", {"k": 2, "stage1": 2 / 3}, ""),
        ("dropout", {"k": 2}, ""),
        ("laplace", {"k": 2}, "backbone 0, finetuning seed 0: "),
    ],
    ids=str,
)
def test_training_that_runs_off_says_the_step_and_whose_it_was(kind, options, who, data):
    wild = Ingredients(data.backbones, data.pairs, Training(epochs=2, batch=16, lr=1e12), seed=7)
    with pytest.raises(
        ValueError, match=rf"^{who}loss = \S+ at step 1 \(.*\): lower training\.lr = [15]0+\.0"
    ):
        build(kind, wild, **options)


@pytest.mark.parametrize(
    ("kind", "options", "who"),
    [
        ("finetune", {"k": 3}, "backbone 0, finetuning seed 1"),
        ("average", {"k": 3}, "backbone 0, finetuning seed 1"),
        ("average", {"k": 3, "probed": True}, "member 1"),
        ("pretrain", {"k": 2}, "backbone 1, finetuning seed 0"),
        ("lora", {"k": 2}, r"member 1 at rate = 5\.0 x training\.lr"),
    ],
    ids=str,
)
def test_of_several_trainings_the_one_that_failed_is_named(kind, options, who, data, monkeypatch):
    """The second of them meets a score that is not a number, at its third step."""
    import rmlab.reward.training as training

    steps, nats = [0], training.nats

    def spoilt(margin, weights=None):
        steps[0] += 1
        return nats(margin, weights) * (float("nan") if steps[0] == 6 + 3 * ("probed" in options) else 1)

    monkeypatch.setattr(training, "nats", spoilt)  # three steps a training
    with pytest.raises(ValueError, match=f"^{who}: loss = nan at step 2 "):
        build(kind, data, **options)


@pytest.mark.parametrize("kind", CONSTRUCTIONS)
def test_every_scorer_loads_from_the_folder_it_saved(tmp_path, kind, data, world_pairs):
    scorer = build(kind, data, **TWO.get(kind, {"k": 2}))
    scorer.align(np.random.default_rng(0).normal(1.0, 2.0, (40, scorer.members)))
    scorer.save(tmp_path)
    ids, mask = world_pairs.batch(range(4))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(ids, mask), scorer(ids, mask), atol=1e-5, rtol=1e-5)


def test_a_folder_without_a_scorer_is_named(tmp_path):
    with pytest.raises(ValueError, match="one that a scorer's `save` wrote"):
        load(tmp_path)
