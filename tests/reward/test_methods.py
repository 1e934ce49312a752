"""The table of methods: one member of each is the single model, a new one is a file and an entry, every bad line is named."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from rmlab.fingerprint import Lookup
from rmlab.recipe import Training, stream_seed
from rmlab.reward.ensemble import Union, load
from rmlab.reward.lora import LoraModel
from rmlab.reward.methods import (
    METHODS,
    MemberSpec,
    Method,
    TrainingInputs,
    check_options,
    members_of,
    options_of,
    parts_of,
    relative_cost,
    singles_of,
    train_ensemble,
)
from rmlab.reward.model import RewardModel
from rmlab.reward.single import train_member

QUICK = Training(epochs=1, batch=16, lr=5e-3)
ONE = {"single": {}, "mixed": {"parts": (("finetune", {"k": 1}),)}}
PARTS = (("finetune", {"k": 2}), ("pretrain", {"k": 2}), ("laplace", {"k": 2}))
TWO = {"single": {}, "mixed": {"parts": PARTS}}


@pytest.fixture(scope="module")
def inputs(tiny_lm, world_pairs, another):
    return TrainingInputs([tiny_lm, another(tiny_lm, 4)], world_pairs, QUICK, seed=7)


def _same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(w, theirs[n]) for n, w in mine.items())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "lora"])
def test_one_member_is_the_single_model_bit_for_bit(method, inputs, answers):
    got, want = (
        train_ensemble(method, inputs, **ONE.get(method, {"k": 1})),
        train_member(inputs, MemberSpec()),
    )
    assert isinstance(got, RewardModel) and got.members == 1
    assert _same(got.model, want.model)
    assert np.array_equal(got.score(*answers), want.score(*answers))


def test_one_adapter_is_the_first_of_many(inputs, answers):
    """With one member LoRA is an adapter still; what K does not change is the member."""
    one, two = (train_ensemble("lora", inputs, k=k, rank=2) for k in (1, 2))
    assert isinstance(one, LoraModel) and one.members == 1
    np.testing.assert_allclose(one.score(*answers)[:, 0], two.score(*answers)[:, 0], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_an_ensemble_has_as_many_members_as_it_says_and_they_differ_and_load(
    method, inputs, answers, tmp_path
):
    options = TWO.get(method, {"k": 2})
    ensemble = train_ensemble(method, inputs, **options)
    expected = {"single": 1, "average": 1, "mixed": 5}.get(method, 2)
    assert ensemble.members == members_of(method, options) == expected and not ensemble.aligned
    scores = ensemble.score(*answers)
    assert scores.shape == (48, ensemble.members) and np.isfinite(scores).all()
    for i in range(ensemble.members):
        for j in range(i):
            assert np.abs(scores[:, i] - scores[:, j]).max() > 1e-3, (i, j)
    ensemble.save(tmp_path / "reward")
    np.testing.assert_allclose(load(tmp_path / "reward").score(*answers), scores, atol=1e-5)
    assert np.array_equal(train_ensemble(method, inputs, **options).score(*answers), scores)


def test_options_reach_the_method(inputs, answers):
    assert train_ensemble("heads", inputs, k=2, mlp=4).mlp.first.shape == (2, 4, 32)
    assert train_ensemble("lora", inputs, k=1, rank=3, lora_layers=1).adapters[0].rank == 3
    assert train_ensemble("dropout", inputs, k=2, rate=0.25).rate == 0.25
    assert train_ensemble("laplace", inputs, k=2, tau=3.0).posterior.tau == 3.0
    for method in ("heads", "lora"):
        longer, shorter = (train_ensemble(method, inputs, k=1, epochs=n) for n in (2, None))
        assert not np.array_equal(longer.score(*answers), shorter.score(*answers))


def test_seeds_are_named_by_draw_backbone_and_finetuning_seed(inputs):
    assert inputs.seed_of() == stream_seed(7, "member", 0, 0, 0)
    assert inputs.seed_of(1, 2) == stream_seed(7, "member", 0, 1, 2)
    other = TrainingInputs(inputs.backbones, inputs.pairs, QUICK, seed=7, draw=3, backbone_ids=(4, 9))
    assert other.seed_of(1, 2) == stream_seed(7, "member", 3, 9, 2)
    with pytest.raises(ValueError, match=r"backbone_ids = \(4,\): give one for each of 2 backbones"):
        TrainingInputs(inputs.backbones, inputs.pairs, QUICK, seed=7, backbone_ids=(4,))


def test_a_recipe_is_changed_where_it_is_said(inputs):
    assert inputs.training_for() == QUICK
    changed = inputs.training_for(epochs=7, rate=0.5)
    assert (changed.epochs, changed.lr, changed.batch) == (7, 2.5e-3, 16)


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_options_and_the_entry_is_filled(method):
    check_options(method, options_of(method))
    assert members_of(method, {}) == members_of(method, options_of(method))
    entry = METHODS[method]
    assert entry.label and entry.origin and entry.source and isinstance(METHODS, Lookup)


@pytest.mark.parametrize(
    ("method", "options", "cost"),
    [
        ("single", {}, (1, 1, 1)),
        ("finetune", {"k": 3}, (3, 3, 3)),
        ("pretrain", {}, (5, 5, 5)),
        ("heads", {"k": 8}, (1, 1, 1)),
        ("heads", {"frozen": True}, (1 / 3, 1, 1)),
        ("lora", {"k": 2, "rank": 4}, (2, 2, 1 + 2 * 0.4)),
        ("lora", {"k": 4, "stage1": 0.5, "lora_layers": 1}, (2.5, 4, 1 + 4 * 1.8)),
        ("dropout", {"k": 3}, (1, 3, 1)),
        ("laplace", {"k": 3}, (4 / 3, 1, 1)),
        ("average", {"k": 3}, (3, 1, 1)),
        ("mixed", {"parts": PARTS}, (3 + 4 / 3, 4, 4)),
        ("mixed", {}, (9, 9, 9)),
    ],
    ids=str,
)
def test_costs_are_in_units_of_one_model(method, options, cost):
    got = relative_cost(method, options, lambda rank, lora_layers=0: 0.1 * rank + lora_layers)
    assert got == pytest.approx(cost)


def test_parts_are_single_models_each_once_and_then_the_others():
    parts = (("finetune", {"k": 2}), ("laplace", {"k": 3}), ("pretrain", {"k": 2}), ("average", {}))
    singles, others = parts_of("mixed", {"parts": parts})
    assert singles == [MemberSpec(0, 0), MemberSpec(0, 1), MemberSpec(1, 0)]
    assert others == [("laplace", {"k": 3}), ("average", {})]
    assert parts_of("mixed", {"parts": (("mixed", {"parts": parts}), ("single", {}))}) == (singles, others)
    assert singles_of("mixed", {"parts": parts}) == [*singles, *(MemberSpec(0, f) for f in (2, 3, 4))]
    assert parts_of("heads", {"k": 2}) == ([], [("heads", {"k": 2})]) and singles_of("heads", {"k": 2}) == []
    assert parts_of("finetune", {"k": 2, "backbone": 3, "epochs": 4})[0] == [
        MemberSpec(3, 0, 4),
        MemberSpec(3, 1, 4),
    ]


TOY = """
from rmlab.reward.model import RewardModel, from_backbone

