"""Loading, cleaning, splitting and cutting preference pairs. Fixtures are written here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from rmlab.preferences import HUGE, BadRow, Pair, load_pairs, split_pairs, truncate_pair, truncate_pairs

GOOD = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
REAL = Path(os.environ.get("RMLAB_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data" / "real")


def lines(path: Path, *rows) -> Path:
    """A JSON-lines file: dicts are dumped, bytes are written as they are."""
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


def without(name: str) -> dict:
    return {k: v for k, v in GOOD.items() if k != name}


def say(*turns: str) -> list[dict]:
    """Messages from "user: hello"."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


BAD = {  # reason -> (a row that has it, words of the error)
    "missing_field": (without("rejected"), "field 'rejected': missing; give"),
    "missing_prompt": (without("prompt"), "field 'prompt': missing, and 'chosen' is no dialogue"),
    "null_field": (GOOD | {"chosen": None}, "field 'chosen': missing"),
    "not_text": (GOOD | {"rejected": True}, "field 'rejected': True is bool, not text; give a string"),
    "nan_field": (GOOD | {"chosen": float("nan")}, "field 'chosen': nan is float"),
    "not_messages": (
        GOOD | {"chosen": [{"role": "assistant", "content": 3}]},
        "field 'chosen'.*'content': 3",
    ),
    "empty_answer": (GOOD | {"chosen": " \n"}, "field 'chosen': empty"),
    "empty_list": (GOOD | {"rejected": []}, "field 'rejected': empty"),
    "empty_prompt": (GOOD | {"prompt": ""}, "field 'prompt': empty"),
    "empty_hh": (
        {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: b"},
        "empty",
    ),
    "context_differs": (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: A\n\nAssistant: c"},
        "different dialogues",
    ),
    "no_answer": (
        {"chosen": say("user: a", "assistant: b"), "rejected": say("user: a")},
        "field 'rejected': the last message",
    ),
    "identical_pair": (GOOD | {"rejected": "Red."}, "chosen and rejected are identical"),
    "nul": (GOOD | {"chosen": "Red\0."}, "field 'chosen': holds NUL or half a surrogate pair"),
    "half_surrogate": (GOOD | {"chosen": "Red \ud83d."}, "field 'chosen': holds NUL or half"),
    "bad_soft_label": (GOOD | {"soft_label": 1.5}, "field 'soft_label': 1.5; give a share"),
    "soft_label_true": (GOOD | {"soft_label": True}, "field 'soft_label': True"),
    "not_an_object": ([1, 2], r"\[1, 2\] is no object"),
    "repeated_id": (GOOD | {"chosen": "Blue.", "id": "first"}, "field 'id': 'first' is another pair's"),
    "not_utf8": (b'{"prompt": "caf\xe9"}', r"line 2: byte 99 of the file \(0xe9\) is not UTF-8"),
    "not_json": (b'{"prompt": "cut off', "line 2: not JSON at column"),
    "deep_json": (b"{" + b'"a":[' * 100_000, "line 2: .*JSON"),
    "long_number": (b'{"prompt": ' + b"9" * 5000 + b"}", "line 2: .*JSON"),
    "huge_line": (b'{"prompt": "' + b"x" * HUGE + b'"}', "line 2: 1000014 bytes in one line"),
}
REASON = {
    "missing_prompt": "missing_field",
    "null_field": "missing_field",
    "nan_field": "not_text",
    "not_messages": "not_text",
    "empty_list": "empty_answer",
    "empty_hh": "empty_answer",
    "nul": "bad_characters",
    "half_surrogate": "bad_characters",
    "soft_label_true": "bad_soft_label",
    "deep_json": "not_json",
    "long_number": "not_json",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_raises_one_clear_error_or_is_dropped_and_counted(tmp_path, name):
    row, words = BAD[name]
    first = GOOD | {"id": "first"}
    path = lines(tmp_path / "pairs.jsonl", first, row, GOOD | {"prompt": "Another.", "id": "last"})
    with pytest.raises(BadRow, match=words) as caught:
        load_pairs(path)
    assert str(path) in str(caught.value) and "line 2" in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200
    pairs, report = load_pairs(path, on_bad="drop")
    assert [p.id for p in pairs] == ["first", "last"]
    assert report.kept == 2 and report.dropped == {REASON.get(name, name): 1}
    assert REASON.get(name, name) + " 1" in str(report)


def test_an_error_shows_at_most_sixty_characters_of_a_value(tmp_path):
    path = lines(tmp_path / "pairs.jsonl", GOOD | {"chosen": {"secret": "x" * 500}})
    with pytest.raises(BadRow) as caught:
        load_pairs(path)
    assert "x" * 61 not in str(caught.value) and "..." in str(caught.value)


def test_the_three_forms_of_one_dialogue_give_one_pair(tmp_path):
    prompt = say("user: Hi.", "assistant: Hello?", "user: A colour, please.")
    text = "\n\nHuman: Hi.\n\nAssistant: Hello?\n\nHuman: A colour, please.\n\nAssistant:"
    forms = {
        "raw": {"chosen": text + " Red.", "rejected": text + " Seven."},
        "messages": {
            "prompt": prompt,
            "chosen": say("assistant: Red."),
            "rejected": say("assistant: Seven."),
        },
        "whole": {
            "chosen": [*prompt, *say("assistant: Red.")],
            "rejected": [*prompt, *say("assistant: Seven.")],
        },
        "whole and prompt": {"prompt": "A colour, please."}
        | {"chosen": [*prompt, *say("assistant: Red.")], "rejected": [*prompt, *say("assistant: Seven.")]},
        "plain": {"prompt": text, "chosen": "Red.", "rejected": "Seven."},
    }
    read = [load_pairs(lines(tmp_path / f"{i}.jsonl", row))[0] for i, row in enumerate(forms.values())]
    assert all(pairs == read[0] for pairs in read)
    assert (read[0][0].prompt, read[0][0].chosen, read[0][0].rejected) == (text, "Red.", "Seven.")


def test_raw_dialogues_are_split_at_the_last_turn_not_at_the_common_prefix(tmp_path):
    head = "\n\nHuman: q\n\nAssistant: I can.\n\nHuman: more\n\nAssistant:"
    row = {"chosen": head + " I can do that. Human: hm", "rejected": head + " I can not."}
    pair = load_pairs(lines(tmp_path / "hh.jsonl", row))[0][0]
    assert pair.prompt == head and pair.chosen == "I can do that. Human: hm" and pair.rejected == "I can not."


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_lines_and_array_with_and_without_a_mark_read_alike(tmp_path, bom, newline):
    rows = [GOOD | {"chosen": "Röd\u2028 🏽 \r\n ok", "soft_label": 0.8}, GOOD]
    dumped = [json.dumps(r, ensure_ascii=False).encode() for r in rows]
    a, b = tmp_path / "a.jsonl", tmp_path / "b.json"
    a.write_bytes(bom + newline.join([*dumped, b""]) + newline)
    b.write_bytes(bom + b"[" + (b"," + newline).join(dumped) + b"]")
    assert load_pairs(a) == load_pairs(b)
    pairs, report = load_pairs(a)
    assert report.kept == 2 and pairs[0].soft == 0.8 and pairs[1].soft is None


def test_repeats_are_noted_or_dropped_as_asked(tmp_path):
    reverse = GOOD | {"chosen": GOOD["rejected"], "rejected": GOOD["chosen"]}
    path = lines(tmp_path / "pairs.jsonl", GOOD | {"id": "a"}, GOOD | {"id": "b"}, reverse | {"id": "c"})
    pairs, report = load_pairs(path)
    assert (
        len(pairs) == 3 and report.noted == {"duplicate_pair": 1, "reversed_pair": 1} and not report.dropped
    )
    pairs, report = load_pairs(path, repeats="drop")
    assert [p.id for p in pairs] == ["a"] and report.dropped == {"duplicate_pair": 1, "reversed_pair": 1}
    assert "kept 1, dropped 2" in str(report)


def test_ids_come_from_the_file_or_the_text_never_from_the_position(tmp_path):
    rows = [GOOD | {"prompt": f"Request {i}."} for i in range(6)]
    ids = {p.prompt: p.id for p in load_pairs(lines(tmp_path / "a.jsonl", *rows))[0]}
    moved = {
        p.prompt: p.id
        for p in load_pairs(lines(tmp_path / "b.jsonl", {"chosen": 1}, *rows[::-1]), on_bad="drop")[0]
    }
    assert ids == moved and len(set(ids.values())) == 6
    assert load_pairs(lines(tmp_path / "c.jsonl", GOOD | {"id": 0}))[0][0].id == "0"


@pytest.mark.parametrize(
    "data, words",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"", "has no rows"),
        (b"\n\n", "has no rows"),
        (b"[]", "has no rows"),
        (b'\n[{"prompt": \n', "line 3: not JSON"),
        (b'[\n"\xff"]', "line 2: byte 3 of the file is not UTF-8"),
        (
            b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]",
            r"pairs\.json: JSON that no pair needs, in one array",
        ),
        (b'[{"prompt": ' + b"9" * 5000 + b"}]", r"pairs\.json: JSON that no pair needs, in one array"),
    ],
    ids=["lfs", "empty", "blank", "no-rows", "cut-array", "latin-array", "deep-array", "long-number-array"],
)
@pytest.mark.parametrize("on_bad", ["error", "drop"])
def test_a_file_that_is_no_data_is_an_error_whatever_is_asked(tmp_path, data, words, on_bad):
    path = tmp_path / "pairs.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words):
        load_pairs(path, on_bad=on_bad)


