"""The client against a real server that fails, stalls, returns garbage and limits its rate."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import io
import json
import socket
import threading
import time

import pytest
import soundfile
import torch

from audiocraft_qamdt.captions.captioners import Clip, EndpointCaptioner
from audiocraft_qamdt.captions.endpoint import LONGEST_WAIT, BudgetSpent, Endpoint, EndpointError, _retry_after
from audiocraft_qamdt.captions.language_models import EndpointLanguageModel, Prompt

from .server import Reply, serve

QUESTION = [{"role": "user", "content": "hello"}]
FAST = {"model": "m", "backoff": 0.01, "timeout": 2.0}


@pytest.mark.parametrize(
    "failure",
    [
        Reply(status=500),
        Reply(status=503, body=b"<html>down</html>"),
        Reply(body=b"garbage"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"message": {"content": null}}]}'),
        Reply(body=b"[1, 2"),
        Reply(body=b"\xff\xfe\x00", cut=True),
        Reply(body=b"x" * (1 << 20) + b"y"),
        Reply("late", stall=1.0),
        Reply("drips", drip=0.05),
    ],
    ids=["500", "503", "garbage", "no choice", "no text", "half JSON", "cut", "endless", "stalls", "drips"],
)
def test_a_failure_is_tried_again(failure):
    with serve(lambda body, number: Reply("a slow piano") if number else failure) as server:
        endpoint = Endpoint(server.url, **FAST | {"timeout": 0.4})
        assert endpoint.chat(QUESTION, max_tokens=5) == "a slow piano"
        assert len(server.requests) == 2
        assert server.requests[1] == {"model": "m", "messages": QUESTION, "max_tokens": 5}


def test_waits_grow_and_end():
    with serve(lambda body, number: Reply(status=500)) as server:
        with pytest.raises(EndpointError, match="no answer in 4 attempts, last: status 500"):
            Endpoint(server.url, **FAST | {"backoff": 0.05}, retries=3).chat(QUESTION)
        waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
        assert len(waits) == 3
        for attempt, wait in enumerate(waits):
            assert 0.05 * 2**attempt <= wait < 1.5 * 0.05 * 2**attempt + 0.3


@pytest.mark.parametrize("dated", [False, True], ids=["seconds", "date"])
def test_the_server_says_how_long_to_wait(dated):
    def respond(body, number):
        if number:
            return Reply("yes")
        after = email.utils.formatdate(time.time() + 2, usegmt=True) if dated else "0.5"
        return Reply(status=429, headers={"Retry-After": after})

    with serve(respond) as server:
        assert Endpoint(server.url, **FAST).chat(QUESTION) == "yes"
        assert server.times[1] - server.times[0] >= (0.9 if dated else 0.5)


def test_what_no_attempt_would_change_is_not_tried_again():
    with serve(lambda body, number: Reply(status=400, body=b"no such model")) as server:
        with pytest.raises(EndpointError, match="refused the request: status 400 no such model"):
            Endpoint(server.url, **FAST).chat(QUESTION)
        assert len(server.requests) == 1


def test_requests_keep_to_the_limits_and_their_order():
    with serve(lambda body, number: Reply(body["messages"][0]["content"], stall=0.1)) as server:
        endpoint = Endpoint(server.url, **FAST, concurrency=3)
        questions = [[{"role": "user", "content": str(index)}] for index in range(9)]
        assert endpoint.chat_each(questions, [{}] * 9) == [str(index) for index in range(9)]
        assert server.busiest == 3
    with serve(lambda body, number: Reply("yes")) as server:
        Endpoint(server.url, **FAST, requests_per_minute=600).chat_each([QUESTION] * 5, [{}] * 5)
        assert server.times[-1] - server.times[0] >= 0.35


def test_the_budget_ends_the_requests():
    with serve(lambda body, number: Reply("yes")) as server:
        endpoint = Endpoint(server.url, **FAST, price=(10.0, 100.0), budget=0.005, concurrency=1)
        answers = endpoint.chat_each([QUESTION] * 5, [{}] * 5)
        assert answers[:3] == ["yes"] * 3
        assert all(isinstance(answer, BudgetSpent) for answer in answers[3:])
        assert len(server.requests) == 3
        assert endpoint.cost == pytest.approx(3 * (100 * 10 + 10 * 100) / 1e6)


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret-123")
    with serve(lambda body, number: Reply(status=401, body=b"bad key")) as server:
        with pytest.raises(EndpointError) as raised:
            Endpoint(server.url, **FAST, key_env="TEST_KEY").chat(QUESTION)
        assert server.headers[0]["Authorization"] == "Bearer secret-123"
        assert "secret" not in str(raised.value)


OK = b'{"choices": [{"message": {"content": "slow piano"}}], "usage": %s}'


@pytest.mark.parametrize(
    "usage",
    [
        b'{"prompt_tokens": 1e999}',
        b'{"prompt_tokens": -5000000}',
        b'{"completion_tokens": NaN}',
        b'{"prompt_tokens": "1"}',
    ]
    + [b"[1, 2]", b'{"prompt_tokens": true}', b'{"prompt_tokens": 1%s}' % (b"0" * 400), b"7"],
    ids=["infinite", "negative", "nan", "text", "list", "bool", "huge", "number"],
)
def test_usage_that_is_no_count_costs_a_token_a_byte_and_gives_no_caption(usage):
    with serve(lambda body, number: Reply(body=OK % usage)) as server:
        endpoint = Endpoint(server.url, **FAST, retries=1, price=(1.0, 1.0), budget=100.0)
        with pytest.raises(EndpointError, match="usage is no count of tokens"):
            endpoint.chat(QUESTION)
        assert 0 < endpoint.cost < 0.01
        assert len(server.requests) == 2


def test_a_server_that_says_no_usage_cannot_stretch_the_budget():
    with serve(lambda body, number: Reply(body=OK % b"null")) as server:
        endpoint = Endpoint(server.url, **FAST, price=(10.0, 10.0), budget=0.002, concurrency=1)
        answers = endpoint.chat_each([QUESTION] * 5, [{}] * 5)
        assert isinstance(answers[-1], BudgetSpent)
        assert len(server.requests) < 5


@pytest.mark.parametrize(
    "after", ["nan", "-5", "Fri, 31 Dec 99999999999 23:59:59 GMT", "x" * 1000], ids=lambda text: text[:6]
)
def test_a_retry_after_that_means_nothing_is_not_obeyed(after):
    def respond(body, number):
        return Reply("yes") if number else Reply(status=429, headers={"Retry-After": after})

    with serve(respond) as server:
        start = time.monotonic()
        assert Endpoint(server.url, **FAST).chat(QUESTION) == "yes"
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("after", ["inf", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_nobody_waits_until_the_year_9999(after):
    assert _retry_after(after) == LONGEST_WAIT


def test_a_deeply_nested_answer_is_no_answer():
    with serve(lambda body, number: Reply(body=b"[" * 500_000)) as server:
        with pytest.raises(EndpointError, match="not an answer of a chat endpoint"):
            Endpoint(server.url, **FAST, retries=0).chat(QUESTION)


@pytest.mark.parametrize("status", [200, 400], ids=["as the caption", "as the error"])
def test_a_key_that_the_server_echoes_is_not_shown(monkeypatch, status):
    monkeypatch.setenv("TEST_KEY", "secret-123")
    body = json.dumps({"choices": [{"message": {"content": "x" * 490 + "Bearer secret-123"}}]}).encode()
    with serve(lambda *_: Reply(status=status, body=body)) as server:
        with pytest.raises(EndpointError) as raised:
            Endpoint(server.url, **FAST, key_env="TEST_KEY", retries=0).chat(QUESTION)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("part", ["head", "body"])
def test_the_timeout_bounds_slow_headers_and_bodies(part, status):
    server = socket.create_server(("127.0.0.1", 0))
    head = f"HTTP/1.1 {status} OK\r\nContent-Length: 500\r\n".encode()

    def drip() -> None:
        connection, _ = server.accept()
        with contextlib.suppress(OSError), connection:
            connection.sendall(head + (b"\r\n" if part == "body" else b"X-A: "))
            for _ in range(40):
                connection.sendall(b"x")
                time.sleep(0.1)

    threading.Thread(target=drip, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(EndpointError, match="did not end"):
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        Endpoint(url, "m", timeout=0.5, retries=0).chat(QUESTION)
    assert time.monotonic() - start < 1.5
    server.close()


def test_redirects_are_not_followed():
    with serve(lambda body, number: Reply("elsewhere")) as other:
        moved = Reply(status=307, headers={"Location": f"{other.url}/chat/completions"})
        with serve(lambda body, number: moved) as server, pytest.raises(EndpointError, match="status 307"):
            Endpoint(server.url, **FAST).chat(QUESTION)
        assert not other.requests


@pytest.mark.parametrize(
    "options, message",
    [
        ({"url": "localhost:8000"}, "must begin with http"),
        ({"url": "http://me:secret@localhost/v1"}, "holds a user or a password"),
        ({"price": (float("nan"), 0.0)}, "endpoint.price"),
        ({"model": None}, "endpoint.model is not set"),
        ({"budget": 1.0}, "needs endpoint.price"),
        ({"key_env": "NOT_SET_ANYWHERE"}, "environment variable is not set"),
    ],
    ids=["url", "password", "nan", "model", "price", "key"],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Endpoint(**{"url": "http://localhost:1/v1", "model": "m", **options})


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(EndpointError, match=r"127.0.0.1:9/v1: no answer in 2 attempts, last: .*refused"):
        Endpoint("http://127.0.0.1:9/v1", **FAST, retries=1).chat(QUESTION)


def test_audio_arrives_as_it_was_sent():
    audio = 0.5 * torch.sin(torch.arange(8000) * 0.1)

    def respond(body, number):
        return Reply(f"caption {body['seed'] % 1000}")

    with serve(respond) as server:
        captioner = EndpointCaptioner(Endpoint(server.url, **FAST), prompt="describe", temperature=0.7)
        (texts,) = captioner.caption([Clip(audio, 16000, 3)], 2)
        assert len(set(texts)) == 2
        sound, text = server.requests[0]["messages"][0]["content"]
        assert text == {"type": "text", "text": "describe"}
        assert sound["input_audio"]["format"] == "wav"
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["input_audio"]["data"])), dtype="float32")
        assert rate == 16000
        assert torch.allclose(torch.from_numpy(heard), audio, atol=1e-4)


def test_an_error_takes_the_place_of_one_answer_alone():
    def respond(body, number):
        return Reply(status=400) if "bad" in body["messages"][1]["content"] else Reply("fine")

    with serve(respond) as server:
        model = EndpointLanguageModel(Endpoint(server.url, **FAST))
        answers = model.answer([Prompt("s", "good", 0), Prompt("s", "bad", 0), Prompt("s", "good", 1)])
        assert answers[0] == answers[2] == "fine"
        assert isinstance(answers[1], EndpointError)