def train(inputs, k=2, shift=0.0):
    model = from_backbone(inputs.backbones[0], k, inputs.seed_of())
    model.model.score.weight.data += shift
    return model
"""
OWN = """
from rmlab.reward.model import RewardModel
from rmlab.reward.single import train_member
from rmlab.reward.methods import MemberSpec

def train(inputs, copies=2):
    return Turned(train_member(inputs, MemberSpec()).model)

def singles():
    return [MemberSpec()]

def members():
    return 1

def relative_cost(adapter_fraction, copies=2):
    return copies, 1, 1

def load(folder):
    turned = Turned(RewardModel.load(folder / "plain").model)
    turned.restore_alignment(folder)
    return turned

class Turned(RewardModel):
    format = "own"

    def head(self, hidden):
        return -super().head(hidden)

    def _write_weights(self, folder):
        (folder / "plain").mkdir()
        RewardModel(self.model).write(folder / "plain")
        return {}
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Two methods of somebody else's: a file and an entry each."""
    for name, text in (("toy", TOY), ("own", OWN)):
        (tmp_path / f"rmlab_test_{name}.py").write_text(text)
        entry = Method(f"a {name}", "nowhere", "this test", f"rmlab_test_{name}")
        monkeypatch.setitem(METHODS, name, entry)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("toy", "own"):
        sys.modules.pop(f"rmlab_test_{name}", None)


def test_a_new_method_is_a_file_and_an_entry(toys, inputs, answers, tmp_path):
    assert options_of("toy") == {"k": 2, "shift": 0.0} and members_of("toy", {"k": 3}) == 3
    assert relative_cost("toy", {"k": 3}, lambda *_: 0) == (3, 3, 3) and singles_of("toy", {}) == []
    with pytest.raises(ValueError, match="option of toy = 'depth': give one of k, shift"):
        train_ensemble("toy", inputs, depth=1)
    toy = train_ensemble("toy", inputs, k=3, shift=0.5)
    union = train_ensemble("mixed", inputs, parts=(("single", ()), ("toy", (("k", 3), ("shift", 0.5)))))
    assert isinstance(union, Union) and union.members == 4
    assert np.array_equal(union.score(*answers)[:, 1:], toy.score(*answers))
    toy.save(tmp_path / "saved")
    assert np.array_equal(load(tmp_path / "saved").score(*answers), toy.score(*answers))


def test_a_new_method_may_have_folders_costs_and_members_of_its_own(toys, inputs, answers, tmp_path):
    assert members_of("own", {}) == 1 and singles_of("own", {}) == [MemberSpec()]
    assert relative_cost("own", {"copies": 4}, lambda *_: 0) == (4, 1, 1)
    own = train_ensemble("own", inputs)
    own.set_alignment([1.0], [2.0])
    assert np.array_equal(own.raw_scores(*answers), -train_member(inputs, MemberSpec()).raw_scores(*answers))
    own.write(tmp_path)
    assert np.array_equal(load(tmp_path).score(*answers), own.score(*answers))


