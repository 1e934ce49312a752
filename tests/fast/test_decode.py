"""The decoder against the model's own forward, token by token, in every family; slots that close up keep their answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rmlab.fast import decode as decoding
from rmlab.fast.decode import SHARED, PackedDecoder, RecordedDecoder, open_decoder
from rmlab.fast.plain import Decoder, RowDecoder
from tests.fast.families import PACKED, PLAIN, RECURRENT, alone, close, every

EVEN, UNEVEN = (6, 6, 6), (3, 7, 1)
FEWER = {name: PACKED[name] for name in ("llama", "qwen3", "mistral_window", "neox")}


def started(seed: int, lengths) -> tuple[torch.Generator, list[list[int]]]:
    draw = torch.Generator().manual_seed(seed)
    return draw, [torch.randint(5, 100, (n,), generator=draw).tolist() for n in lengths]


def ends(model, rows) -> torch.Tensor:
    return torch.stack([alone(model, row)[-1] for row in rows]).detach()


@every(PACKED, PLAIN, RECURRENT)
def test_families_take_their_own_path(lm, request):
    name = request.node.callspec.params["lm"]
    kind = PackedDecoder if name in PACKED else RowDecoder if name in RECURRENT else Decoder
    assert type(open_decoder(lm, [[5, 6]], 1, 40)) is kind


@pytest.mark.parametrize(
    ("lengths", "answers"), [(UNEVEN, 1), (UNEVEN, SHARED + 1), (EVEN, 3), (EVEN, SHARED), ((5,), SHARED)]
)
@every(PACKED, PLAIN, RECURRENT)
def test_decoding_equals_the_plain_forward(lm, lengths, answers):
    same_as_rows(lm, lengths, answers)


@pytest.mark.parametrize("answers", [1, SHARED + 1])
@pytest.mark.parametrize("lengths", [EVEN, UNEVEN])
@every(FEWER)
def test_the_decoder_for_gpus_equals_the_plain_forward(lm, lengths, answers, monkeypatch):
    """Without a GPU its step is called and not replayed."""
    monkeypatch.setattr(decoding, "PackedDecoder", RecordedDecoder)
    same_as_rows(lm, lengths, answers)


def same_as_rows(lm, lengths, answers: int) -> None:
    """Every hidden state of a few slots, three tokens long."""
    draw, prompts = started(0, lengths)
    decoder = open_decoder(lm, prompts, answers, 3, pad=9)
    order = decoder.slots.reshape(-1)
    assert sorted(order) == list(range(len(prompts) * answers))
    tokens = torch.randint(5, 100, (3, len(order)), generator=draw)
    hidden = [decoder.last.clone(), *(decoder.step(token).clone() for token in tokens)]
    for i in range(0, len(order), 1 + len(order) // 8):
        prompt = prompts[order[i] // answers]
        want = alone(lm, prompt + tokens[:, i].tolist())[len(prompt) - 1 :]
        close(torch.stack([state[i] for state in hidden]), want.detach())


@pytest.mark.parametrize("answers", [1, 3, SHARED])
@every(FEWER, PLAIN, RECURRENT)
def test_a_prompt_that_comes_again_is_encoded_once(lm, answers, monkeypatch):
    draw, (one, two) = started(2, (6, 4))
    prompts, seen = [one, two, one, one], []
    kind = type(open_decoder(lm, [one], 1, 2))
    real = kind.__init__
    monkeypatch.setattr(
        kind, "__init__", lambda self, w, ids, *rest: seen.append(len(ids)) or real(self, w, ids, *rest)
    )
    decoder = open_decoder(lm, prompts, answers, 2)
    assert seen == [2]
    rows = [list(prompts[slot // answers]) for slot in decoder.slots.flat]
    for _ in range(2):
        new = torch.randint(5, 100, (len(rows),), generator=draw)
        rows = [[*row, token] for row, token in zip(rows, new.tolist(), strict=True)]
        hidden = decoder.step(new)
    close(hidden, ends(lm, rows))


def places(decoder) -> dict:
    """Where its tensors are in memory, and all that it knows beside them."""
    known = {n: x for n, x in vars(decoder).items() if n not in ("weights", "prompt", "cache")}
    where = {n: x.data_ptr() if isinstance(x, torch.Tensor) else str(x) for n, x in known.items()}
    return {**where, "cache": [t.data_ptr() for t in decoder.cache]}


@pytest.mark.parametrize("answers", [1, SHARED])
@every(FEWER)
def test_a_recorded_step_takes_everything_from_places_that_stay(lm, answers, monkeypatch):
    """What a graph replays: no tensor of its own is another one after a step, and its rest is hidden though it is nonsense."""
    monkeypatch.setattr(decoding, "PackedDecoder", RecordedDecoder)
    _, prompts = started(3, UNEVEN)
    decoder = open_decoder(lm, prompts, answers, 4)
    for cache in decoder.cache:
        cache[..., decoder.start + 1 :, :] = 1e4
    before = places(decoder)
    hidden = decoder.step(torch.full((decoder.slots.size,), 7))
    close(hidden, ends(lm, [[*prompts[slot // answers], 7] for slot in decoder.slots.flat]))
    assert hidden is decoder.hidden and places(decoder) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("answers", [1, SHARED])
@every(FEWER)
def test_a_replayed_step_equals_the_plain_forward(lm, answers):
    _, prompts = started(4, UNEVEN)
    decoder = open_decoder(copy.deepcopy(lm).cuda(), prompts, answers, decoding.WORTH)
    rows = [list(prompts[slot // answers]) for slot in decoder.slots.flat]
    assert isinstance(decoder, RecordedDecoder) and decoder.replay != decoder._step
    for token in (7, 8, 9):
        hidden = decoder.step(torch.full((len(rows),), token, device="cuda"))
        rows = [[*row, token] for row in rows]
        torch.testing.assert_close(hidden.cpu(), ends(lm, rows), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("answers", [2, 2 * SHARED])
@pytest.mark.parametrize("lengths", [EVEN, UNEVEN])
@every(FEWER, PLAIN, RECURRENT)
def test_answers_that_go_on_do_not_notice_those_that_end(lm, lengths, answers):
    draw, prompts = started(1, lengths)
    decoder = open_decoder(lm, prompts, answers, 9)
    slots = decoder.slots.copy()
    rows = {int(slot): list(prompts[slot // answers]) for slot in slots.flat}
    last = {
        slot: int(t) for slot, t in zip(rows, torch.randint(0, 9, (len(rows),), generator=draw), strict=True)
    }
    sizes = [slots.size]
    for t in range(9):
        new = torch.randint(5, 100, (slots.size,), generator=draw)
        for slot, token in zip(slots.flat, new.tolist(), strict=True):
            rows[int(slot)].append(token)
        hidden = decoder.step(new)
        going = np.array([last[int(slot)] > t for slot in slots.flat]).reshape(slots.shape)
        checked = np.flatnonzero(going)[:: max(1, going.sum() // 8)]
        if not going.any():
            break
        close(hidden[checked], ends(lm, [rows[int(slots.flat[i])] for i in checked]))
        kept = decoder.shrink(going)
        if kept is not None:
            assert (slots.flat[kept.numpy()] == decoder.slots.reshape(-1)).all()
        assert set(slots[going]) <= set(decoder.slots.flat)
        if slots.shape[1] > 1:  # a column keeps to its prompt
            assert (decoder.slots // answers == np.arange(len(prompts))).all()
        slots = decoder.slots.copy()
        sizes.append(slots.size)
    assert sizes[-1] < sizes[0] and sizes == sorted(sizes, reverse=True)


def test_a_column_keeps_as_many_slots_as_the_longest_needs(fresh):
    decoder = open_decoder(fresh("llama"), [[5, 6], [7]], SHARED, 3)
    decoder.step(torch.full((2 * SHARED,), 8))
    going = np.zeros((SHARED, 2), bool)
    going[3:9, 0] = going[SHARED - 2 :, 1] = True
    decoder.shrink(going)
    assert decoder.slots.shape == (6, 2)
    assert set(decoder.slots[:, 0]) >= set(range(3, 9))
    assert {SHARED * 2 - 2, SHARED * 2 - 1} <= set(decoder.slots[:, 1])
    assert decoder.shrink(np.ones((6, 2), bool)) is None


@every({"llama": PACKED["llama"], "gpt2": PLAIN["gpt2"]})
@pytest.mark.parametrize(
    ("prompts", "answers", "most", "pad", "words"),
    [
        ([[5], []], 1, 4, 0, "prompts"),
        ([], 1, 4, 0, "prompts"),
        ([[5, -1]], 1, 4, 0, "-1"),
        ([[5, 110]], 1, 4, 0, "110"),
        ([[5]], 0, 4, 0, "answers_per_prompt"),
        ([[5]], 1, 0, 0, "max_new_tokens"),
        ([[5]], 1, 4, -1, "pad"),
    ],
)
def test_what_cannot_be_decoded_is_refused(lm, prompts, answers, most, pad, words):
    with pytest.raises(ValueError, match=words):
        open_decoder(lm, prompts, answers, most, pad)
