"""The reward model: where it reads, what it saves, and that one head is the single model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rmlab.backbone import schedule
from rmlab.recipe import Training, stream, stream_seed
from rmlab.reward.model import RewardModel, checksums, from_backbone
from rmlab.reward.training import loss, score_pairs, train
from rmlab.tokens import EOS, PAD, last_index, pad_right


def _batch(pairs, count=6):
    ids, mask = pad_right([pairs.prompts[i] + pairs.chosen[i] for i in range(count)])
    return torch.from_numpy(ids), torch.from_numpy(mask)


@pytest.mark.parametrize("lm", ["tiny_lm", "tiny_neox"])
def test_padding_changes_nothing(lm, world_pairs, request):
    model = from_backbone(request.getfixturevalue(lm), 3, seed=0)
    ids, mask = _batch(world_pairs)
    want = model(ids, mask)
    for left, right in ((0, 5), (4, 0), (3, 2)):
        padded = F.pad(ids, (left, right), value=PAD)
        torch.testing.assert_close(model(padded, F.pad(mask, (left, right))), want, atol=1e-5, rtol=1e-5)


def test_the_end_of_an_answer_is_scored(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 1, seed=0)
    rows = [world_pairs.prompts[0] + world_pairs.chosen[0]]
    assert rows[0][-1] == EOS
    whole, cut = (torch.from_numpy(np.array([r])) for r in (rows[0], rows[0][:-1]))
    assert (model(whole, whole > 0) - model(cut, cut > 0)).abs() > 1e-3


def test_pad_equal_to_eos_is_refused(tiny_lm):
    model = from_backbone(tiny_lm, 1, seed=0).model
    model.config.pad_token_id = model.config.eos_token_id
    with pytest.raises(ValueError, match="give a PAD token of its own"):
        RewardModel(model)
    model.config.pad_token_id = PAD


def test_a_row_without_tokens_is_refused():
    with pytest.raises(ValueError, match="no real token"):
        last_index(torch.tensor([[True, False], [False, False]]))


def test_members_differ_from_the_start_and_do_not_depend_on_k(tiny_lm, world_pairs):
    ids, mask = _batch(world_pairs)
    three, five = (from_backbone(tiny_lm, k, seed=1)(ids, mask) for k in (3, 5))
    assert (five.std(1) > 1e-4).all()
    torch.testing.assert_close(three, five[:, :3])


def test_scores_do_not_depend_on_the_batch_or_the_path(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 2, seed=0)
    prompt = world_pairs.prompts[0]
    ids, _ = pad_right(world_pairs.chosen)
    lengths = np.array([len(a) for a in world_pairs.chosen])
    fast = model.score(np.array(prompt), ids, lengths, chunk_tokens=100)
    for i in (0, 7, 30):
        row = torch.tensor([prompt + world_pairs.chosen[i]])
        np.testing.assert_allclose(fast[i], model.raw(row, row >= 0)[0].detach(), atol=1e-5)


def test_one_head_is_the_single_reward_model(tiny_lm, world_pairs):
    """The package's K = 1 against a loop written out with Hugging Face's own single-label classifier."""
    from transformers import AutoModelForSequenceClassification

    recipe, seed = Training(epochs=2, batch=16), 7
    ours = from_backbone(tiny_lm, 1, seed)
    losses = train(ours, world_pairs, recipe, seed)

    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_config(ours.model.config)
    plain.model.load_state_dict(tiny_lm.model.state_dict())
    noise = torch.Generator().manual_seed(stream_seed(seed, "head", 0))
    plain.score.weight.data[0] = torch.randn(32, generator=noise) / 33**0.5
    optimiser = torch.optim.AdamW(
        plain.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    plan, order, wanted = schedule(optimiser, 6), stream(seed, "order"), []
    for _ in range(2):
        for rows in world_pairs.batches(order.permutation(48), 16, order):
            ids, mask = world_pairs.batch(rows)
            scores = plain(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
            total = -F.logsigmoid(scores[:16] - scores[16:]).mean()
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            plan.step()
            wanted.append(total.item())
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    torch.testing.assert_close(ours.model.score.weight, plain.score.weight, atol=1e-5, rtol=1e-4)


def test_a_head_gets_the_same_gradient_whatever_k_is():
    margin = torch.randn(8, 4, requires_grad=True)
    loss(margin).backward()
    alone = margin.detach()[:, :1].clone().requires_grad_()
    loss(alone).backward()
    torch.testing.assert_close(margin.grad[:, :1], alone.grad)


def test_training_learns_the_pairs(tiny_lm, world_pairs):
    model = from_backbone(tiny_lm, 2, seed=0)
    losses = train(model, world_pairs, Training(epochs=12, batch=16, lr=5e-3), seed=0)
    assert losses[0] > 1.0 and np.mean(losses[-3:]) < 0.6 * losses[0]
    assert (score_pairs(model, world_pairs)[:, 0] > score_pairs(model, world_pairs)[:, 1]).mean() > 0.8


def test_centring_loss_pulls_scores_to_zero(tiny_lm, world_pairs):
    sizes = []
    for eta in (0.0, 1.0):
        model = from_backbone(tiny_lm, 1, seed=0)
        train(model, world_pairs, Training(epochs=6, batch=16, lr=5e-3, centre=eta), seed=0)
        sizes.append(np.abs(score_pairs(model, world_pairs).sum(1)).mean())
    assert sizes[1] < 0.5 * sizes[0]


def test_alignment_is_applied_saved_and_read(tiny_lm, world_pairs, tmp_path):
    model = from_backbone(tiny_lm, 3, seed=0)
    raw = score_pairs(model, world_pairs).reshape(-1, 3)
    model.align(raw)
    ids, mask = _batch(world_pairs, 48)
    chosen = model(ids, mask).detach().numpy()
    np.testing.assert_allclose(chosen, (raw[::2] - raw.mean(0)) / raw.std(0), atol=1e-4)
    model.save(tmp_path)
    again = RewardModel.load(tmp_path)
    assert (again(ids, mask) == model(ids, mask)).all()


def test_a_saved_model_is_plain_hugging_face(tiny_lm, world_pairs, tmp_path):
    """A process that never imports rmlab reads the folder and gets the raw member scores."""
    model = from_backbone(tiny_lm, 4, seed=0)
    model.align(score_pairs(model, world_pairs).reshape(-1, 4))
    model.save(tmp_path / "reward")
    ids, mask = _batch(world_pairs)
    np.savez(tmp_path / "batch.npz", ids=ids.numpy(), mask=mask.numpy())
    code = """
import sys, numpy as np, torch
from transformers import AutoModelForSequenceClassification
data = np.load("batch.npz")
model = AutoModelForSequenceClassification.from_pretrained("reward").eval()
with torch.no_grad():
    logits = model(input_ids=torch.from_numpy(data["ids"]), attention_mask=torch.from_numpy(data["mask"]).long()).logits
np.save("logits.npy", logits.numpy())
assert not any(m.split(".")[0] == "rmlab" for m in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    logits = np.load(tmp_path / "logits.npy")
    assert logits.shape == (6, 4)
    np.testing.assert_allclose(logits, model.raw(ids, mask).detach(), atol=1e-5)


def test_copies_are_no_ensemble(tiny_lm):
    one, other = (from_backbone(tiny_lm, 1, seed=s) for s in (0, 1))
    assert len(set(checksums([one, other]))) == 2
    with pytest.raises(ValueError, match="members 0 and 2 have the same weights"):
        checksums([one, other, one])
