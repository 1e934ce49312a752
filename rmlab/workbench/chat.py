"""A chat model behind any OpenAI-compatible endpoint: one question, one reply, with retries and a limit a minute.

The key is read from an environment variable at the moment it is sent. It is in no message of an error, no `repr`, no
reply that is handed on; it goes to the host that was named and nowhere else (redirects are refused) and, but for this
machine, through TLS only. The request and its reply are those of `POST /v1/chat/completions` in OpenAI's API reference,
of which vLLM, llama.cpp, Ollama and `transformers serve` have their own.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rmlab.recipe import require

WORTH_ANOTHER_TRY = {408, 425, 429}  # and every status of 500 or more
LONGEST_WAIT = 60.0  # seconds between two tries
HIDDEN = "[key]"


class ChatError(RuntimeError):
    """The endpoint gives no reply, and more tries would not help; the message is one sentence, without the key."""


class Stopped(RuntimeError):
    """Another thread called `ChatModel.stop` before this reply came."""


@dataclass
class ChatModel:
    """A model by name, at an endpoint; safe to use from several threads.

    Parameters
    ----------
    model : the name that the endpoint knows it by
    base_url : http(s)://host/v1, all that stands before `/chat/completions`; `/v1` is added to a bare host
    key_variable : environment variable that holds the key; "" for an endpoint without one
    max_tokens : of a reply, at most
    timeout : seconds without a byte from the endpoint, after which a try has failed
    retries : further tries after a refused connection, a timeout, 408, 425, 429 or 5xx
    backoff : seconds before the second try, doubled before each further one; `Retry-After` makes it longer; at most 60
    per_minute : requests a minute, at most, tries included; 0: no limit
    """

    model: str
    base_url: str
    key_variable: str = "OPENAI_API_KEY"
    max_tokens: int = 16
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    per_minute: float = 0.0
    _next: float = field(default=-math.inf, init=False, repr=False)  # when the next request may start
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def __post_init__(self):
        url = urlsplit(self.base_url)
        ok = (
            url.scheme in {"http", "https"}
            and url.hostname
            and not (url.query or url.fragment or "@" in url.netloc)
        )
        require(
            bool(ok),
            "base_url",
            HIDDEN if "@" in url.netloc or url.query else self.base_url,
            "http(s)://host/v1",
        )
        for name, least in {"max_tokens": 1, "retries": 0, "backoff": 0, "per_minute": 0}.items():
            value = getattr(self, name)
            require(least <= value < math.inf, name, value, f"a number of {least} or more")
        require(0 < self.timeout < math.inf, "timeout", self.timeout, "seconds, more than 0")
        key, local = self._key(), url.hostname in {"localhost", "127.0.0.1", "::1"}
        safe = url.scheme == "https" or local or not key
        require(
            safe, "base_url", self.base_url, 'https, as a key is to be sent, or key_variable="" to send none'
        )
        root = self.base_url.rstrip("/") + ("" if url.path.strip("/") else "/v1")
        self._url = root.removesuffix("/chat/completions") + "/chat/completions"
        direct = [urllib.request.ProxyHandler({})] if local else []  # nothing of this machine goes by a proxy
        self._opener = urllib.request.build_opener(_NoRedirect, *direct)

    def stop(self) -> None:
        """Let no further request start, and end every wait: those who wait get `Stopped`."""
        self._stop.set()

    def reply(self, messages: list[dict[str, str]]) -> str:
        """The model's reply to a chat, at temperature 0; "" where it has no text.

        Raises
        ------
        ChatError
            At once for a wrong key (401, 403), other statuses below 500, and what is no chat completion; after the last
            retry for the rest.
        Stopped
            `stop` was called.
        """
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
        tries = self.retries + 1
        for number in range(tries):
            self._wait_for_turn()
            try:
                return self._read(self._send(json.dumps(body).encode()))
            except urllib.error.HTTPError as error:
                with error:
                    reason, wait = self._status(error), _retry_after(error)
            except (http.client.HTTPException, OSError) as error:
                reason, wait = self._connection(error), 0.0
            if number < self.retries:
                self._pause(max(wait, min(self.backoff * 2**number, LONGEST_WAIT)))
        raise ChatError(f"{reason}, {tries} times in a row") from None

    def redact(self, text: str) -> str:
        """A text without the key."""
        key = self._key()
        return text.replace(key, HIDDEN) if key else text

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        plain = all("!" <= letter <= "~" for letter in key)  # urllib's own complaint would print the key
        require(
            plain, f"the environment variable {self.key_variable}", HIDDEN, "a key of plain letters and signs"
        )
        return key

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        with self._opener.open(request, timeout=self.timeout) as response:
            return response.read()

    def _read(self, body: bytes) -> str:
        try:
            text = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise ChatError(f"What {self._url} replies is no chat completion") from None
        return self.redact(text) if isinstance(text, str) else ""

    def _status(self, error: urllib.error.HTTPError) -> str:
        """What a status means, if another try may mend it; else it is raised."""
        if error.code in {401, 403}:  # the endpoint's own message can hold a part of the key
            held = (
                f"the key in the environment variable {self.key_variable}"
                if self._key()
                else "a request without a key"
            )
            mend = "" if self._key() or not self.key_variable else f", as {self.key_variable} is not set"
            raise ChatError(f"{self._url} refuses {held} (HTTP {error.code}){mend}") from None
        reason = f"{self._url} replies with HTTP {error.code}{self._detail(error)}"
        if error.code >= 500 or error.code in WORTH_ANOTHER_TRY:
            return reason
        raise ChatError(reason) from None

    def _detail(self, error: urllib.error.HTTPError) -> str:
        """The endpoint's own words, if they are where OpenAI's API has them."""
        try:
            text = json.loads(error.read())["error"]["message"]
        except (ValueError, LookupError, TypeError, OSError, http.client.HTTPException):
            return ""
        return f' ("{self.redact(text)[:200]}")' if isinstance(text, str) else ""

    def _connection(self, error: Exception) -> str:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return f"{self._url} is silent for {self.timeout:g} s"
        if isinstance(cause, ConnectionRefusedError):
            return f"{self._url} refuses the connection"
        return f"{self._url} cannot be read ({self.redact(str(cause))[:200] or type(cause).__name__})"

    def _wait_for_turn(self) -> None:
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + (60 / self.per_minute if self.per_minute else 0)
        self._pause(start - time.monotonic())

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would take the key along to wherever it points."""

    def redirect_request(self, *args: object) -> None:
        return None


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the endpoint wants to be left alone, at most 60; 0 where it names none, or a date."""
    try:
        return min(max(0.0, float(error.headers.get("Retry-After", ""))), LONGEST_WAIT)
    except ValueError:
        return 0.0
