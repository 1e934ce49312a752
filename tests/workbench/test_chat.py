"""One chat request against a real server: what is sent, what is tried again, what ends it, and where the key is not."""

from __future__ import annotations

import json
import socket
import threading
import time
import traceback

import pytest

from rmlab.workbench.chat import ChatError, ChatModel, Stopped
from tests.workbench.chat_stub import KEY

MESSAGES = [{"role": "user", "content": "A or B?"}]


def model(url, **options):
    return ChatModel("judge-1", url, **({"retries": 2, "backoff": 0.01, "timeout": 5} | options))


def failure(chat):
    """The message of what `reply` raises, once its whole traceback has been seen not to hold the key."""
    with pytest.raises(ChatError) as caught:
        chat.reply(MESSAGES)
    assert KEY not in "".join(traceback.format_exception(caught.value)) + repr(chat)
    return str(caught.value)


def test_what_is_sent(serve):
    stub = serve(lambda number, body: "B")
    assert model(stub.url).reply(MESSAGES) == "B"
    path, headers, body = stub.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "judge-1", "messages": MESSAGES, "temperature": 0, "max_tokens": 16}
    for url in (stub.url + "/", stub.url.removesuffix("/v1"), stub.url + "/chat/completions"):
        assert model(url).reply(MESSAGES) == "B" and stub.requests[-1][0] == "/v1/chat/completions"


def test_the_key_is_that_of_the_variable(serve, monkeypatch):
    stub = serve(lambda number, body: "A")
    monkeypatch.setenv("OTHER", " other\n")
    model(stub.url, key_variable="OTHER").reply(MESSAGES)
    model(stub.url, key_variable="").reply(MESSAGES)
    assert [headers.get("Authorization") for _, headers, _ in stub.requests] == ["Bearer other", None]


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_it_at_once_and_names_the_variable(serve, monkeypatch, status):
    stub = serve(lambda number, body: status)
    text = failure(model(stub.url))
    assert "OPENAI_API_KEY" in text and str(status) in text and len(stub.requests) == 1
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY is not set" in failure(model(stub.url))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_trouble_is_tried_again(serve, status):
    stub = serve(lambda number, body: status if number < 2 else "tie")
    assert model(stub.url).reply(MESSAGES) == "tie" and len(stub.requests) == 3


def test_waits_double_and_follow_the_endpoint(serve):
    wait = {0: (429, {"Retry-After": "0.6"}, {}), 1: 500, 2: 500}
    stub = serve(lambda number, body: wait.get(number, "A"))
    model(stub.url, retries=3, backoff=0.1).reply(MESSAGES)
    first, second, third = (b - a for a, b in zip(stub.times, stub.times[1:], strict=False))
    assert first >= 0.6 and second >= 0.2 and third >= 0.4  # 0.1, doubled once and twice


def test_a_lasting_trouble_ends_after_the_retries(serve):
    stub = serve(lambda number, body: 500)
    text = failure(model(stub.url))
    assert "HTTP 500" in text and "3 times" in text and len(stub.requests) == 3
    assert "[key]" in text  # the stub's own message had it


def test_a_slow_endpoint(serve):
    stub = serve(lambda number, body: time.sleep(0.5) or "A")
    text = failure(model(stub.url, timeout=0.1, retries=1))
    assert "silent for 0.1 s" in text and len(stub.requests) == 2


def test_a_refused_connection():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert "refuses the connection, 3 times" in failure(model(url))


@pytest.mark.parametrize("status", [400, 404])
def test_a_wrong_request_is_not_repeated(serve, status):
    stub = serve(lambda number, body: (status, {}, {"error": {"message": "no such model"}}))
    assert "no such model" in failure(model(stub.url)) and len(stub.requests) == 1


def test_no_redirect_takes_the_key_elsewhere(serve):
    other = serve(lambda number, body: "A")
    stub = serve(lambda number, body: (302, {"Location": other.url}, {}))
    assert "302" in failure(model(stub.url)) and not other.requests


@pytest.mark.parametrize("content", [b"<html>", {"choices": []}, {"error": "?"}, [1]])
def test_what_is_no_chat_completion(serve, content):
    stub = serve(lambda number, body: (200, {}, content))
    assert "no chat completion" in failure(model(stub.url)) and len(stub.requests) == 1


def test_half_a_reply_is_tried_again(serve):
    stub = serve(lambda number, body: (200, {"Content-Length": "500"}, b"{}") if number == 0 else "A")
    assert model(stub.url, timeout=0.3).reply(MESSAGES) == "A" and len(stub.requests) == 2


def test_a_reply_without_text_is_empty_and_one_with_the_key_loses_it(serve):
    none = {"choices": [{"message": {"content": None}}]}
    stub = serve(lambda number, body: (200, {}, none) if number == 0 else f"key {KEY}!")
    chat = model(stub.url)
    assert chat.reply(MESSAGES) == "" and chat.reply(MESSAGES) == "key [key]!"


def test_requests_a_minute(serve):
    stub = serve(lambda number, body: "A")
    chat = model(stub.url, per_minute=300)  # one in 0.2 s
    threads = [threading.Thread(target=chat.reply, args=(MESSAGES,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stub.times[-1] - stub.times[0] >= 0.5  # 0.6, but for the time that a request takes to arrive


def test_stopping_ends_a_wait(serve):
    stub = serve(lambda number, body: 500)
    chat = model(stub.url, backoff=30)
    threading.Timer(0.3, chat.stop).start()
    with pytest.raises(Stopped):
        chat.reply(MESSAGES)
    with pytest.raises(Stopped):
        chat.reply(MESSAGES)
    assert len(stub.requests) == 1


def test_settings_that_cannot_be(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for bad in (
        "example.org/v1",
        "ftp://example.org",
        "https://example.org/v1?api-key=secret",
        "https://HOST:secret@example.org/v1",
    ):
        with pytest.raises(ValueError, match="base_url") as caught:
            model(bad)
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="https, as a key"):
        model("http://example.org/v1")
    model("http://example.org/v1", key_variable="")
    for name, value in {
        "timeout": 0,
        "retries": -1,
        "backoff": -1,
        "per_minute": -1,
        "max_tokens": 0,
    }.items():
        with pytest.raises(ValueError, match=name):
            model("https://example.org/v1", **{name: value})


@pytest.mark.parametrize("key", ["two words", "clé-secret", "line\nbreak"])
def test_a_key_that_no_header_can_hold_is_not_printed(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as caught:
        model("https://example.org/v1")
    assert key not in "".join(traceback.format_exception(caught.value))
    assert json.dumps(key)[1:-1] not in str(caught.value)
