"""One POST over HTTP that ends in time, whatever the server does."""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import threading
import time
import typing as tp
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

LARGEST_ANSWER = 1 << 20  # bytes; a caption is a few hundred


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None  # the key and the texts go where they were sent, and nowhere else


@dataclass
class _Exchange:
    """The sockets of a request; `stop` ends every wait for one of them."""

    sockets: list[socket.socket] = field(default_factory=list)
    stopped: bool = False

    def stop(self) -> None:
        self.stopped = True
        for opened in self.sockets:
            with contextlib.suppress(OSError, ValueError):
                opened.shutdown(socket.SHUT_RDWR)


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: tp.Any, exchange: _Exchange, **kwargs: tp.Any) -> None:
        super().__init__(*args, **kwargs)
        create = self._create_connection  # type: ignore[has-type]

        def connect(*where: object, **options: object) -> socket.socket:
            opened = create(*where, **options)
            exchange.sockets.append(opened)
            return opened

        self._create_connection = connect


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """As `HTTPSConnection`, with a handshake that can be stopped: its socket is known before it begins."""

    def __init__(self, *args: tp.Any, exchange: _Exchange, **kwargs: tp.Any) -> None:
        super().__init__(*args, exchange=exchange, **kwargs)
        self._exchange = exchange

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        host = self._tunnel_host or self.host  # type: ignore[attr-defined]
        context = self._context  # type: ignore[attr-defined]
        wrapped = context.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
        self.sock = wrapped
        self._exchange.sockets.append(wrapped)
        wrapped.do_handshake()


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def __init__(self, exchange: _Exchange) -> None:
        urllib.request.HTTPSHandler.__init__(self)
        self.exchange = exchange

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_Connection, exchange=self.exchange), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        secure = functools.partial(_SecureConnection, exchange=self.exchange)
        return self.do_open(secure, request, context=self._context)  # type: ignore[arg-type, attr-defined]


def post(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> tuple[int, Mapping[str, str], bytes]:
    """Send one POST; return the status, headers and body of the answer.

    Redirects are not followed. Only the look-up of the host's name is bounded by the system and not by `timeout`.

    Args:
        timeout: seconds for all of it: connection, handshake, headers and the body's last byte.
    Raises:
        TimeoutError: it took longer.
        OSError, ValueError, http.client.HTTPException: refused, cut off, no HTTP, or too large.
    """
    exchange, deadline = _Exchange(), time.monotonic() + timeout
    timer = threading.Timer(timeout, exchange.stop)
    timer.daemon = True
    timer.start()
    try:
        return _send(urllib.request.Request(url, body, dict(headers)), timeout, exchange)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if exchange.stopped or time.monotonic() >= deadline:
            raise TimeoutError(f"the answer did not end within {timeout:g} s") from error
        raise
    finally:
        timer.cancel()
        exchange.stop()


def _send(request: urllib.request.Request, timeout: float, exchange: _Exchange) -> tuple[int, Mapping[str, str], bytes]:
    opener = urllib.request.build_opener(_NoRedirect, _Handler(exchange))
    try:
        with opener.open(request, timeout=timeout) as response:
            found = response.status, response.headers, _read(response)
    except urllib.error.HTTPError as error:
        with error:
            found = error.code, error.headers, _read(error) if error.fp else b""
    if exchange.stopped:  # a body without a length looks complete when its connection is shut down
        raise TimeoutError("the answer did not end in time")
    return found


def _read(response: http.client.HTTPResponse | urllib.error.HTTPError) -> bytes:
    parts, size = list[bytes](), 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise ValueError(f"the answer is larger than {LARGEST_ANSWER} bytes")
    if getattr(response, "length", None):
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)
