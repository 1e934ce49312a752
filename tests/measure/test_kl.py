"""KL estimators against the exact KL of categorical chains."""

import numpy as np
import pytest
import torch

from rmlab.measure.kl import kl_estimates


def two_chains(seed=0, V=4):
    """Two first-order chains over V tokens, answers of 2 tokens: pi and ref as (first (V,), next (V, V))."""
    rng = np.random.default_rng(seed)
    return [(rng.dirichlet(np.ones(V)), rng.dirichlet(np.ones(V), V)) for _ in range(2)]


def every_answer():
    """Log-probabilities (V*V, 2) of every answer under both chains, and the chance of each under pi."""
    (p1, p2), (q1, q2) = two_chains()
    a, b = np.divmod(np.arange(16), 4)
    logp = np.log(np.stack([p1[a], p2[a, b]], 1))
    ref = np.log(np.stack([q1[a], q2[a, b]], 1))
    return logp, ref, np.exp(logp.sum(1))


def test_k1_and_k3_are_unbiased_by_enumeration():
    logp, ref, chance = every_answer()
    exact = (chance * (logp - ref).sum(1)).sum()
    k = kl_estimates(logp, ref, np.ones_like(logp))
    assert exact > 0.1 and chance.sum() == pytest.approx(1)
    assert chance @ k["k1"] == pytest.approx(exact, rel=1e-12)
    assert chance @ k["k3"] == pytest.approx(exact, rel=1e-12)
    np.testing.assert_allclose(k["k2"], (0.5 * (logp - ref) ** 2).sum(1))
    assert (k["k3"] >= 0).all() and (k["k1"] < 0).any()
    # the sign that other code has wrong: its mean is another number
    wrong = chance @ (np.exp(logp - ref) - 1 - (logp - ref)).sum(1)
    assert abs(wrong - exact) > 0.1 * exact


def test_monte_carlo_agrees():
    logp, ref, chance = every_answer()
    drawn = np.random.default_rng(1).choice(16, size=20000, p=chance)
    exact = (chance * (logp - ref).sum(1)).sum()
    k = kl_estimates(logp[drawn], ref[drawn], np.ones((20000, 2), bool))
    for name in ("k1", "k3"):
        assert k[name].mean() == pytest.approx(exact, abs=5 * k[name].std() / np.sqrt(20000))


def test_policy_equal_to_reference_gives_zero():
    logp, _, _ = every_answer()
    for value in kl_estimates(logp, logp, np.ones_like(logp)).values():
        assert (value == 0).all()


@pytest.mark.parametrize("junk", [0.0, -3.5, -np.inf, np.nan])
def test_prompt_and_padding_contribute_exactly_nothing(junk):
    logp, ref, _ = every_answer()
    wide = np.full((16, 6), junk)
    mask = np.zeros((16, 6), bool)
    mask[:, 2:4] = True
    a, b = wide.copy(), wide.copy() - 1
    a[:, 2:4], b[:, 2:4] = logp, ref
    plain, padded = kl_estimates(logp, ref, np.ones((16, 2))), kl_estimates(a, b, mask)
    x = torch.tensor(a, requires_grad=True)
    tensors = kl_estimates(x, torch.tensor(b), torch.tensor(mask))
    for name, value in plain.items():
        assert np.array_equal(value, padded[name])
        np.testing.assert_allclose(tensors[name].detach().numpy(), value, rtol=1e-12)
    sum(v.sum() for v in tensors.values()).backward()
    assert (
        torch.isfinite(x.grad).all() and (x.grad[:, [0, 1, 4, 5]] == 0).all() and (x.grad[:, 2:4] != 0).all()
    )


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"shapes of logp, ref_logp, mask.*\(2, 3\).*\(2, 4\)"):
        kl_estimates(np.zeros((2, 3)), np.zeros((2, 3)), np.ones((2, 4)))
