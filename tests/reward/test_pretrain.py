"""Pretraining seeds: one backbone after another, and one seed."""

from rmlab.reward.methods import MemberSpec
from rmlab.reward.pretrain import singles


def test_members_share_a_seed_and_differ_in_their_backbone():
    assert singles(k=3, epochs=1) == [MemberSpec(b, 0, 1) for b in range(3)]
    assert len(singles()) == 5 and {s.finetune for s in singles()} == {0}
