"""Strings stay strings; messages, ShareGPT and transcripts become one chat, with nothing twice and nothing lost."""

from __future__ import annotations

import json

import pytest

from rmlab.dialogues import as_text, joined, opening, plain, words
from rmlab.tables import BadRow, loads

NAMES = ("prompt", "chosen", "rejected")


def say(*turns: str) -> list[dict]:
    """Messages from "user: hello"."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def read(prompt, first, second):
    sides = [as_text(side, name, "row") for side, name in zip((first, second), NAMES[1:], strict=True)]
    return joined(None if prompt is None else as_text(prompt, "prompt", "row"), sides, NAMES, "row")


CONTEXT = say("user: Hi.", "assistant: Hello?", "user: A colour, please.")
RED, SEVEN = say("assistant: Red."), say("assistant: Seven.")
HH = "\n\nHuman: Hi.\n\nAssistant: Hello?\n\nHuman: A colour, please.\n\nAssistant:"
SHAREGPT = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello?"}]
SHAREGPT += [{"from": "human", "value": "A colour, please."}]
FORMS = {
    "messages": (CONTEXT, RED, SEVEN),
    "messages and strings": (CONTEXT, "Red.", "Seven."),
    "one message a side": (CONTEXT, RED[0], SEVEN[0]),
    "whole dialogues": (None, [*CONTEXT, *RED], [*CONTEXT, *SEVEN]),
    "whole dialogues beside the prompt": (CONTEXT, [*CONTEXT, *RED], [*CONTEXT, *SEVEN]),
    "whole dialogues beside their last request": ("A colour, please.", [*CONTEXT, *RED], [*CONTEXT, *SEVEN]),
    "the first turns beside the rest": (CONTEXT[:2], [*CONTEXT[2:], *RED], [*CONTEXT[2:], *SEVEN]),
    "messages as JSON": (json.dumps(CONTEXT), json.dumps(RED), json.dumps(SEVEN)),
    "ShareGPT": (SHAREGPT, {"from": "gpt", "value": "Red."}, {"from": "gpt", "value": "Seven."}),
    "transcripts": (None, HH + " Red.", HH + " Seven."),
    "transcripts beside an empty cell": (" ", HH + " Red.", HH + " Seven."),
    "whole dialogues beside an empty cell": ("", [*CONTEXT, *RED], [*CONTEXT, *SEVEN]),
    "transcripts beside their prompt": (HH, HH + " Red.", HH + " Seven."),
    "transcripts beside their last request": ("A colour, please.", HH + " Red.", HH + " Seven."),
    "transcripts beside messages": (CONTEXT, HH + " Red.", HH + " Seven."),
    "a transcript and strings": (HH, " Red.", "Seven."),
    "a transcript without its last mark": (HH.removesuffix("\n\nAssistant:"), "Red.", "Seven."),
    "a transcript and messages": (HH, RED, SEVEN),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_dialogue_gives_one_chat(form):
    assert read(*FORMS[form]) == (CONTEXT, RED, SEVEN)


def test_strings_stay_strings_spaces_and_all():
    assert read("Name one: ", " Red.", "Seven.\n") == ("Name one: ", " Red.", "Seven.\n")
    answer = "He said:\n\nAssistant: is a word.\n\nHuman: is one too."
    assert read("Name two.", answer, "Human") == ("Name two.", answer, "Human")
    code = '[{"a": 1}]'
    assert read("Write JSON.", code, "[{ no") == ("Write JSON.", code, "[{ no")


def test_a_string_prompt_of_messages_is_a_request():
    assert read("Hi.", RED, SEVEN) == (say("user: Hi."), RED, SEVEN)


def test_what_leads_up_to_a_dialogue_is_kept():
    """An instruction or earlier turns beside sides that hold the rest."""
    system = say("system: Answer in French.", "user: Hi", "assistant: Salut")
    ask = say("user: A colour?")
    assert read(system, [*ask, *RED], [*ask, *SEVEN]) == ([*system, *ask], RED, SEVEN)
    assert read(system[:1], [*ask, *RED], [*ask, *SEVEN]) == ([*system[:1], *ask], RED, SEVEN)


def test_transcripts_are_split_at_their_turns_not_at_the_common_prefix():
    head = "\n\nHuman: q\n\nAssistant: I can.\n\nHuman: more\n\nAssistant:"
    prompt, chosen, rejected = read(None, head + " I can do that. Human: hm", head + " I can not.")
    assert prompt == say("user: q", "assistant: I can.", "user: more")
    assert (words(chosen), words(rejected)) == ("I can do that. Human: hm", "I can not.")
    prompt, *_ = read(None, "Be kind.\n\nHuman: q\n\nAssistant: a", "Be kind.\n\nHuman: q\n\nAssistant: b")
    assert prompt == say("system: Be kind.", "user: q")
    twice = "\n\nHuman: q\n\nHuman: r\n\nAssistant:\n\nAssistant:"
    prompt, *_ = read(None, twice + " a", twice + " b")
    assert prompt == say("user: q", "user: r", "assistant: ")


def test_an_answer_of_several_messages_is_kept_whole():
    longer = say("assistant: Red.", "user: And?", "assistant: Blue.")
    assert read(CONTEXT, longer, SEVEN) == (CONTEXT, longer, SEVEN)


TWICE = '[{"role": "user", "content": "A colour?", "content": "A number?"}]'
BAD = {
    "no prompt": ((None, "Red.", "Seven."), "missing_field", "field 'prompt': missing, and 'chosen' is no"),
    "other dialogues": (
        (None, HH + " a", HH.replace("Hi", "Ho") + " b"),
        "context_differs",
        "different dial",
    ),
    "one side alone is a dialogue": ((None, HH + " a", "b"), "context_differs", "different dialogues"),
    "no answer": ((None, CONTEXT, CONTEXT), "no_answer", "field 'chosen': the last message"),
    "a human's last word": ((None, HH + " a\n\nHuman: b", HH + " c"), "no_answer", "field 'chosen'"),
    "another prompt": (
        ("A number?", [*CONTEXT, *RED], [*CONTEXT, *SEVEN]),
        "prompt_differs",
        "field 'prompt': neither in the dialogue",
    ),
    "empty list": ((CONTEXT, RED, []), "empty_answer", "field 'rejected'"),
    "a boolean": (("p", True, "b"), "not_text", "field 'chosen': True is bool, not text"),
    "strings in a list": (("p", ["b"], "c"), "not_text", "field 'chosen': 'b'; give messages"),
    "parts": (([{"role": "user", "content": [{"text": "a"}]}], RED, SEVEN), "not_text", "field 'prompt'"),
    "no content": ((CONTEXT, [{"role": "assistant", "content": None}], RED), "not_text", "field 'chosen'"),
    "no role": ((CONTEXT, [{"content": "a"}], RED), "not_text", "field 'chosen'"),
    "a new role": ((CONTEXT, say("model: a"), RED), "unknown_role", "role 'model'; give system"),
    "a key twice": ((loads(TWICE), "a", "b"), "repeated_key", "field 'prompt': a message names a key twice"),
    "a key twice, in a cell": ((TWICE, "a", "b"), "repeated_key", "field 'prompt': a message names a key"),
    "Python's notation": ((str(CONTEXT), "a", "b"), "not_text", "Python's notation; write them as JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_dialogue_is_refused_by_field(name):
    form, reason, message = BAD[name]
    with pytest.raises(BadRow, match=message) as caught:
        read(*form)
    assert caught.value.reason == reason and str(caught.value).startswith("row")


def test_texts_are_compared_by_what_they_say_and_dialogues_by_how_they_open():
    assert plain(" a ") == "a" and plain(say("user: a ")) == (("user", "a"),)
    assert opening(CONTEXT) == opening(CONTEXT[:1]) == opening(say("system: s", "user:  HI. ")) == "hi."
    assert opening("Name\n one") == "name one" and opening(say("assistant: Hm")) == "hm"
