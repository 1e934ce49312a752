"""Last-layer Laplace: the curvature of the loss, invariant where it must be, and whole after a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rmlab.reward.ensemble import load
from rmlab.reward.heads import pair_features
from rmlab.reward.laplace import LaplaceModel, around, curvature, evidence, fit_posterior, singles, train
from rmlab.reward.methods import MemberSpec
from rmlab.reward.model import MlpHeads, RewardModel, from_backbone
from rmlab.reward.single import train_member

M, D, TAU = 60, 5, 1.7


@pytest.fixture(scope="module")
def pairs():
    """Differences (M, D) and a head (D,); chosen wins the way Bradley-Terry draws it."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=D)
    z = rng.normal(size=(M, D)) * np.array([2.0, 1.0, 1.0, 0.5, 0.1])
    turned = np.where(rng.random(M) < 1 / (1 + np.exp(-z @ w)), 1, -1)
    return z * turned[:, None], w


@pytest.fixture(scope="module")
def trained(tiny_lm, inputs_of):
    return train(inputs_of(tiny_lm), k=3)


def test_the_curvature_is_the_hessian_of_the_loss(pairs):
    z, w = pairs
    got = fit_posterior(z, w, TAU)

    def loss(at):
        return -F.logsigmoid(torch.tensor(z) @ at).sum() + TAU / 2 * at.dot(at)

    hessian = torch.autograd.functional.hessian(loss, torch.tensor(w))
    torch.testing.assert_close(got.precision, hessian, atol=1e-10, rtol=1e-10)
    assert (got.mean == torch.tensor(w)).all() and got.tau == TAU


def _evidence(z, w, tau):
    z, w = torch.tensor(z), torch.tensor(w)
    precision = curvature(z, w) + tau * torch.eye(D, dtype=torch.float64)
    return evidence(F.logsigmoid(z @ w).sum().item(), w, tau, torch.logdet(precision).item())


def test_the_evidence_is_the_integral_that_laplaces_method_takes(pairs):
    """Of exp of the second-order expansion of the log posterior at w, the linear term aside, over all heads."""
    z, w = pairs
    got = fit_posterior(z, w, TAU)
    log_likelihood = F.logsigmoid(torch.tensor(z @ w)).sum().item()
    log_prior = -TAU / 2 * w @ w + D / 2 * np.log(TAU / (2 * np.pi))
    log_volume = D / 2 * np.log(2 * np.pi) - torch.logdet(got.precision).item() / 2
    assert _evidence(z, w, TAU) == pytest.approx(log_likelihood + log_prior + log_volume, rel=1e-12)


def test_the_chosen_tau_has_the_largest_evidence(pairs):
    z, w = pairs
    best = fit_posterior(z, w).tau
    for factor in (0.01, 0.5, 0.97, 1.03, 2, 100):
        assert _evidence(z, w, best * factor) < _evidence(z, w, best)


def test_a_shift_of_every_feature_changes_no_variance(pairs):
    """Bradley-Terry's free constant: it moves features and reference alike."""
    z, w = pairs
    got, rng = fit_posterior(z, w, TAU), np.random.default_rng(1)
    features, reference, shift = rng.normal(size=(4, 3, D)), rng.normal(size=D), 50 * rng.normal(size=D)
    want = got.std(features, reference)
    assert want.shape == (4, 3) and (want > 0).all()
    torch.testing.assert_close(got.std(features + shift, reference + shift), want, atol=1e-10, rtol=1e-10)
    apart = torch.tensor(features - reference)
    direct = torch.einsum("...i,ij,...j->...", apart, got.precision.inverse(), apart).sqrt()
    torch.testing.assert_close(want, direct)
    assert got.std(reference, reference) == 0


def test_draws_have_the_posterior_s_mean_and_covariance(pairs):
    got = fit_posterior(*pairs, TAU)
    draws = got.sample(200_000, seed=0)
    covariance = got.precision.inverse()
    spread = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - got.mean).abs() < 0.02 * spread).all()
    assert ((draws.T.cov() - covariance).abs() < 0.02 * torch.outer(spread, spread)).all()
    assert torch.equal(got.sample(3, seed=0), draws[:3])
    assert not torch.equal(got.sample(3, seed=1), draws[:3])


def test_more_pairs_leave_less_doubt(pairs):
    z, w = pairs
    few, many = (fit_posterior(np.tile(z, (n, 1)), w, TAU).std(np.eye(D), np.zeros(D)) for n in (1, 10))
    assert (many < few).all()


