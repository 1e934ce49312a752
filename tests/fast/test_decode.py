"""The decoder against the model's own forward, token by token, in every family; slots that close up keep their answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast import decode as decoding
from rmlab.fast.decode import SHARED, RecordedDecoder, open_decoder

EVEN, UNEVEN = (6, 6, 6), (3, 7, 1)


@pytest.fixture(params=["tiny_lm", "tiny_neox", "tiny_qwen"])
def lm(request):
    return request.getfixturevalue(request.param)


def _plain(model, ids: list[int]) -> torch.Tensor:
    """The last token's hidden state of one row, alone and without padding."""
    with torch.no_grad():
        return getattr(model, model.base_model_prefix)(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]


def _start(seed: int, lengths):
    draw = torch.Generator().manual_seed(seed)
    return draw, [torch.randint(5, 100, (n,), generator=draw).tolist() for n in lengths]


def test_families_take_their_own_path(tiny_lm, tiny_neox, tiny_qwen):
    names = [type(open_decoder(m, [[5, 6]], 1, 2)).__name__ for m in (tiny_lm, tiny_neox, tiny_qwen)]
    assert names == ["PackedDecoder", "PackedDecoder", "ModelDecoder"]


@pytest.fixture(params=[False, True], ids=["closing_up", "recorded"])
def recorded(request, monkeypatch):
    """The decoder for GPUs in the place of the other; without a GPU its step is called and not replayed."""
    if request.param:
        monkeypatch.setattr(decoding, "PackedDecoder", RecordedDecoder)


