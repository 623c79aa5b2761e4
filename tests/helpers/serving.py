"""A server in a thread of its own."""

from __future__ import annotations

import socketserver
import threading
import typing as tp
from contextlib import contextmanager

S = tp.TypeVar("S", bound=socketserver.BaseServer)


@contextmanager
def running(server: S) -> tp.Iterator[S]:
    """Let a server answer while the block runs, and close it afterwards."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
