"""An OpenAI-compatible server on loopback that behaves as a test wants it to, over real HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..helpers.serving import running


@dataclass
class Reply:
    """What the server does with a request.

    Args:
        text: the answer; None = `body` is sent as it is.
        status, headers, body: of the response.
        stall: seconds before it begins.
        drip: seconds between two bytes of the body.
        cut: the connection ends within the body.
    """

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stall: float = 0.0
    drip: float = 0.0
    cut: bool = False

    def content(self) -> bytes:
        """The body that is sent."""
        if self.text is None:
            return self.body
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return json.dumps(
            {"choices": [{"message": {"role": "assistant", "content": self.text}}], "usage": usage}
        ).encode()


@dataclass
class Server:
    """What a test sees of the server.

    Args:
        url: its base.
        requests: bodies that came, in order.
        times: when they came, in seconds.
        headers: of each.
        busiest: most requests at a time.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    busiest: int = 0


@contextlib.contextmanager
def serve(respond: Callable[[dict[str, Any], int], Reply]) -> Iterator[Server]:
    """A server that answers the n-th request with `respond(body, n)`."""
    seen, lock, busy = Server(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                busy[0] += 1
                seen.busiest = max(seen.busiest, busy[0])
                seen.requests.append(body)
                seen.times.append(time.monotonic())
                seen.headers.append(dict(self.headers))
                number = len(seen.requests) - 1
            try:
                reply = respond(body, number)
                time.sleep(reply.stall)
            finally:
                with lock:
                    busy[0] -= 1  # before the client has its answer, and asks the next
            with contextlib.suppress(OSError):  # the client has gone
                self._send(reply)

        def _send(self, reply: Reply) -> None:
            content = reply.content()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + 100 * reply.cut))
            self.end_headers()
            parts = [content[i : i + 1] for i in range(len(content))] if reply.drip else [content]
            for part in parts:
                self.wfile.write(part)
                self.wfile.flush()
                time.sleep(reply.drip)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    with running(server):
        yield seen
