"""Aligned scores, subsets, folders and devices, for every kind of ensemble alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rmlab.reward.dropout import DropoutModel
from rmlab.reward.ensemble import RewardEnsemble, Union, load
from rmlab.reward.laplace import LaplaceModel, Posterior
from rmlab.reward.lora import Adapter, LoraModel
from rmlab.reward.model import MlpHeads, RewardModel, from_backbone, with_heads
from rmlab.reward.training import raw_score_pairs, score_pairs


def _heads(lm, k=3):
    return from_backbone(lm, k, seed=1)


def _mlp(lm):
    return RewardModel(from_backbone(lm, 3, seed=1).model, MlpHeads(3, 32, 8, seed=1))


def _lora(lm, k=3):
    base, noise = from_backbone(lm, k, seed=1), torch.Generator().manual_seed(5)
    adapters = [Adapter.fresh(base.trunk, 2, 4.0, "all-linear", 1, seed=i) for i in range(k)]
    for adapter in adapters:
        for _, b in adapter.pairs.values():
            b.data = 0.2 * torch.randn(b.shape, generator=noise)
    return LoraModel(with_heads(base.model, torch.zeros(1, 32)), adapters, base.model.score.weight)


def _dropout(lm, k=3):
    return DropoutModel(from_backbone(lm, 1, seed=1), k, rate=0.3, seed=2)


def _laplace(lm, k=3):
    noise = torch.Generator().manual_seed(6)
    mean, root = (torch.randn(*shape, generator=noise, dtype=torch.float64) for shape in ((32,), (32, 32)))
    posterior = Posterior(mean, root @ root.T + torch.eye(32), tau=1.5)
    heads = with_heads(from_backbone(lm, 1, seed=1).model, posterior.sample(k, 0).float())
    return LaplaceModel(heads, posterior, mean / 2)


def _union_of_2(lm):
    return Union([_heads(lm, 1), _dropout(lm, 2)])


def _union_of_3(lm):
    return Union([_lora(lm, 2), _heads(lm, 2), _laplace(lm, 2)])


def _nested(lm):
    return Union([Union([_heads(lm, 2), from_backbone(lm, 1, seed=9)]), _lora(lm, 2)])


KINDS = [_heads, _mlp, _lora, _dropout, _laplace, _union_of_2, _union_of_3, _nested]


def _aligned(ensemble, pairs):
    ensemble.align(raw_score_pairs(ensemble, pairs).reshape(-1, ensemble.members))
    return ensemble


@pytest.mark.parametrize("kind", KINDS)
def test_every_score_is_aligned_unless_it_is_asked_for_raw(kind, tiny_lm, world_pairs, answers, rows):
    ensemble = kind(tiny_lm)
    raw = ensemble.raw_scores(*answers)
    assert not ensemble.aligned and np.array_equal(ensemble.score(*answers), raw)
    reference = raw_score_pairs(ensemble, world_pairs).reshape(-1, ensemble.members)
    ensemble.align(reference)
    assert ensemble.aligned and np.array_equal(ensemble.raw_scores(*answers), raw)
    want = (raw - reference.mean(0)) / reference.std(0)
    got = ensemble.score(*answers)
    assert got.dtype == np.float32 and np.abs(want - raw).min(0).max() > 0.01
    np.testing.assert_allclose(got, want, atol=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(ensemble(*rows), want, atol=1e-4)
        np.testing.assert_allclose(ensemble.raw_forward(*rows), raw, atol=1e-4)
    pairs = score_pairs(ensemble, world_pairs)
    assert pairs.shape == (48, 2, ensemble.members)
    flat = pairs.reshape(-1, ensemble.members)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(flat.std(0), 1, atol=1e-4)


@pytest.mark.parametrize("members", [[1], [2, 0], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_keeps_its_members_and_their_alignment(
    kind, members, tiny_lm, world_pairs, answers, rows, tmp_path
):
    ensemble = kind(tiny_lm)
    assert not ensemble.subset(members).aligned
    _aligned(ensemble, world_pairs)
    few = ensemble.subset(members)
    assert few.aligned and few.members == len(members) and few is not ensemble
    np.testing.assert_allclose(few.score(*answers), ensemble.score(*answers)[:, members], atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(few(*rows), ensemble(*rows)[:, members], atol=1e-5, rtol=1e-5)
    few.save(tmp_path / "few")
    again = load(tmp_path / "few")
    assert again.aligned
    np.testing.assert_allclose(again.score(*answers), few.score(*answers), atol=1e-5)


@pytest.mark.parametrize("members", [[], [3], [-1], [0, 0]], ids=str)
def test_members_that_are_not_there_or_twice_are_refused(members, tiny_lm):
    with pytest.raises(ValueError, match=r"members = \[.*\]: give different numbers from 0 to 2"):
        _heads(tiny_lm).subset(members)


def test_a_subset_of_a_laplace_model_keeps_the_posterior(tiny_lm, answers):
    whole = _laplace(tiny_lm)
    few = whole.subset([2, 1])
    assert isinstance(few, LaplaceModel) and few.posterior.tau == 1.5
    assert np.array_equal(few.score_std(*answers), whole.score_std(*answers))


@pytest.fixture(scope="module")
def ensembles(tiny_lm, world_pairs):
    """One of each kind, aligned."""
    return {kind.__name__: _aligned(kind(tiny_lm), world_pairs) for kind in KINDS}


@pytest.mark.parametrize("second", [kind.__name__ for kind in KINDS])
@pytest.mark.parametrize("first", [kind.__name__ for kind in KINDS])
def test_what_was_saved_last_is_what_loads(first, second, ensembles, answers, tmp_path):
    """Every ordered pair of kinds in one folder: nothing of the first is left."""
    folder = tmp_path / "reward"
    ensembles[first].save(folder)
    ensembles[second].save(folder)
    want, got = ensembles[second], load(folder)
    assert type(got) is type(want) and got.members == want.members and got.aligned
    np.testing.assert_allclose(got.score(*answers), want.score(*answers), atol=1e-5)
    clean = tmp_path / "clean"
    ensembles[second].save(clean)
    names = [{str(p.relative_to(root)) for p in root.rglob("*")} for root in (folder, clean)]
    assert names[0] == names[1] and sorted(p.name for p in tmp_path.iterdir()) == ["clean", "reward"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_says_whether_it_was_aligned(kind, tiny_lm, answers, tmp_path):
    ensemble = kind(tiny_lm)
    ensemble.save(tmp_path / "raw")
    again = load(tmp_path / "raw")
    assert not again.aligned
    np.testing.assert_allclose(again.score(*answers), ensemble.raw_scores(*answers), atol=1e-5)


def test_saving_one_ensemble_changes_nothing_that_another_saves(tiny_lm, tmp_path):
    """A dropout model and its network share a model: one folder must not say what the other is."""
    reward = from_backbone(tiny_lm, 1, seed=1)
    DropoutModel(reward, 3, rate=0.3, seed=2).save(tmp_path / "masks")
    reward.save(tmp_path / "whole")
    assert load(tmp_path / "whole").members == 1 and load(tmp_path / "masks").members == 3


def test_a_plain_hugging_face_folder_is_read_as_raw_scores(tiny_lm, answers, tmp_path):
    reward = from_backbone(tiny_lm, 2, seed=1)
    reward.model.save_pretrained(tmp_path)
    plain = load(tmp_path)
    assert not plain.aligned
    np.testing.assert_allclose(plain.score(*answers), reward.raw_scores(*answers), atol=1e-6)


def test_a_folder_without_an_ensemble_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"folder = .*: give one that an ensemble's save wrote"):
        load(tmp_path)
    with pytest.raises(ValueError, match="give one that an ensemble's save wrote"):
        load(tmp_path / "nowhere")


def _edit_card(folder, **changes):
    path = folder / "rmlab.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


GOOD = {"centre": [0.0, 1.0, 2.0], "scale": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"scale": [1.0, 0.0, 1.0]},
            r"scale of .*rmlab\.json = \[1\.0, 0\.0, 1\.0\]: give 3 finite numbers above 0",
        ),
        ({"scale": [1.0, float("nan"), 1.0]}, "scale of .* = .*nan.*: give 3 finite numbers above 0"),
        ({"scale": [1.0, -2.0, 1.0]}, r"scale of .* = .*-2\.0"),
        ({"scale": [1.0, 1e-60, 1.0]}, "scale of .* = .*1e-60"),
        ({"scale": [1.0, 1.0]}, r"scale of .* = \[1\.0, 1\.0\]: give 3 finite"),
        ({"scale": [1.0, 1.0, 1.0, 1.0]}, "scale of .*: give 3 finite"),
        ({"scale": "high"}, "scale of .* = 'high'"),
        ({"scale": None}, "scale of .* = None"),
        ({"centre": [0.0, float("inf"), 0.0]}, "centre of .* = .*inf.*: give 3 finite numbers, one a member"),
        ({"centre": [0.0]}, r"centre of .* = \[0\.0\]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [_heads, _lora, _dropout, _laplace])
def test_a_stored_alignment_that_is_none_is_refused(kind, changes, words, tiny_lm, tmp_path):
    kind(tiny_lm).save(tmp_path / "reward")
    _edit_card(tmp_path / "reward", alignment={**GOOD, **changes})
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "reward")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": 4}, r"members of .*rmlab\.json = 4: give its weights' 3"),
        ({"members": None}, "members of .* = None"),
        ({"format": "boosting"}, "format of .* = 'boosting': give a method of METHODS"),
        ({"format": ["heads"]}, "format of .* = .'heads'.: give"),
        (
            {"format": "finetune"},
            "format of .* = 'finetune': give a method of METHODS whose module has `load`",
        ),
        ({"format": "dropout"}, "masks and seed of .* = .None, None.: give whole numbers"),
        ({"alignment": [1, 2]}, r"alignment of .* = \[1, 2\]: give null, or centre and scale"),
    ],
    ids=str,
)
def test_a_card_that_does_not_fit_its_folder_is_refused(changes, words, tiny_lm, tmp_path):
    _heads(tiny_lm).save(tmp_path / "reward")
    _edit_card(tmp_path / "reward", **changes)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "reward")


def test_a_folder_of_another_format_is_not_read_as_this_one(tiny_lm, tmp_path):
    """Without its masks a dropout model is another judge."""
    _dropout(tiny_lm).save(tmp_path / "masks")
    with pytest.raises(
        ValueError, match=r"format of .* = 'dropout': give a folder of heads, or load it with rmlab\.load"
    ):
        RewardModel.load(tmp_path / "masks")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (
            np.full((1000, 3), 0.35),
            r"spread of members \[0, 1, 2\] on the reference = .*: give answers on which every member",
        ),
        (np.array([[1.0, 2.0, 5.0], [1.0, 3.0, 5.0 + 1e-9]]), r"spread of members \[0, 2\] on the reference"),
        (np.ones((5, 2)), r"reference = \(5, 2\): give an array \(R, 3\)"),
        (np.ones((0, 3)), r"reference = \(0, 3\)"),
        (np.ones((2, 2, 3)), r"reference = \(2, 2, 3\)"),
        (np.array([[1.0, np.nan, 2.0], [0.0, 1.0, np.inf]]), "reference = '2 scores that are not finite'"),
    ],
    ids=lambda x: str(x.shape) if isinstance(x, np.ndarray) else "",
)
def test_a_reference_on_which_a_member_says_nothing_is_refused(reference, words, tiny_lm):
    ensemble = _heads(tiny_lm)
    with pytest.raises(ValueError, match=words):
        ensemble.align(reference)
    assert not ensemble.aligned and ensemble.scale.tolist() == [1, 1, 1]


def test_a_union_is_aligned_when_all_its_parts_are(tiny_lm, world_pairs, rows):
    one, two = _aligned(_heads(tiny_lm, 2), world_pairs), _dropout(tiny_lm, 2)
    half = Union([one, two])
    assert not half.aligned
    with torch.no_grad():
        assert torch.equal(half(*rows), half.raw_forward(*rows))
        whole = Union([one, _aligned(two, world_pairs)])
        want = torch.cat([one(*rows), two(*rows)], -1)
        assert whole.aligned and (want - half(*rows)).abs().max() > 0.1
        torch.testing.assert_close(whole(*rows), want)
    with pytest.raises(ValueError, match="parts = 0: give at least one ensemble"):
        Union([])


def test_aligning_a_union_leaves_its_parts_and_goes_with_its_folder(tiny_lm, world_pairs, answers, tmp_path):
    parts = [_heads(tiny_lm, 2), _dropout(tiny_lm, 2)]
    union = _aligned(Union(parts), world_pairs)
    union.save(tmp_path / "union")
    assert [p.aligned for p in parts] == [False, False]
    np.testing.assert_allclose(load(tmp_path / "union").score(*answers), union.score(*answers), atol=1e-5)


def test_parts_that_are_missing_or_copies_are_refused(tiny_lm, tmp_path):
    union = _union_of_3(tiny_lm)
    union.save(tmp_path / "union")
    (tmp_path / "union" / "part_1").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"parts of .* = \['part_0', 'part_2'\]: give the 3 that were saved"):
        load(tmp_path / "union")
    twins = Union([_heads(tiny_lm, 1), _heads(tiny_lm, 1)])
    twins.save(tmp_path / "twins")
    with pytest.raises(ValueError, match=r"parts of .* = 'part_1 is part_0 again': give every member once"):
        load(tmp_path / "twins")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_moves_with_the_model(kind, tiny_lm, world_pairs):
    """To a device without data: whatever were left behind would still be on the CPU."""
    ensemble = _aligned(kind(tiny_lm), world_pairs).to("meta")
    tensors = [*ensemble.parameters(), *ensemble.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}
    for part in getattr(ensemble, "parts", [ensemble]):
        if isinstance(part, LoraModel):
            held = [m for adapter in part.adapters for pair in adapter.pairs.values() for m in pair]
            assert {m.device.type for m in [*held, part.heads]} == {"meta"}
        if isinstance(part, DropoutModel):
            assert {m.device.type for masks in part.masks for m in masks.values()} == {"meta"}
        if isinstance(part, LaplaceModel):
            assert {part.posterior.mean.device.type, part.posterior.precision.device.type} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_weights_keep_their_alignment_whole(kind, tiny_lm, world_pairs, answers):
    ensemble = _aligned(kind(tiny_lm), world_pairs)
    centre, want = ensemble.centre.clone(), ensemble.score(*answers)
    ensemble.to(torch.bfloat16)
    assert next(ensemble.parameters()).dtype == torch.bfloat16
    assert ensemble.centre.dtype == torch.float32 and torch.equal(ensemble.centre, centre)
    got = ensemble.score(*answers)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=0.4)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


class _Scripted(RewardEnsemble):
    """Two members that give whatever tensor they were handed."""

    def __init__(self, special, raw):
        super().__init__(2, special)
        self.raw = raw

    def raw_forward(self, ids, mask):
        return self.raw

    def raw_pair_scores(self, prompts, chosen, rejected):
        return self.raw

    def prompt_scorer(self, prompts, max_new_tokens):
        return lambda ids, lengths: self.raw


@pytest.mark.parametrize("shape", [(1, 2), (4, 1), (2, 4), (4,), (), (4, 2, 1)], ids=str)
def test_scores_of_another_shape_are_not_spread_over_the_answers(shape, tiny_lm, world_pairs):
    ensemble = _Scripted(from_backbone(tiny_lm, 1, seed=0).special, torch.ones(shape))
    words = r"shape of the scores = \(.*\): give \(.*, 2\): a row an answer"
    with pytest.raises(ValueError, match=words):
        ensemble(torch.ones(4, 3, dtype=torch.long), torch.ones(4, 3))
    with pytest.raises(ValueError, match=words):
        ensemble.score(np.arange(3), np.ones((4, 3), int), np.full(4, 3))
    with pytest.raises(ValueError, match=words):
        raw_score_pairs(ensemble, world_pairs.take(range(2)))
    with pytest.raises(ValueError, match=words):
        ensemble.align_raw(np.ones((4, 3), np.float32))


@pytest.mark.parametrize(
    ("ids", "lengths", "words"),
    [
        (np.full((2, 3), 7), [0, 3], "lengths = 0: give answers of at least one token"),
        (np.full((2, 3), 7), [1, 4], "lengths = 4: give at most the 3 tokens of a row"),
        (np.full((2, 3), 7), [1], r"lengths = \(1,\): give one for each answer"),
        (np.full(3, 7), [1, 1, 1], r"lengths = \(3,\): give one for each answer of ids"),
    ],
    ids=str,
)
def test_lengths_that_are_not_the_answers_are_refused(ids, lengths, words, tiny_lm):
    for ensemble in (_heads(tiny_lm), _lora(tiny_lm), _union_of_2(tiny_lm)):
        with pytest.raises(ValueError, match=words):
            ensemble.score(np.arange(5, 9), ids, np.array(lengths))


def test_no_answers_have_no_scores(tiny_lm):
    for ensemble in (_heads(tiny_lm), _lora(tiny_lm), _union_of_2(tiny_lm)):
        scores = ensemble.score(np.arange(5, 9), np.zeros((0, 3), int), np.zeros(0, int))
        assert scores.shape == (0, ensemble.members)


def test_the_special_tokens_are_those_of_the_model(tiny_lm):
    config = tiny_lm.config
    for ensemble in (kind(tiny_lm) for kind in KINDS):
        assert (ensemble.special.pad, ensemble.special.eos) == (config.pad_token_id, (config.eos_token_id,))


def test_parts_that_end_answers_otherwise_are_no_union(tiny_lm, another):
    other = another(tiny_lm, eos_token_id=7)
    with pytest.raises(
        ValueError, match=r"special tokens of parts = .*eos=\(7,\).*: give those of the first part"
    ):
        Union([_heads(tiny_lm), _heads(other)])