def test_lines_whose_first_row_is_a_list_are_lines(tmp_path):
    path = lines(tmp_path / "pairs.jsonl", [1, 2], GOOD)
    with pytest.raises(BadRow, match=r"line 1: \[1, 2\] is no object"):
        load_pairs(path)
    pairs, report = load_pairs(path, on_bad="drop")
    assert len(pairs) == 1 and report.dropped == {"not_an_object": 1}


def test_options_and_paths_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"path = .*nothing\.jsonl"):
        load_pairs(tmp_path / "nothing.jsonl")
    path = lines(tmp_path / "pairs.jsonl", GOOD)
    with pytest.raises(ValueError, match="on_bad = 'skip'"):
        load_pairs(path, on_bad="skip")
    with pytest.raises(ValueError, match="repeats = 'once'"):
        load_pairs(path, repeats="once")


def test_hub_data_without_the_package_says_what_to_do(monkeypatch):
    from rmlab.preferences import load_hub

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"name = 'some/set'.*`datasets`"):
        load_hub("some/set")


def test_hub_rows_go_through_the_same_gate(monkeypatch):
    from types import SimpleNamespace

    from rmlab.preferences import load_hub

    rows = [GOOD, GOOD | {"chosen": ""}, GOOD]
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda name, split: rows))
    pairs, report = load_hub("some/set", on_bad="drop")
    assert len(pairs) == 2 and report.dropped == {"empty_answer": 1} and report.noted == {"duplicate_pair": 1}
    with pytest.raises(BadRow, match=r"some/set \[train\], row 1, field 'chosen'"):
        load_hub("some/set")


