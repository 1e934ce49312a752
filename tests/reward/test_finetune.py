"""Finetuning seeds: one backbone, and one seed after another."""

from rmlab.reward.finetune import singles
from rmlab.reward.methods import MemberSpec


def test_members_share_a_backbone_and_differ_in_their_seed():
    assert singles(k=3, backbone=2, epochs=1) == [MemberSpec(2, f, 1) for f in range(3)]
    assert len(singles()) == 5 and {s.backbone for s in singles()} == {0}
