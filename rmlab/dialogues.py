"""A field of a row to a string or a chat, and prompt and answers to one dialogue.

How an answer follows its prompt is left to `rmlab.text.TextFormat`. A transcript "\\n\\nHuman: ...\\n\\nAssistant:
..." (Bai et al. 2204.05862) is a chat, and so are ShareGPT's messages {from, value}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rmlab.tables import BadRow, RepeatedKey, loads, short
from rmlab.text import MARK

OPENS = re.compile(r"\s*(?:Human|System):")
TURN = re.compile(r"\n\n(Human|Assistant|System):")
ROLES = {r: r for r in ("system", "developer", "user", "assistant", "tool", "function")}
ROLES |= {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
Text = str | list[dict[str, str]]  # a string, or a chat


def as_text(value: object, name: str, where: str) -> Text:
    """A string, or messages: a list of them, one alone, or either as JSON in a string."""
    if isinstance(value, str) and value.lstrip()[:2] == "[{":
        if re.match(r"\s*\[\{'(?:role|content|from|value)'", value):
            raise BadRow("not_text", where, "messages in Python's notation; write them as JSON", name)
        try:
            listed = loads(value)
        except (ValueError, RecursionError):
            return value
        return _chat(listed, name, where) if all(_is_message(m) for m in listed) else value
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list | tuple):
        return _chat(value, name, where)
    if not isinstance(value, str):
        fault = f"{short(value)} is {type(value).__name__}, not text; give a string"
        raise BadRow("not_text", where, fault, name)
    return value


def joined(
    prompt: Text | None, sides: Sequence[Text], names: Sequence[str], where: str
) -> tuple[Text, Text, Text]:
    """Prompt and two answers, all strings or all chats; what the sides repeat of the prompt is there once.

    Parameters
    ----------
    prompt, sides : from `as_text`; without a prompt, each side is a whole dialogue
    names : the fields of prompt, first and second side, for errors

    Raises
    ------
    BadRow
        No prompt, no answer, sides that answer different dialogues, or a prompt that is not theirs.
    """
    if isinstance(prompt, str) and not prompt.strip() and any(map(_is_dialogue, sides)):
        prompt = None  # an empty cell
    if _is_transcript(prompt):
        prompt = _turns(prompt)
        if len(prompt) > 1 and prompt[-1] == {"role": "assistant", "content": ""}:
            prompt.pop()
        sides = [s.strip() if isinstance(s, str) and not _is_transcript(s) else s for s in sides]
    sides = [_turns(s) if _is_transcript(s) or (prompt is None and MARK in s) else s for s in sides]
    if all(isinstance(text, str) for text in (*sides, "" if prompt is None else prompt)):
        if prompt is None:
            fault = f"missing, and {names[1]!r} is no dialogue to take it from; give the prompt"
            raise BadRow("missing_field", where, fault, names[0])
        return prompt, *sides
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    (before, chosen), (other, rejected) = (
        _cut(side, prompt is None, name, where) for side, name in zip(sides, names[1:], strict=True)
    )
    if plain(before) != plain(other):
        raise BadRow("context_differs", where, "the two sides answer different dialogues; drop the row")
    return _led_up(prompt, before, names[0], where), chosen, rejected


def plain(text: Text) -> tuple | str:
    """A text as compared: spaces at its ends do not count."""
    return text.strip() if isinstance(text, str) else tuple((m["role"], m["content"].strip()) for m in text)


def words(text: Text) -> str:
    """What a text says, without roles."""
    return text if isinstance(text, str) else "\n\n".join(message["content"] for message in text)


def opening(prompt: Text) -> str:
    """How a prompt begins, folded: a string whole, a chat's first request. Turns of one dialogue share it."""
    if not isinstance(prompt, str):
        prompt = next((m["content"] for m in prompt if m["role"] == "user"), words(prompt))
    return " ".join(prompt.split()).casefold()


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and (
        {"role", "content"} <= set(value) or {"from", "value"} <= set(value)
    )


def _chat(messages: Sequence, name: str, where: str) -> list[dict[str, str]]:
    out = []
    for message in messages:
        if isinstance(message, RepeatedKey):
            fault = "a message names a key twice; keep the one that is meant"
            raise BadRow("repeated_key", where, fault, name)
        keys = ("role", "content")
        if isinstance(message, Mapping) and "role" not in message:
            keys = ("from", "value")
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in keys):
            fault = f"{short(message)}; give messages of role and content, text both"
            raise BadRow("not_text", where, fault, name)
        role = ROLES.get(message[keys[0]].strip().casefold())
        if role is None:
            fault = f"role {short(message[keys[0]])}; give system, user, assistant or tool"
            raise BadRow("unknown_role", where, fault, name)
        out.append({"role": role, "content": message[keys[1]]})
    return out


def _is_transcript(text: Text) -> bool:
    return isinstance(text, str) and bool(OPENS.match(text)) and (MARK in text or text.startswith("\n\n"))


def _is_dialogue(side: Text) -> bool:
    """Whether a side holds its prompt."""
    return _is_transcript(side) if isinstance(side, str) else bool(side) and side[0]["role"] != "assistant"


def _turns(transcript: str) -> list[dict[str, str]]:
    """The messages of a transcript; what stands before its first turn is the system's."""
    head, *rest = TURN.split("\n\n" + transcript.lstrip())
    turns = [
        {"role": ROLES.get(speaker.lower(), speaker.lower()), "content": said.strip()}
        for speaker, said in zip(rest[::2], rest[1::2], strict=True)
    ]
    return [{"role": "system", "content": head.strip()}, *turns] if head.strip() else turns


def _cut(side: Text, whole: bool, name: str, where: str) -> tuple[list, list]:
    """(what comes before the answer, the answer) of a side; `whole`: all but its last message comes before."""
    if isinstance(side, str):
        return [], [{"role": "assistant", "content": side}]
    if side and not whole and side[0]["role"] == "assistant":
        return [], side
    if not side:
        raise BadRow("empty_answer", where, "empty; drop the row or give the text", name)
    if side[-1]["role"] != "assistant":
        raise BadRow("no_answer", where, "the last message is not the assistant's; drop the row", name)
    return side[:-1], side[-1:]


def _led_up(prompt: list | None, before: list, name: str, where: str) -> list:
    """A prompt beside a dialogue: part of it, or what leads up to it."""
    ours, theirs = plain(prompt or []), plain(before)
    if not before or not ours:
        return before or prompt or []
    if theirs[: len(ours)] == ours or theirs[-len(ours) :] == ours:
        return before
    if prompt[-1]["role"] in {"system", "developer", "assistant"} and before[0]["role"] == "user":
        return [*prompt, *before]
    fault = "neither in the dialogue of the sides nor before it; drop the row, or one of the two"
    raise BadRow("prompt_differs", where, fault, name)
