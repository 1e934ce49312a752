"""Preferences from any file to ids: nothing is lost without a count, nothing is on both sides of a split."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import rmlab
from rmlab.backbone import build
from rmlab.pairs import Pair
from rmlab.preferences import Preferences
from rmlab.recipe import Size, Training
from rmlab.reward.model import from_backbone
from rmlab.reward.training import raw_score_pairs, train
from rmlab.tables import BadRow
from rmlab.text import TextFormat
from rmlab.tokens import SpecialTokens

REAL = Path(
    os.environ.get("RMLAB_REAL_DATA") or Path(__file__).parent.parent / ".." / "shared" / "data" / "real"
)
GOOD = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
FORMS = ("jsonl", "json", "jsonl.gz", "csv", "parquet", "memory", "frame")
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def say(*turns: str) -> list[dict]:
    """Messages from "user: hello"."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def write(folder: Path, form: str, rows: list[dict]) -> object:
    """Rows as a source of this form; the columns of a table are text or messages."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    path = folder / f"rows.{form}"
    if form == "memory":
        return rows
    if form == "frame":
        return pd.DataFrame(rows, columns=names)
    if form == "parquet":
        columns = {name: [row.get(name) for row in rows] for name in names}
        parquet.write_table(pa.table(columns), path)
    elif form == "csv":
        cells = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        pd.DataFrame(cells, columns=names).to_csv(path, index=False)
    else:
        dumped = [json.dumps(row) for row in rows]
        data = f"[{','.join(dumped)}]" if form == "json" else "\n".join(dumped)
        path.write_bytes(gzip.compress(data.encode()) if form.endswith("gz") else data.encode())
    return path


@pytest.fixture(scope="module")
def text_format() -> TextFormat:
    """A token a character, a <bos> in front of strings; EOS "</s>"."""
    known = ["<pad>", "<s>", "</s>", "<unk>", *map(chr, range(32, 127)), "\n"]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return TextFormat(wrapped, SpecialTokens(0, (2,)))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_same_pairs(tmp_path, form):
    rows = [GOOD | {"id": f"{i}", "prompt": f'Say "{i}",\nplease é🏽.', "g": f"{i % 3}"} for i in range(5)]
    rows += [GOOD | {"id": "spaces", "prompt": " Q:", "chosen": " a", "g": "0"}]
    soft = [row | {"soft": 0.5 + i / 20} for i, row in enumerate(rows)]
    prefs = Preferences.read(write(tmp_path, form, soft), soft="soft", group="g")
    assert [p.id for p in prefs] == [*"01234", "spaces"] and [p.group for p in prefs] == list("012010")
    assert prefs.pairs == [
        Pair(r["id"], r["prompt"], r["chosen"], r["rejected"], pytest.approx(r["soft"]), r["g"]) for r in soft
    ]
    assert prefs.counts.kept == 6 and not prefs.counts.dropped and not prefs.counts.unread
    chats = [
        {"prompt": say("user: q"), "chosen": say("assistant: a"), "rejected": say("assistant: b"), "n": 3}
    ]
    (pair,) = Preferences.read(write(tmp_path, form, chats))
    assert pair == Preferences.read(chats).pairs[0] and pair.prompt == say("user: q")
    rows = [GOOD, GOOD | {"chosen": "Seven. "}, GOOD | {"prompt": "\t"}, GOOD | {"chosen": None}]
    prefs = Preferences.read(write(tmp_path, form, rows), on_bad="drop")
    missing = "empty_answer" if form == "csv" else "missing_field"
    assert len(prefs) == 1
    assert prefs.counts.dropped == {"identical_pair": 1, "empty_prompt": 1, missing: 1}


DIRTY = {  # what real files hold, rebuilt: -> (row, reason), or None where it is a pair
    "empty final answer": ({"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: b"}, "empty_answer"),
    "context differs": ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: A\n\nAssistant: c"}, "context_differs"),
    "turn counts differ": ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nHuman: d\n\nAssistant: c"}, "context_differs"),
    "leaked role marker": ({"chosen": "\n\nHuman: a\n\nAssistant: Human: b", "rejected": "\n\nHuman: a\n\nAssistant: c  Human: Thanks."}, None),
    "two turns of one role": ({"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nHuman: b\n\nAssistant: d"}, None),
    "empty inner turn": ({"chosen": "\n\nHuman: a\n\nAssistant: \n\nHuman: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: \n\nHuman: b\n\nAssistant: d"}, None),
    "one is a prefix": (GOOD | {"chosen": "Red is", "rejected": "Red is a colour."}, None),
    "cut mid-list": (GOOD | {"rejected": "9. Red\n10."}, None),
    "emoji with a skin tone": (GOOD | {"chosen": "👍🏽 <b>“yes”</b> https://a.b"}, None),
    "a break and an entity": (GOOD | {"chosen": "Red<br/>&amp; blue"}, None),
    "begins with a quote": (GOOD | {"chosen": '"Red" it is'}, None),
    "a boolean answer": (GOOD | {"chosen": True}, "not_text"),
    "an empty response": (GOOD | {"rejected": ""}, "empty_answer"),
    "both empty": (GOOD | {"chosen": "", "rejected": ""}, "empty_answer"),
    "identical to the reference": (GOOD | {"rejected": "Red."}, "identical_pair"),
    "a missing key": ({"prompt": "a", "chosen": "b"}, "missing_field"),
    "NaN": (GOOD | {"chosen": float("nan")}, "not_text"),
    "NUL": (GOOD | {"chosen": "a\0b"}, "bad_characters"),
    "half a surrogate": (GOOD | {"chosen": "a\ud83d"}, "bad_characters"),
    "a carriage return": (GOOD | {"chosen": "a\r\nb\rc"}, None),
    "a long prompt": (GOOD | {"prompt": "why " * 50_000}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRTY)
def test_dirty_rows_are_pairs_or_dropped_under_a_reason(tmp_path, name):
    row, reason = DIRTY[name]
    path = write(tmp_path, "jsonl", [GOOD | {"id": "first"}, row, GOOD | {"prompt": "Last.", "id": "last"}])
    if reason is None:
        assert len(Preferences.read(path)) == 3
        return
    with pytest.raises(BadRow) as caught:
        Preferences.read(path)
    assert f"{path}, line 2" in str(caught.value) and len(str(caught.value)) < len(str(path)) + 200
    prefs = Preferences.read(path, on_bad="drop")
    assert [p.id for p in prefs] == ["first", "last"] and prefs.counts.dropped == {reason: 1}


@pytest.mark.parametrize("form", FORMS)
def test_limits_and_ids_are_the_same_in_every_form(tmp_path, form):
    """Of a text and of an id; the row alone is dropped."""
    rows = [GOOD | {"id": "first"}, GOOD | {"prompt": "x" * 1_100_000, "id": "a"}, GOOD | {"id": "b\0"}]
    with pytest.raises(BadRow, match="field 'prompt': 1100000 characters"):
        Preferences.read(write(tmp_path, form, rows))
    prefs = Preferences.read(write(tmp_path, form, rows), on_bad="drop")
    assert [p.id for p in prefs] == ["first"]
    assert prefs.counts.dropped == {"huge_text": 1, "bad_characters": 1}


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz"])
def test_a_key_that_is_there_twice_is_reported(tmp_path, form):
    twice = '{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}'
    data = f"[{json.dumps(GOOD)}, {twice}]" if form == "json" else f"{json.dumps(GOOD)}\n{twice}\n"
    path = tmp_path / f"rows.{form}"
    path.write_bytes(gzip.compress(data.encode()) if form.endswith("gz") else data.encode())
    prefs = Preferences.read(path, on_bad="drop")
    assert len(prefs) == 1 and prefs.counts.dropped == {"repeated_key": 1}


def _odd_value(rng: random.Random) -> object:
    text = ["", " ", "a", "Red.", 'say "x", y', "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant:"]
    text += [
        "[{",
        '[{"role": "user"',
        "[1, 2]",
        "é🏽\u2028",
        "a\0",
        "nan",
        "0.5",
        "tie",
        "'",
        "\r\n",
        "\\",
        "-1",
    ]
    chats = [say("user: a"), say("user: a", "assistant: b"), say("assistant: b"), say("model: x")]
    return rng.choice([rng.choice(text), rng.choice(text), rng.choice(chats), None])


def _fuzzed(seed: int, count: int) -> list[dict]:
    """Rows whose every field may be odd, or missing; half of them are sound in all but one."""
    rng = random.Random(seed)
    names = ("prompt", "chosen", "rejected", "soft_label", "id", "v")
    rows = []
    for i in range(count):
        row = {
            "prompt": f"Q {i % 97}",
            "chosen": f"a {i}",
            "rejected": f"b {i}",
            "v": rng.choice("0 1 2".split()),
        }
        odd = names if i % 2 else [rng.choice(names)]
        rows.append(row | {name: _odd_value(rng) for name in odd})
    return rows


VOTED = {"votes": "v", "repeats": "keep", "ties": "half"}


@functools.cache
def _fuzzed_pairs(text: bool, voted: bool) -> tuple[list[dict], list[Pair]]:
    """Odd rows, and what is read of them in memory; `text`: without a list in a cell."""
    rows = _fuzzed(7, 10_000)
    if text:
        rows = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    return rows, Preferences.read(rows, on_bad="drop", **VOTED if voted else {}).pairs


@pytest.mark.parametrize("voted", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_of_ten_thousand_odd_rows_none_is_lost(tmp_path, form, voted):
    """Kept and dropped are all of them; the same rows are kept whatever the form."""
    rows, pairs = _fuzzed_pairs(form in {"parquet", "frame"}, voted)  # a column has one type there
    prefs = Preferences.read(write(tmp_path, form, rows), on_bad="drop", **VOTED if voted else {})
    assert prefs.counts.kept + prefs.counts.dropped.total() == 10_000
    assert 2000 < len(prefs) < 8000 and len(prefs.counts.dropped) > 5
    assert prefs.pairs == pairs


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "csv", "parquet"])
def test_a_damaged_file_is_an_error_that_names_it_or_loses_no_row_unseen(tmp_path, form):
    """A few bytes changed, cut or put in: each of them can end a row or begin one, and spoil its own."""
    rows = [GOOD | {"id": f"{i}", "prompt": f"p é {i}", "chosen": 'say "x",\n y'} for i in range(60)]
    path = write(tmp_path, form, rows)
    sound, outcomes = path.read_bytes(), set()
    for seed in range(60):
        rng, data = random.Random(seed), bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            i = rng.randrange(len(data))
            data[i : i + rng.choice([0, 1, 30])] = rng.randbytes(rng.choice([0, 1, 9]))
        path.write_bytes(data)
        try:
            counts = Preferences.read(path, on_bad="drop").counts
        except ValueError as error:
            assert str(path) in str(error)
            outcomes.add("error")
        else:
            assert 45 <= counts.kept + counts.dropped.total() <= 75
            outcomes.add("read")
    assert outcomes == {"read"} if form == "jsonl" else outcomes


def test_no_prompt_and_no_group_is_on_both_sides_of_a_split():
    pairs = [Pair(f"{i}", f"Prompt {i % 400}", "a", "b") for i in range(1200)]
    train, test = Preferences(pairs).split(0.25, seed=3)
    assert len(train) + len(test) == 1200 and abs(len(test) - 300) <= 3
    assert not {p.prompt for p in train} & {p.prompt for p in test}
    again = Preferences(pairs[::-1]).split(0.25, seed=3)[1]
    assert {p.id for p in again} == {p.id for p in test}
    assert {p.id for p in Preferences(pairs).split(0.25, seed=4)[1]} != {p.id for p in test}
    # a prompt written otherwise, in another group, ties the groups together
    linked = [
        Pair(f"{i}", f"prompt {i // 2}" if i % 2 else f" Prompt\n {i // 2}", "a", "b", group=f"{i}")
        for i in range(40)
    ]
    train, test = Preferences(linked).split(0.5)
    assert not {int(p.id) // 2 for p in train} & {int(p.id) // 2 for p in test}
    with pytest.raises(ValueError, match="fraction = 1"):
        train.split(1)


def test_the_turns_of_one_dialogue_are_in_one_part():
    one = [{"prompt": say(f"user: q{i}"), "chosen": "x", "rejected": "y"} for i in range(100)]
    more = [
        {"prompt": say(f"user: q{i}", "assistant: x", "user: more"), "chosen": "c", "rejected": "d"}
        for i in range(100)
    ]
    train, test = Preferences.read(one + more).split(0.3)
    first = [{p.prompt[0]["content"] for p in part} for part in (train, test)]
    assert not first[0] & first[1] and len(test) == 60


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9, 0.99])
def test_few_groups_of_unequal_size_leave_no_part_empty(fraction):
    pairs = [Pair(f"{i}", f"{i}", "a", "b", group="big" if i < 80 else f"{i % 2}") for i in range(100)]
    for seed in range(5):
        train, test = Preferences(pairs).split(fraction, seed)
        assert train.pairs and test.pairs
        assert not set(train.groups) & set(test.groups)
        assert abs(len(test) - 100 * fraction) <= 30
    with pytest.raises(ValueError, match="separate groups of prompts = 1: give pairs of at least two"):
        Preferences(pairs[:80]).split(fraction)


def test_what_was_written_is_read_back(tmp_path):
    chat = {"prompt": say("user: é\u2028 q"), "chosen": say("assistant: a"), "rejected": say("assistant: b")}
    rows = [GOOD | {"g": "x", "v": ["1", "1", "2"]}, chat | {"id": "7", "g": "y", "v": ["2"]}]
    prefs = Preferences.read(rows, group="g", votes="v")
    prefs.write(tmp_path / "part.jsonl")
    again = Preferences.read(tmp_path / "part.jsonl", group="group")
    assert [dataclasses.replace(p, votes=None) for p in prefs] == again.pairs
    assert [p.soft for p in again] == [2 / 3, 1.0] and not again.counts.unread
    Preferences([Pair("a", " q", "x ", "y")]).write(tmp_path / "one.jsonl")
    assert Preferences.read(tmp_path / "one.jsonl").pairs == [Pair("a", " q", "x ", "y")]


def test_prompts_are_distinct_and_in_order():
    rows = [GOOD | {"prompt": p} for p in ("b", "a", "b ", "c", "a")]
    assert Preferences.read(rows, repeats="keep").prompts == ["b", "a", "c"]
    chat = {"prompt": say("user: q"), "chosen": "x", "rejected": "y"}
    assert Preferences.read([chat, chat]).prompts == [say("user: q")]


def test_ids_are_the_text_formats_and_keep_their_rows_names(text_format):
    rows = [GOOD | {"id": i, "g": i % 2, "soft_label": 1 - i / 10} for i in range(4)]
    rows = [r | {"chosen": f"{r['id']} red"} for r in rows]
    rows[2] |= {
        "prompt": None,
        "chosen": "\n\nHuman: q\n\nAssistant: a",
        "rejected": "\n\nHuman: q\n\nAssistant: b",
    }
    prefs = Preferences.read(rows, group="g")
    ids = prefs.encode(text_format)
    for i, pair in enumerate(prefs):
        assert ids.prompts[i] == text_format.prompt_ids(pair.prompt)
        assert ids.chosen[i] == text_format.answer_ids(pair.prompt, pair.chosen)
        assert ids.rejected[i] == text_format.answer_ids(pair.prompt, pair.rejected)
    assert (ids.ids, ids.groups, ids.soft) == (list("0123"), list("0101"), [1, 0.9, 0.8, 0.7])
    assert (ids.kept, ids.cut, ids.dropped, ids.votes) == ([0, 1, 2, 3], [False] * 4, {}, False)
    assert prefs.encode(text_format, votes=True).votes
    with pytest.raises(ValueError, match=r"soft labels of = \['x'\]: give a soft label to every pair"):
        Preferences.read([GOOD | {"id": "x"}]).encode(text_format, votes=True)


def test_a_pair_that_does_not_fit_is_cut_dropped_or_an_error(text_format):
    rows = [
        GOOD,
        GOOD | {"prompt": "long " * 20},
        GOOD | {"chosen": "x" * 90 + "y", "rejected": "x" * 90 + "z"},
    ]
    prefs = Preferences.read([row | {"id": f"{i}"} for i, row in enumerate(rows)])
    with pytest.raises(BadRow, match="pair '2': chosen and rejected become identical; raise max_length = 40"):
        prefs.encode(text_format, 40)
    ids = prefs.encode(text_format, 40, on_bad="drop")
    assert (ids.kept, ids.cut, ids.ids) == ([0, 1], [False, True], ["0", "1"])
    assert ids.dropped == {"identical_after_truncation": [2]}
    assert len(ids.prompts[1]) + max(len(ids.chosen[1]), len(ids.rejected[1])) == 40
    ids = prefs.encode(text_format, 40, on_long="drop")
    assert ids.kept == [0] and ids.dropped == {"too_long": [1, 2]}
    with pytest.raises(BadRow, match=r"pair '1': 10\d tokens; raise max_length = 40"):
        prefs.encode(text_format, 40, on_long="error")
    with pytest.raises(ValueError, match="on_long = 'warn'"):
        prefs.encode(text_format, 40, on_long="warn")
    with pytest.raises(ValueError, match="max_length = 7"):
        prefs.encode(text_format, 7)


def test_a_bos_survives_the_cut_and_the_answers_are_whole(text_format, monkeypatch):
    monkeypatch.setattr(text_format, "prompt_ids", lambda prompt: [1, *range(5, 5 + len(prompt))])
    (prompt,) = Preferences.read([GOOD | {"prompt": "x" * 50}]).encode(text_format, 30).prompts
    assert prompt == [1, *range(55 - 22, 55)]


def test_what_a_template_refuses_or_a_tokenizer_cannot_tell_apart_has_a_reason(text_format, monkeypatch):
    refusing = "{{ raise_exception('roles must alternate') }}"
    prefs = Preferences.read(
        [{"prompt": say("user: a", "user: b"), "chosen": "c", "rejected": "d", "id": "k"}]
    )
    monkeypatch.setattr(text_format.tokenizer, "chat_template", refusing)
    with pytest.raises(BadRow, match=r"pair 'k': cannot be rendered \(roles must alternate\)"):
        prefs.encode(text_format)
    with pytest.raises(ValueError, match=r"no pair of 1 can be encoded; the first: pair 'k'"):
        prefs.encode(text_format, on_bad="drop")
    both = Preferences([*prefs, Pair("plain", "a", "b", "c")])
    assert both.encode(text_format, on_bad="drop").dropped == {"not_rendered": [0]}
    monkeypatch.setattr(text_format.tokenizer, "chat_template", CHAT)
    assert len(prefs.encode(text_format)) == 1
    same = Preferences.read([GOOD | {"chosen": "🏽", "rejected": "👍"}, GOOD], on_bad="drop")
    assert same.encode(text_format).dropped == {"identical_ids": [0]}


@pytest.mark.parametrize("votes", [False, True])
def test_what_was_read_trains_a_reward_model(tmp_path, text_format, votes):
    """The answer with an "a" in it is chosen, by three of four: the margins settle at what was voted."""
    rows = [
        {"prompt": f"\n\nHuman: {i}\n\nAssistant:", "x": "aaaa", "y": "bbbb", "v": [1, 1, 1, 2]}
        for i in range(64)
    ]
    path = write(tmp_path, "jsonl", rows)
    prefs = Preferences.read(path, chosen="x", rejected="y", votes="v")
    ids = prefs.encode(text_format, 64, votes=votes)
    size = Size(hidden=32, layers=1, heads=2, ff=32)
    model = from_backbone(build(size, len(text_format.tokenizer), text_format.special, seed=0), 1, seed=0)
    train(model, ids, Training(epochs=8, batch=16, lr=1e-2), seed=0)
    margin = float(np.diff(raw_score_pairs(model, ids)[:, ::-1, 0], axis=1).mean())
    assert abs(margin - np.log(3)) < 0.3 if votes else margin > 2


def test_options_are_named():
    for name in ("on_bad", "repeats", "ties"):
        with pytest.raises(ValueError, match=f"{name} = 'some': give '"):
            Preferences.read([GOOD], **{name: "some"})
    with pytest.raises(ValueError, match="on_bad = 'some'"):
        Preferences.read([GOOD]).encode(None, on_bad="some")
    assert (
        rmlab.Preferences is Preferences
        and repr(Preferences.read([GOOD])) == "Preferences(1 pairs of 1 prompts)"
    )


def test_a_report_is_of_the_pairs_at_hand(text_format):
    prefs = Preferences.read([GOOD | {"prompt": f"{i}", "chosen": "red " * (i + 1)} for i in range(60)])
    report = prefs.report()
    assert (report.pairs, report.rows, report.unit) == (60, 60, "words")
    assert report.baselines and report.tested[0] == 12
    train, test = prefs.split(0.5)
    assert train.report(test).tested[0] == 30
    assert prefs.report(text_format=text_format, max_length=64, baselines=False).share_cut > 0.5


def real(name: str, **options) -> Preferences:
    path = REAL / name
    if not path.is_file():
        pytest.skip("the real sample is not here; set RMLAB_REAL_DATA to its folder")
    return Preferences.read(path, on_bad="drop", **options)


@pytest.mark.parametrize(
    ("name", "options", "kept", "dropped", "noted"),
    [
        ("hh_harmless_base/train.jsonl", {}, 1434, {}, {}),
        ("hh_harmless_base/test.jsonl", {}, 373, {}, {}),
        ("dirty_hh_raw/dirty_rows.jsonl", {}, 38, {"context_differs": 4, "empty_answer": 2}, {}),
        (
            "ukpconvarg1/train.jsonl",
            {"group": "prompt"},
            6932,
            {},
            {"duplicate_pair": 126, "reversed_pair": 9},
        ),
        ("ukpconvarg1/test.jsonl", {"group": "prompt"}, 2309, {}, {"duplicate_pair": 17}),
        ("qa_feedback/train.jsonl", {"group": "qid"}, 1762, {}, {}),
        (
            "pandalm_3annotators/test_raw.jsonl",
            {
                "prompt": ("instruction", "input"),
                "chosen": "response1",
                "rejected": "response2",
                "votes": ("annotator1", "annotator2", "annotator3"),
                "id": "idx",
            },
            476,
            {"tie": 34, "empty_answer": 18, "not_text": 6},
            {"sides_changed": 254, "duplicate_pair": 48},
        ),
    ],
)
def test_real_files_keep_the_rows_that_are_sound(name, options, kept, dropped, noted):
    prefs = real(name, **options)
    counts = prefs.counts
    assert (len(prefs), counts.kept) == (kept, kept)
    assert dict(counts.dropped) == dropped and dict(counts.noted) == noted
    assert len({p.id for p in prefs}) == kept
    train, test = prefs.split(0.3)
    assert not {hash(str(p)) for p in train.prompts} & {hash(str(p)) for p in test.prompts}
    assert abs(len(test) / len(prefs) - 0.3) < 0.1
    text = str(prefs.report(baselines=len(prefs) < 5000))
    assert text.startswith(f"pairs      {kept}") and "\nrows " in text