def test_no_prompt_is_on_both_sides_of_a_split_and_order_does_not_matter():
    pairs = [Pair(f"{i}", f"prompt {i % 400}", "a", "b") for i in range(1200)]
    train, test = split_pairs(pairs, 0.25, seed=3)
    assert len(train) + len(test) == 1200 and not {p.prompt for p in train} & {p.prompt for p in test}
    assert abs(len({p.prompt for p in test}) - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5
    backwards = split_pairs(pairs[::-1], 0.25, seed=3)
    assert {p.id for p in backwards[1]} == {p.id for p in test}
    part = split_pairs(pairs[:300], 0.25, seed=3)[1]
    assert {p.id for p in part} == {p.id for p in test if int(p.id) < 300}
    assert {p.id for p in split_pairs(pairs, 0.25, seed=4)[1]} != {p.id for p in test}
    with pytest.raises(ValueError, match="fraction = 1"):
        split_pairs(pairs, 1)


ids = st.lists(st.integers(5, 8), max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(ids, ids, ids, st.integers(2, 20))
def test_truncation_keeps_the_answers_and_their_difference(prompt, chosen, rejected, most):
    chosen, rejected = [*chosen, 2], [*rejected, 2]
    try:
        p, c, r = truncate_pair(prompt, chosen, rejected, most)
    except BadRow as bad:
        assert bad.reason == "identical_after_truncation"
        assert chosen[: most - 1] == rejected[: most - 1]
        return
    assert c != r and len(p) + max(len(c), len(r)) <= most
    assert prompt[len(prompt) - len(p) :] == p  # cut on the left
    for cut, whole in ((c, chosen), (r, rejected)):
        assert cut == whole if len(whole) <= most else cut == [*whole[: most - 1], 2]
    if len(prompt) + max(len(chosen), len(rejected)) <= most:
        assert (p, c, r) == (prompt, chosen, rejected)
    elif len(p) < len(prompt):
        assert len(p) + max(len(c), len(r)) == most  # no more than needed


def test_cuts_and_drops_are_counted():
    fits, long_prompt = ([5, 6], [7, 2], [8, 2]), (list(range(5, 25)), [7, 2], [8, 2])
    long_answers, same_heads = (
        ([5], [*range(5, 20), 2], [*range(9, 30), 2]),
        ([5], [6] * 20 + [7, 2], [6] * 20 + [8, 2]),
    )
    rows = [fits, long_prompt, long_answers, same_heads]
    kept, report = truncate_pairs(rows, 10)
    assert report.kept == 3 and report.dropped == {"identical_after_truncation": 1}
    assert report.noted == {"prompt_cut": 2, "answer_cut": 1}
    assert kept[0] == fits and kept[1] == (list(range(17, 25)), [7, 2], [8, 2])
    kept, report = truncate_pairs(rows, 10, on_long="drop")
    assert kept == [fits] and report.dropped == {"too_long": 3} and not report.noted
    with pytest.raises(BadRow, match="pair 1: 22 tokens; raise max_length = 10"):
        truncate_pairs(rows, 10, on_long="error")
    with pytest.raises(ValueError, match="on_long = 'warn'"):
        truncate_pairs(rows, 10, on_long="warn")
    with pytest.raises(ValueError, match="max_length = 1"):
        truncate_pairs(rows, 1)


def test_naive_truncation_would_have_made_pairs_identical():
    """The trap: prompt + answer cut on the right leaves the prompt alone, twice."""
    prompt, chosen, rejected = list(range(5, 105)), [7, 8, 2], [9, 8, 2]
    assert (prompt + chosen)[:64] == (prompt + rejected)[:64]
    p, c, r = truncate_pair(prompt, chosen, rejected, 64)
    assert p == prompt[-61:] and (c, r) == (chosen, rejected)


@pytest.mark.parametrize(
    "name, kept, dropped, noted",
    [
        ("hh_harmless_base/train.jsonl", 1434, {}, {}),
        ("hh_harmless_base/test.jsonl", 373, {}, {}),
        ("dirty_hh_raw/dirty_rows.jsonl", 38, {"context_differs": 4, "empty_answer": 2}, {}),
        ("ukpconvarg1/train.jsonl", 6932, {}, {"duplicate_pair": 126, "reversed_pair": 9}),
        ("ukpconvarg1/test.jsonl", 2309, {}, {"duplicate_pair": 17}),
        ("qa_feedback/train.jsonl", 1762, {}, {}),
        ("qa_feedback/test_ties.jsonl", 0, {"missing_field": 74}, {}),
        ("pandalm_3annotators/test_raw.jsonl", 0, {"missing_field": 534}, {}),
    ],
)
def test_real_files_keep_the_rows_that_are_sound(name, kept, dropped, noted):
    path = REAL / name
    if not path.is_file():
        pytest.skip("the real sample is not here; set RMLAB_REAL_DATA to its folder")
    pairs, report = load_pairs(path, on_bad="drop")
    assert (len(pairs), report.kept) == (kept, kept)
    assert dict(report.dropped) == dropped and dict(report.noted) == noted
    assert len({p.id for p in pairs}) == kept
    train, test = split_pairs(pairs, 0.5, seed=0)
    assert not {hash(p.prompt) for p in train} & {hash(p.prompt) for p in test}