@pytest.mark.parametrize("rows", [1, 3, SHARED + 1])
@pytest.mark.parametrize("lengths", [EVEN, UNEVEN, (5,)])
def test_decoding_equals_the_plain_forward(lm, lengths, rows, recorded):
    draw, prompts = _start(0, lengths)
    decoder = open_decoder(lm, prompts, rows, 4)
    order = decoder.slots.reshape(-1)
    assert sorted(order) == list(range(len(prompts) * rows))
    answers = {int(slot): list(prompts[slot // rows]) for slot in order}
    hidden = decoder.last
    for _ in range(4):
        want = torch.stack([_plain(lm, answers[int(slot)]) for slot in order])
        torch.testing.assert_close(hidden, want, atol=1e-5, rtol=1e-5)
        new = torch.randint(5, 100, (len(order),), generator=draw)
        for slot, token in zip(order, new.tolist(), strict=True):
            answers[int(slot)].append(token)
        hidden = decoder.step(new)


@pytest.mark.parametrize("rows", [1, 3, SHARED])
def test_a_prompt_that_comes_again_is_encoded_once(lm, rows, monkeypatch):
    draw, (one, two) = _start(2, (6, 4))
    prompts, seen = [one, two, one, one], []
    kind = type(open_decoder(lm, [one], 1, 2))
    real = kind.__init__
    monkeypatch.setattr(kind, "__init__", lambda self, w, ids, *rest: seen.append(len(ids)) or real(self, w, ids, *rest))  # fmt: skip
    decoder = open_decoder(lm, prompts, rows, 3)
    assert seen == [2]
    slots, held = decoder.slots.copy(), [list(p) for p in prompts for _ in range(rows)]
    for _ in range(3):
        new = torch.randint(5, 100, (slots.size,), generator=draw)
        for slot, token in zip(slots.flat, new.tolist(), strict=True):
            held[slot].append(token)
        hidden = decoder.step(new)
    want = torch.stack([_plain(lm, held[slot]) for slot in slots.flat])
    torch.testing.assert_close(hidden, want, atol=1e-5, rtol=1e-5)


def _places(decoder) -> dict:
    """Where its tensors are in memory, and all that it knows beside them."""
    return {n: [t.data_ptr() for t in x] if n == "cache" else x.data_ptr() if isinstance(x, torch.Tensor) else str(x)
            for n, x in vars(decoder).items() if n not in ("w", "prompt")}  # fmt: skip


@pytest.mark.parametrize("rows", [1, SHARED])
def test_a_recorded_step_takes_everything_from_places_that_stay(tiny_lm, tiny_neox, rows, monkeypatch):
    """What a graph replays: no tensor of its own is another one after a step, and its rest is hidden though it is nonsense."""
    monkeypatch.setattr(decoding, "PackedDecoder", RecordedDecoder)
    for lm in (tiny_lm, tiny_neox):
        _, prompts = _start(3, UNEVEN)
        decoder = open_decoder(lm, prompts, rows, 4)
        for cache in decoder.cache:
            cache[..., decoder.start + 1 :, :] = 1e4
        before = _places(decoder)
        hidden = decoder.step(torch.full((decoder.slots.size,), 7))
        want = torch.stack([_plain(lm, [*prompts[slot // rows], 7]) for slot in decoder.slots.flat])
        torch.testing.assert_close(hidden, want, atol=1e-5, rtol=1e-5)
        assert hidden is decoder.hidden and _places(decoder) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("rows", [1, SHARED])
def test_a_replayed_step_equals_the_plain_forward(tiny_lm, tiny_neox, rows):
    for lm in (tiny_lm, tiny_neox):
        _, prompts = _start(4, UNEVEN)
        decoder = open_decoder(copy.deepcopy(lm).cuda(), prompts, rows, decoding.WORTH)
        held = [list(prompts[slot // rows]) for slot in decoder.slots.flat]
        assert isinstance(decoder, RecordedDecoder) and decoder.replay != decoder._step
        for token in (7, 8, 9):
            hidden = decoder.step(torch.full((len(held),), token, device="cuda"))
            held = [[*row, token] for row in held]
            want = torch.stack([_plain(lm, row) for row in held])
            torch.testing.assert_close(hidden.cpu(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [2, 2 * SHARED])
@pytest.mark.parametrize("lengths", [EVEN, UNEVEN])
def test_answers_that_go_on_do_not_notice_those_that_end(lm, lengths, rows):
    draw, prompts = _start(1, lengths)
    decoder = open_decoder(lm, prompts, rows, 9)
    slots = decoder.slots.copy()
    answers = {int(slot): list(prompts[slot // rows]) for slot in slots.flat}
    ends = {slot: int(t) for slot, t in zip(answers, torch.randint(0, 9, (len(answers),), generator=draw), strict=True)}  # fmt: skip
    sizes = [slots.size]
    for t in range(9):
        new = torch.randint(5, 100, (slots.size,), generator=draw)
        for slot, token in zip(slots.flat, new.tolist(), strict=True):
            answers[int(slot)].append(token)
        hidden = decoder.step(new)
        going = np.vectorize(lambda s: ends[int(s)] > t)(slots)  # noqa: B023
        for i in np.flatnonzero(going):
            torch.testing.assert_close(hidden[i], _plain(lm, answers[int(slots.flat[i])]), atol=1e-5, rtol=1e-5)  # fmt: skip
        if not going.any():
            break
        kept = decoder.shrink(going)
        if kept is not None:
            assert (slots.flat[kept.numpy()] == decoder.slots.reshape(-1)).all()
        assert set(slots[going]) <= set(decoder.slots.flat)
        if slots.shape[1] > 1:  # a column keeps to its prompt
            assert (decoder.slots // rows == np.arange(len(prompts))).all()
        slots = decoder.slots.copy()
        sizes.append(slots.size)
    assert sizes[-1] < sizes[0] and sizes == sorted(sizes, reverse=True)


def test_a_column_keeps_as_many_slots_as_the_longest_needs(tiny_lm):
    decoder = open_decoder(tiny_lm, [[5, 6], [7]], SHARED, 3)
    decoder.step(torch.full((2 * SHARED,), 8))
    going = np.zeros((SHARED, 2), bool)
    going[3:9, 0] = going[SHARED - 2 :, 1] = True
    decoder.shrink(going)
    assert decoder.slots.shape == (6, 2)
    assert set(decoder.slots[:, 0]) >= set(range(3, 9)) and {SHARED * 2 - 2, SHARED * 2 - 1} <= set(
        decoder.slots[:, 1]
    )
    assert decoder.shrink(np.ones((6, 2), bool)) is None