def test_float32_features_are_read_as_float64(pairs):
    got = fit_posterior(*(torch.tensor(x, dtype=torch.float32) for x in pairs), TAU)
    assert got.precision.dtype == got.mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"differences": np.full((3, D), np.nan)}, "differences = '15 values that are not finite'"),
        ({"differences": np.zeros((0, D))}, "M at least 1"),
        ({"differences": np.zeros(D)}, r"differences = \(5,\)"),
        ({"differences": np.zeros((3, D))}, "pairs whose features differ"),
        ({"mean": np.zeros(D + 1)}, "as wide as differences"),
        ({"mean": np.zeros(D)}, "a head of zeros has no best tau"),
        ({"tau": 0.0}, "tau = 0.0: give None or a positive number"),
        ({"tau": float("inf")}, "tau = inf: give None or a positive number"),
    ],
)
def test_what_cannot_be_fitted_is_refused(pairs, change, message):
    z, w = pairs
    with pytest.raises(ValueError, match=message):
        fit_posterior(**({"differences": z, "mean": w} | change))


def test_arrays_that_do_not_fit_the_posterior_are_refused(pairs):
    got = fit_posterior(*pairs, TAU)
    with pytest.raises(ValueError, match="k = 0: give at least one draw"):
        got.sample(0, seed=0)
    with pytest.raises(ValueError, match=r"features = \(4, 6\)"):
        got.std(np.zeros((4, D + 1)), np.zeros(D))
    with pytest.raises(ValueError, match=r"reference = \(1, 5\)"):
        got.std(np.zeros((4, D)), np.zeros((1, D)))


def test_members_are_draws_around_the_head_of_the_single_model(trained, tiny_lm, inputs_of, world_pairs):
    inputs = inputs_of(tiny_lm)
    single = train_member(inputs)
    assert singles() == [MemberSpec()]
    features = pair_features(single, world_pairs).double()
    want = fit_posterior(features[:, 0] - features[:, 1], single.model.score.weight[0])
    assert trained.posterior.tau == want.tau
    torch.testing.assert_close(trained.posterior.precision, want.precision)
    heads = trained.model.score.weight.detach()
    torch.testing.assert_close(heads, want.sample(3, inputs.seed_of()).float())
    assert all(torch.equal(w, single.trunk.state_dict()[n]) for n, w in trained.trunk.state_dict().items())


def test_the_standard_deviation_of_an_answer_is_the_closed_form(trained, answers, rows):
    states = trained.trunk(input_ids=rows[0], attention_mask=rows[1].long()).last_hidden_state.detach()
    last = states[torch.arange(len(states)), rows[1].sum(1) - 1]
    want = trained.posterior.std(last, trained.reference)
    got = trained.score_std(*answers)
    assert got.shape == (48,) and got.dtype == np.float32 and got.std() > 1e-3
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_allclose(trained.score_std(*answers, chunk_tokens=100), got, atol=1e-5)


def test_a_reloaded_folder_has_its_posterior_back(trained, answers, tmp_path):
    trained.save(tmp_path / "draws")
    again = load(tmp_path / "draws")
    assert isinstance(again, LaplaceModel) and again.posterior.tau == trained.posterior.tau
    assert torch.equal(again.posterior.precision, trained.posterior.precision)
    assert again.posterior.precision.dtype == torch.float64
    assert np.array_equal(again.score_std(*answers), trained.score_std(*answers))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {n: w for n, w in s.items() if n != "mean"},
            r"laplace\.safetensors = .*: give a posterior",
        ),
        (lambda s: {**s, "reference": torch.zeros(5)}, r"laplace\.safetensors = .*\(5,\)"),
    ],
    ids=["missing", "width"],
)
def test_a_posterior_that_is_not_the_heads_is_refused(change, words, trained, tmp_path):
    trained.save(tmp_path / "draws")
    path = tmp_path / "draws" / "laplace.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "draws")
    path.unlink()
    with pytest.raises(ValueError, match=r"laplace\.safetensors': give an existing"):
        load(tmp_path / "draws")


@pytest.mark.parametrize("tau", [None, 0, "1"])
def test_a_card_without_a_tau_is_refused(tau, trained, tmp_path):
    trained.save(tmp_path / "draws")
    path = tmp_path / "draws" / "rmlab.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tau": tau}))
    with pytest.raises(ValueError, match=r"tau of .*rmlab\.json = .*: give a positive number"):
        load(tmp_path / "draws")


def test_only_one_linear_head_has_a_posterior(tiny_lm, world_pairs):
    two, one = from_backbone(tiny_lm, 2, seed=0), from_backbone(tiny_lm, 1, seed=0)
    for model in (two, RewardModel(one.model, MlpHeads(1, 32, 4))):
        with pytest.raises(ValueError, match=r"members of the model = .: give one linear head"):
            around(model, world_pairs, 2, seed=0)
    with pytest.raises(ValueError, match="k = 0: give at least 1"):
        around(one, world_pairs, 0, seed=0)
    assert around(one, world_pairs, 1, seed=0) is one
