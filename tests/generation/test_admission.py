"""What the page's server lets in, whatever the route, without a page behind it."""

from __future__ import annotations

import asyncio

import pytest

from audiocraft_qamdt.generation.admission import Admission
from audiocraft_qamdt.utils.serving import LARGEST_BODY, hosts_of

POST = "/gradio_api/call/generate"


async def _application(scope, receive, send) -> None:
    body = (await receive())["body"] if scope["method"] == "POST" else b""
    await send({"type": "http.response.start", "status": 503 if body == b"full" else 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(
    path: str,
    method: str = "GET",
    body: bytes = b"",
    host: str = "127.0.0.1:7860",
    app: Admission | None = None,
    **headers,
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer; the body is sent in pieces."""
    pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)] or [b""]
    sent: list[dict] = []

    async def receive() -> dict:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict) -> None:
        sent.append(message)

    given = [(b"host", host.encode()), *((name.encode(), value.encode()) for name, value in headers.items())]
    scope = {"type": "http", "method": method, "path": path, "headers": given}
    asyncio.run((app or Admission(_application))(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/queue/data", "/assets/index.js"])
def test_the_page_s_own_routes_are_let_in(path):
    assert ask(path)[0] == 200


@pytest.mark.parametrize("path", [POST, "/gradio_api/call/generate/", "/gradio_api/queue/join"])
def test_what_goes_through_the_queue_is_let_in_with_its_body(path):
    assert ask(path, "POST", b"x" * 100_000)[::2] == (200, b"x" * 100_000)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/generate",
        "/gradio_api/run/generate/",
        "/gradio_api/api/generate",
        "/run/generate",
        "/api/generate",
        "/gradio_api/upload",
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/stream/1",
        "//gradio_api/run/generate",
        "/login",
    ],
)
def test_posts_that_go_round_the_queue_are_refused(path):
    assert ask(path, "POST", b"{}")[0] == 403


@pytest.mark.parametrize("path", ["/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/dev/reload", "/monitoring"])
def test_what_the_page_does_not_need_is_closed(path):
    assert ask(path)[0] == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(method):
    assert ask(POST, method)[0] == 403


def test_a_large_body_is_refused_whether_its_length_is_given_or_not():
    large = b"x" * (LARGEST_BODY + 1)
    assert ask(POST, "POST", large)[0] == 413
    assert ask(POST, "POST", b"", **{"content-length": str(len(large))})[0] == 413
    assert ask(POST, "POST", b"", **{"content-length": "1e3"})[0] == 413


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "192.168.0.7", "", "[", "localhost.evil.io"])
def test_a_foreign_host_is_refused(host):
    assert ask("/", host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "127.0.0.1", "[::1]:7860", "music.example"])
def test_known_hosts_are_let_in(host):
    names, everywhere = hosts_of("127.0.0.1", ["music.example"])
    assert ask("/", host=host, app=Admission(_application, names, everywhere))[0] == 200


def test_a_server_on_all_addresses_takes_numbers_and_no_foreign_names():
    names, everywhere = hosts_of("0.0.0.0", [])
    app = Admission(_application, names, everywhere)
    assert ask("/", host="192.168.0.7:7860", app=app)[0] == 200
    assert ask("/", host="evil.example", app=app)[0] == 403


def test_another_site_s_page_is_refused():
    assert ask(POST, "POST", b"{}", origin="http://evil.example")[0] == 403
    assert ask(POST, "POST", b"{}", origin="http://localhost:7860")[0] == 200


def test_a_full_queue_says_when_to_come_back():
    status, headers, _ = ask(POST, "POST", b"full")
    assert status == 503
    assert int(headers[b"retry-after"]) > 0