def test_the_table_is_read_without_torch():
    code = "import sys; from rmlab.reward.methods import METHODS; print(len(METHODS), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(len(METHODS)), "False"]


@pytest.mark.parametrize("k", [0, -3, 2.5, "3"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in {"single", "mixed"}])
def test_a_k_that_is_no_number_of_members_is_refused(method, k, inputs):
    words = rf"k of {method} = {k!r}: give a whole number of members, at least 1"
    with pytest.raises(ValueError, match=words):
        check_options(method, {"k": k})
    with pytest.raises(ValueError, match=words):
        train_ensemble(method, inputs, k=k)
    with pytest.raises(ValueError, match=words):
        train_ensemble("mixed", inputs, parts=(("finetune", {"k": 1}), (method, {"k": k})))


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("boosting", {}, r"method = 'boosting': give one of single, finetune, pretrain, heads"),
        ("heads", {"depth": 2}, r"option of heads = 'depth': give one of k, frozen, init, penalty"),
        ("single", {"k": 2}, "option of single = 'k': give one of epochs"),
        ("mixed", {"k": 2}, "option of mixed = 'k': give one of parts"),
        ("mixed", {"parts": (("boosting", {}),)}, "method = 'boosting': give one of"),
        (
            "mixed",
            {"parts": ("heads", "lora")},
            "parts of mixed = 'heads': give pairs of a method and its options",
        ),
        ("mixed", {"parts": (("dropout", {"init": 2}),)}, "option of dropout = 'init': give one of k, rate"),
        ("mixed", {"parts": ()}, "parts = 0: give at least one ensemble"),
        ("heads", {"k": 2, "penalty": "lasso"}, "penalty = 'lasso': give decay, none, l2 or anchor"),
        ("finetune", {"k": 2, "backbone": -1}, "backbone = -1: give 0 or more"),
        ("single", {"epochs": 0}, "epochs = 0: give None or at least 1"),
        ("heads", {"epochs": 0}, r"training\.epochs = 0: give at least 1"),
        ("dropout", {"k": 2, "rate": 1.0}, r"rate = 1\.0: give a share from 0 up to 1"),
        ("lora", {"k": 2, "rank": 0}, "rank = 0: give at least 1"),
        ("laplace", {"k": 2, "tau": -1.0}, r"tau = -1\.0: give None or a positive number"),
    ],
)
def test_a_bad_option_is_named(method, options, words, inputs):
    with pytest.raises(ValueError, match=words):
        train_ensemble(method, inputs, **options)


@pytest.mark.parametrize(
    ("method", "options", "required"),
    [
        ("pretrain", {"k": 3}, 3),
        ("pretrain", {}, 5),
        ("finetune", {"backbone": 2}, 3),
        ("mixed", {"parts": (("finetune", {"k": 2}), ("mixed", {"parts": (("pretrain", {"k": 3}),)}))}, 3),
    ],
    ids=str,
)
def test_more_backbones_than_there_are_is_refused_before_any_training(
    method, options, required, inputs, monkeypatch
):
    import rmlab.reward.training as training

    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(ValueError, match=f"backbones of {method} = 2: give at least {required}"):
        train_ensemble(method, inputs, **options)


@pytest.mark.parametrize(
    ("method", "options", "who"),
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
def test_training_that_runs_off_says_the_step_and_whose_it_was(method, options, who, inputs):
    recipe = Training(epochs=2, batch=16, lr=1e12)
    wild = TrainingInputs(inputs.backbones, inputs.pairs, recipe, seed=7)
    words = rf"^{who}loss = \S+ at step 1 \(.*\): lower training\.lr = [15]0+\.0"
    with pytest.raises(ValueError, match=words):
        train_ensemble(method, wild, **options)


@pytest.mark.parametrize(
    ("method", "options", "who"),
    [
        ("finetune", {"k": 3}, "backbone 0, finetuning seed 1"),
        ("average", {"k": 3}, "backbone 0, finetuning seed 1"),
        ("average", {"k": 3, "probed": True}, "member 1"),
        ("pretrain", {"k": 2}, "backbone 1, finetuning seed 0"),
        ("lora", {"k": 2}, r"member 1 at rate = 5\.0 x training\.lr"),
    ],
    ids=str,
)
def test_of_several_trainings_the_one_that_failed_is_named(method, options, who, inputs, monkeypatch):
    """The second of them meets a score that is not a number, at its third step."""
    import rmlab.reward.training as training

    steps, bt_loss = [0], training.bt_loss

    def spoilt(margin, *others):
        steps[0] += 1
        return bt_loss(margin, *others) * (float("nan") if steps[0] == 6 + 3 * ("probed" in options) else 1)

    monkeypatch.setattr(training, "bt_loss", spoilt)  # three steps a training
    with pytest.raises(ValueError, match=f"^{who}: loss = nan at step 2 "):
        train_ensemble(method, inputs, **options)
