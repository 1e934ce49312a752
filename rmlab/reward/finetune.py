"""Finetuning seeds (Coste et al. 2310.02743): single models that differ in head and order of the pairs."""

from __future__ import annotations

from rmlab.reward.methods import MemberSpec


def singles(k: int = 5, backbone: int = 0, epochs: int | None = None) -> list[MemberSpec]:
    """The members: finetuning seeds 0 to k - 1 on one backbone."""
    return [MemberSpec(backbone, seed, epochs) for seed in range(k)]
