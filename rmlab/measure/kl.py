"""KL estimators over answer tokens, from the log-probabilities of what was sampled."""

from __future__ import annotations


def kl_estimates(logp, ref_logp, mask) -> dict:
    """Per-answer estimates of KL(policy || reference), in nats, from answers sampled from the policy.

    Parameters
    ----------
    logp, ref_logp : (B, T) log-probabilities of the sampled tokens; NumPy or torch
    mask : (B, T) bool, True on answer tokens; prompt and padding contribute exactly 0

    Returns
    -------
    dict of (B,): `k1` = sum of log-ratios (unbiased, may be negative), `k2` = sum of half their squares (biased;
    Coste et al. 2024, Eq. 10), `k3` = sum of exp(-lr) - 1 + lr (unbiased a token, never negative).
    """
    if logp.shape != ref_logp.shape or logp.shape != mask.shape:
        raise ValueError(f"shapes {logp.shape}, {ref_logp.shape}, {mask.shape}: give logp, ref_logp and mask of one shape (B, T)")
    keep = mask != 0
    if hasattr(logp, "masked_fill"):
        ratio = (logp - ref_logp).masked_fill(~keep, 0.0)
        back = (-ratio).exp()
    else:
        import numpy as np

        ratio = np.where(keep, logp - ref_logp, 0.0)
        back = np.exp(-ratio)
    return {"k1": ratio.sum(-1), "k2": (0.5 * ratio * ratio).sum(-1), "k3": (back - 1 + ratio).sum(-1)}
