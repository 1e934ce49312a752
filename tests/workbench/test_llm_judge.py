"""Pairs before a judge that is a real server: both orders, the file, every way to end, and where the key is not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from rmlab.measure.winrate import win_rate
from rmlab.workbench.llm_judge import HalfDone, Judged, judge_pairs, judgement_key, read_verdict
from tests.workbench.chat_stub import KEY

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [f"Question {i // 2}?" for i in range(8)]
FIRST = [f"good {i}" if i < 6 else f"bad {i}" for i in range(8)]
SECOND = [f"bad, and longer {i}" if i < 6 else f"good {i}" for i in range(8)]


@pytest.fixture
def out(tmp_path):
    """Where judgements go; afterwards no file there may hold the key."""
    yield tmp_path / "runs" / "judgements.jsonl"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def shown(body):
    """The two answers of a question, as shown."""
    text = body["messages"][0]["content"]
    return [re.search(rf"<answer {x}>\n(.*)\n</answer {x}>", text)[1] for x in "AB"]


def honest(number, body):
    return "A" if shown(body)[0].startswith("good") else "B"


def judge(url, out, **options):
    options = {"retries": 1, "backoff": 0.01, "timeout": 5} | options
    return judge_pairs(PROMPTS, FIRST, SECOND, "judge-1", url, out, **options)


def stopped(url, out, **options):
    """The `HalfDone` of a run, once its whole traceback has been seen not to hold the key."""
    with pytest.raises(HalfDone) as caught:
        judge(url, out, **options)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return caught.value


def lines(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_each_pair_is_judged_in_both_orders_and_counted(serve, out):
    stub = serve(honest)
    table = judge(stub.url, out)
    assert len(stub.requests) == len(table) == len(lines(out)) == 16 and stub.most <= 4
    assert list(table["verdict"]) == ["first"] * 12 + ["second"] * 4
    sides = [tuple(shown(body)) for _, _, body in stub.requests]
    assert set(sides) == {*zip(FIRST, SECOND, strict=True), *zip(SECOND, FIRST, strict=True)}
    assert all(
        prompt in {body["messages"][0]["content"].split("\n")[3] for *_, body in stub.requests}
        for prompt in PROMPTS
    )
    judged = Judged.of(table)
    assert (judged.judgements, judged.malformed, judged.left) == (16, 0, 0)
    rate = judged.rate
    assert rate.rate.value == 0.75 and rate.rate.clusters == 4 and rate.pairs == 8  # two pairs a prompt
    assert rate.flipped.value == 0 and rate.shown_first.value == 0.5
    assert table["first_length"][0] == 6 and table["second_length"][0] == len("bad, and longer 0")
    assert "0.750" in str(judged) and "8 pairs of 4 prompts" in str(judged)


def test_a_judge_that_looks_at_the_place_alone_is_found_out(serve, out):
    rate = win_rate(judge(serve(lambda number, body: "A").url, out))
    assert (rate.rate.value, rate.flipped.value, rate.shown_first.value) == (0.5, 1.0, 1.0)
    rate = win_rate(judge(serve(lambda number, body: "B").url, out.with_name("b.jsonl")))
    assert (rate.rate.value, rate.flipped.value, rate.shown_first.value) == (0.5, 1.0, 0.0)


def test_nothing_is_judged_twice_whatever_the_endpoint(serve, out):
    first = judge(serve(honest).url, out)
    silent = serve(lambda number, body: 500)
    assert judge(silent.url, out).equals(first) and not silent.requests
    again = serve(honest)  # the same pair twice in a call is one judgement an order
    twice = judge_pairs(PROMPTS[:1] * 3, FIRST[:1] * 3, SECOND[:1] * 3, "judge-2", again.url, out)
    assert len(again.requests) == 2 and len(twice) == 6 and len(lines(out)) == 18


def test_the_key_of_a_judgement_is_its_content():
    base = ("model", "prompt", "one", "two", 0)
    others = [("m", *base[1:]), ("model", "p", *base[2:]), (*base[:3], "2", 0), (*base[:4], 1), (*base, 8)]
    others += [("model", "prompt", "two", "one", 0)]
    assert len({judgement_key(*x) for x in [base, *others]}) == 7 and judgement_key(*base) == judgement_key(
        *base
    )


def test_replies_that_are_none_are_written_down_and_counted(serve, out):
    def script(number, body):
        a, b = shown(body)
        return (
            "Both are fine. A" if a == "good 0" else f"tie, {KEY}" if b == "good 7" else honest(number, body)
        )

    stub = serve(script)
    table = judge(stub.url, out)
    judged = Judged.of(table)
    assert judged.malformed == 2 and judged.rate.malformed == 2 and judged.rate.pairs == 6
    assert judged.rate.rate.value == pytest.approx(5 / 6)  # and no tie for those two
    assert "2 of 16 judgements could not be read" in str(judged)
    replies = {row["reply"] for row in lines(out) if row["verdict"] == "malformed"}
    assert replies == {"Both are fine. A", "tie, [key]"}
    judge(stub.url, out)
    assert len(stub.requests) == 16


@pytest.mark.parametrize("reply", ["A", " A\n", "**A**", "[[A]]", '"A".', "B", "(B)", "tie", "Tie.", "TIE"])
def test_verdicts_that_can_be_read(reply):
    assert read_verdict(reply) == re.search("A|B|tie", reply.replace("Tie", "tie").replace("TIE", "tie"))[0]


@pytest.mark.parametrize(
    "reply", ["", "a", "C", "A or B", "AB", "Answer A", "A tie", "A\nB", "tied", "A because", "[[]]"]
)
def test_verdicts_that_cannot_be_read(reply):
    assert read_verdict(reply) == "malformed"


def test_a_wrong_key_stops_at_once_and_says_how_to_go_on(serve, out):
    stub = serve(lambda number, body: 401 if number >= 5 else honest(number, body))
    error = stopped(stub.url, out, threads=1)
    assert len(stub.requests) == 6 and error.left == 11 and len(lines(out)) == 5
    text = str(error)
    assert "OPENAI_API_KEY" in text and "11 of 16 judgements are left" in text and text.count(". ") == 0
    half = Judged.of(error.judgements)
    assert half.left == 11 and half.rate.pairs == 2 and half.rate.missing == 6
    rest = serve(honest)
    assert Judged.of(judge(rest.url, out)).left == 0 and len(rest.requests) == 11


def test_too_many_requests_and_then_good_ones(serve, out):
    stub = serve(lambda number, body: 429 if number % 2 == 0 else honest(number, body))
    assert Judged.of(judge(stub.url, out, threads=1)).rate.rate.value == 0.75 and len(stub.requests) == 32


@pytest.mark.parametrize(
    "trouble, words", [(lambda n, b: 500, "HTTP 500"), (lambda n, b: time.sleep(0.4) or "A", "silent")]
)
def test_lasting_trouble_ends_the_run(serve, out, trouble, words):
    stub = serve(trouble)
    error = stopped(stub.url, out, threads=2, timeout=0.1 if words == "silent" else 5)
    assert words in str(error) and error.left == 16 and len(stub.requests) <= 4
    assert Judged.of(error.judgements).left == 16


def test_nobody_listens(monkeypatch, out):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "refuses the connection, 2 times" in str(stopped(f"http://127.0.0.1:{port}/v1", out))


CHILD = """
import sys
from rmlab.workbench.llm_judge import judge_pairs
from tests.workbench.test_llm_judge import FIRST, PROMPTS, SECOND
judge_pairs(PROMPTS, FIRST, SECOND, "judge-1", sys.argv[1], sys.argv[2], threads=2)
"""


def test_a_killed_run_goes_on(serve, out):
    """SIGKILL in the middle, and half a line at the end of the file; what was written whole is not judged again."""
    slow = serve(lambda number, body: time.sleep(0.3) or honest(number, body))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, slow.url, str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 120
    while not (out.exists() and out.read_bytes().count(b"\n") >= 4):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    with pytest.raises(ValueError, match="no other run"):
        judge(slow.url, out)
    child.send_signal(signal.SIGKILL)
    child.wait()
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    done = whole.count(b"\n")
    assert 4 <= done < 16
    out.write_bytes(whole + whole[: whole.find(b"\n") - 9])
    rest = serve(honest)
    table = judge(rest.url, out)
    assert len(rest.requests) == 16 - done and out.read_bytes().startswith(whole)
    assert len({row["key"] for row in lines(out)}) == 16 == len(lines(out))
    assert table.equals(judge(serve(honest).url, out.with_name("whole.jsonl")))


@pytest.mark.parametrize(
    "content", [b"notes without an end", b'{"key": "x"}\n', b"a,b\n1,2\n", b'{"key": "x", "verdict": "A"}\n']
)
def test_another_file_is_left_alone(serve, tmp_path, content):
    out = tmp_path / "file"
    out.write_bytes(content)
    stub = serve(honest)
    with pytest.raises(ValueError, match="out"):
        judge(stub.url, out)
    assert out.read_bytes() == content and not stub.requests
    with pytest.raises(ValueError, match="out"):
        judge(stub.url, tmp_path)


def test_texts_that_do_not_fit(serve, out):
    for bad in ([FIRST[:1], SECOND], [FIRST, SECOND[:1]], [[None] * 8, SECOND]):
        with pytest.raises(ValueError, match=r"first|second"):
            judge_pairs(PROMPTS, *bad, "judge-1", "http://127.0.0.1/v1", out)
    with pytest.raises(ValueError, match="threads"):
        judge("http://127.0.0.1/v1", out, threads=0)
    with pytest.raises(ValueError, match="prompts"):
        judge_pairs([], [], [], "judge-1", "http://127.0.0.1/v1", out)


def test_braces_and_marks_in_a_text_are_shown_as_they_are(serve, out):
    stub = serve(lambda number, body: "tie")
    texts = ["{prompt} {0} </answer A>"], ["{a}"], ["%s é \ud83d\ude00"]
    judge_pairs(*texts, "judge-1", stub.url, out)
    content = stub.requests[0][2]["messages"][0]["content"]
    assert all(text in content for (text,) in texts[:2])
