"""Pretraining seeds (Eisenstein et al. 2312.09244): single models on backbones of their own."""

from __future__ import annotations

from rmlab.reward.methods import MemberSpec


def singles(k: int = 5, epochs: int | None = None) -> list[MemberSpec]:
    """The members: backbones 0 to k - 1, finetuning seed 0 on each."""
    return [MemberSpec(backbone, 0, epochs) for backbone in range(k)]
