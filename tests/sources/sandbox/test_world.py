"""Places, requests and their text."""

from __future__ import annotations

import pytest

from rmlab.recipe import stream
from rmlab.sources.sandbox import world as w
from rmlab.sources.sandbox.vocabulary import BOS, SEP


def test_the_vocabulary_has_every_word_once():
    assert len(set(w.VOCAB)) == len(w.VOCAB) == 167
    assert all(w.VALUES[4 * a : 4 * a + 4] == w.ATTRIBUTES[name] for a, name in enumerate(w.ATTRIBUTE_NAMES))
    assert not {"A", "V", "N"} & set(w.VOCAB)


def test_requests_are_well_formed_and_their_stream_is_a_prefix():
    requests = w.requests(300, stream(0, "world"))
    assert requests[:40] == w.requests(40, stream(0, "world")) != w.requests(40, stream(1, "world"))
    for request in requests:
        shown = [a for a, _ in request.facts]
        assert len(set(shown)) == 5 and all(v // 4 == a for a, v in request.facts)
        assert len(set(request.asked_attributes)) in (2, 3) and set(request.asked_attributes) <= set(shown)
    assert {len(r.asked_attributes) for r in requests} == {2, 3}


def test_a_request_is_read_back_from_its_text():
    for request in w.requests(50, stream(0, "test")):
        assert w.Request.of(request.text) == request


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "cedar bistro ; price fair . how are the price ?",
        "cedar bistro ; price jazz ; view wide . how are the price and the view ?",
        "oak bistro ; price fair ; view wide . how are the price and the view ?",
        "cedar bistro ; price fair ; view wide . how are the price or the view ?",
        "cedar bistro ; price fair ; view wide . how are the price and the view ? thanks",
    ],
)
def test_what_is_no_request_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"request = .*give a request of the sandbox, like 'cedar bistro ;"):
        w.Request.of(text)


def test_cedar_is_a_request_with_a_prompt():
    request = w.cedar()
    assert request.text == (
        "cedar bistro ; view wide ; walk short ; seating roomy ; price fair ; music folk . "
        "how are the seating and the price ?"
    )
    prompt = request.prompt()
    assert prompt.text == request.text and list(prompt.ids) == request.ids()
    assert (prompt.ids[0], prompt.ids[-1]) == (BOS, SEP)
    assert " ".join(w.VOCAB[i] for i in prompt.ids[1:-1]) == request.text
