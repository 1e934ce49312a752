"""KL of a policy from its reference, estimated on the policy's own answers."""

from __future__ import annotations

import sys

import numpy as np

from rmlab.recipe import require


def kl_estimates(logp, ref_logp, mask) -> dict:
    """The three usual estimators of KL(policy || reference) per answer, summed over its tokens.

    With lr = log pi - log ref at each answer token of a sample from pi (temperature 1, no top-k, no top-p):
    k1 = lr is unbiased and may be negative; k2 = lr^2 / 2 is biased, with less variance (Coste et al.
    2310.02743, Eq. 10); k3 = exp(-lr) - 1 + lr is unbiased and at least 0 up to rounding. The names are
    Schulman's. Not exp(lr) - 1 - lr, whose mean is no KL.

    Parameters
    ----------
    logp, ref_logp : (B, T) array or tensor, log-probabilities of the sampled tokens in nats, from the policy
        and from the reference
    mask : (B, T), true or 1 at answer tokens only. Prompt and padding positions contribute exactly 0,
        whatever they hold.

    Returns
    -------
    {"k1": (B,), "k2": (B,), "k3": (B,)} nats an answer; gradients flow through tensors

    Raises
    ------
    ValueError : shapes that differ
    """
    torch = sys.modules.get("torch")
    xp = torch if torch is not None and isinstance(logp, torch.Tensor) else np
    if xp is np:
        logp, ref_logp, mask = np.asarray(logp), np.asarray(ref_logp), np.asarray(mask)
    shapes = tuple(logp.shape), tuple(ref_logp.shape), tuple(mask.shape)
    require(
        len(set(shapes)) == 1 and len(shapes[0]) == 2,
        "shapes of logp, ref_logp, mask",
        shapes,
        "one (B, T) for all",
    )
    keep = mask != 0
    zero = xp.zeros_like(logp)
    # masked before the subtraction: padding may hold -inf or NaN, and neither it nor its gradient may leak
    lr = xp.where(keep, logp, zero) - xp.where(keep, ref_logp, zero)  # (B, T)
    return {"k1": lr.sum(-1), "k2": (0.5 * lr**2).sum(-1), "k3": (xp.expm1(-lr) + lr).sum(-1)}
