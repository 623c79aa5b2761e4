"""Admission to the web page's server: known hosts, the page's own routes, and bodies of the size of its fields."""

from __future__ import annotations

import asyncio
import typing as tp
from collections.abc import Iterable
from contextlib import suppress

from ..utils.serving import LARGEST_BODY, LARGEST_DRAINED, SLOWEST_BODY, KnownHosts, length_fits

RETRY_AFTER = 10  # seconds, of a full queue
POSTS = frozenset({"queue/join", "call/generate", "call/v2/generate", "cancel", "reset"})
"""Routes under /gradio_api that the page posts to; all that generate go through the queue."""
CLOSED = ("proxy=", "upload", "dev/", "run-history", "runs", "vibe", "stream/", "custom_component/")
"""Routes under /gradio_api that a page without uploads, streams and proxies has no use for."""

if tp.TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Admission:
    """ASGI middleware around gradio's application.

    Args:
        app: what is let into.
        hosts, any_address: see `KnownHosts`.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = (), any_address: bool = False) -> None:
        self.app = app
        self.hosts = KnownHosts(hosts, any_address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            if scope["method"] == "POST":
                await _body(receive, largest=0)
            await _answer(send, *refused)
            return
        if scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                await _answer(send, 413, f"a request of more than {LARGEST_BODY} bytes, or too slow a one")
                return
            receive = _replay(body, receive)
        await self.app(scope, receive, _with_retry_after(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        stranger = self.hosts.refusal(headers.get("host", ""), headers.get("origin"))
        if stranger is not None:
            return 403, stranger
        if not length_fits(headers.get("content-length", "0")):
            return 413, f"a request of more than {LARGEST_BODY} bytes"
        path = scope["path"].strip("/").removeprefix("gradio_api/")
        if scope["method"] == "POST" and path not in POSTS:
            return 403, "this page generates through its queue only: POST /gradio_api/call/generate"
        if scope["method"] not in ("GET", "HEAD", "POST") or path.startswith(CLOSED) or path == "monitoring":
            return 403, "not a route of this page"
        return None


async def _body(receive: Receive, largest: int = LARGEST_BODY) -> bytes | None:
    """Read the whole body; None where it is larger, too slow or cut off.

    A body that is too large is read and dropped: a connection closed before that resets, and its sender sees no answer.
    """
    content, size, more = bytearray(), 0, True

    async def read() -> None:
        nonlocal size, more
        while more and size <= LARGEST_DRAINED:
            message = await receive()
            if message["type"] != "http.request":
                return
            piece, more = message.get("body", b""), bool(message.get("more_body"))
            size += len(piece)
            if size <= largest:
                content.extend(piece)

    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), SLOWEST_BODY)
    return None if more or size > largest else bytes(content)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _with_retry_after(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 503:
            headers = [*message.get("headers", []), (b"retry-after", str(RETRY_AFTER).encode())]
            message = {**message, "headers": headers}
        await send(message)

    return answer


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
