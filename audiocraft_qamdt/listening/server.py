"""Serve a listening test and keep what raters answer: the page's own files, and results of a bounded size."""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..utils.files import replacing
from ..utils.outputs import check_folder
from ..utils.reading import parse_json
from ..utils.serving import (
    LARGEST_BODY,
    LARGEST_DRAINED,
    SLOWEST_BODY,
    KnownHosts,
    check_port,
    hosts_of,
    length_fits,
)
from .design import CLIPS, KEY, PAGE, SERVED, Key
from .results import parse_result

logger = logging.getLogger(__name__)

MOST_RESULTS = 10_000
"""Files in the folder of results at most: it cannot fill a disk."""
_PIECE = 1 << 16
_RANGE = re.compile(r"bytes=(\d{1,12})-(\d{0,12})")
_TYPES = {".html": "text/html; charset=utf-8", ".flac": "audio/flac"}


class ResultsServer(ThreadingHTTPServer):
    """Web server of one test.

    Args:
        page: folder that `make_test` wrote.
        results: folder where answers go, one file for each rater.
        host, port: address to listen on; port 0 = any that is free.
        allow_hosts: further names that browsers may call this server by.
    Raises:
        FileNotFoundError: no test in the folder.
        OSError: the port is taken, or the folder of results cannot be written.
    """

    daemon_threads = True

    def __init__(
        self, page: Path, results: Path, host: str = "127.0.0.1", port: int = 8000, allow_hosts: Sequence[str] = ()
    ) -> None:
        if not (page / KEY).is_file() or not (page / SERVED / PAGE).is_file():
            raise FileNotFoundError(f"no listening test in {page}: give the folder that --out named")
        check_folder(results, "choose another --results")
        if _inside(results, page / SERVED):
            raise ValueError(f"{results} is among what raters can read: choose another --results")
        check_port(host, port)
        self.key = Key.read(page / KEY)
        self.results = results
        self.hosts = KnownHosts(*hosts_of(host, allow_hosts))
        public = page / SERVED
        files = {"": public / PAGE, PAGE: public / PAGE}
        self.files = files | {f"{CLIPS}/{path.name}": path for path in (public / CLIPS).iterdir() if path.is_file()}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        results.mkdir(parents=True, exist_ok=True)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without looking the machine's name up, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what went wrong with a connection, most often that the browser closed it."""
        logger.debug("connection of %s", client_address, exc_info=True)

    def keep(self, body: bytes) -> None:
        """Write a rater's answers; the same ones twice are one file.

        Raises:
            ValueError: they are none of this test.
            OSError: there are too many, or the disk is full.
        """
        result = parse_result(parse_json(body.decode("utf-8"), "the answers"), "the answers", self.key)
        if not self.results.is_dir():
            logger.warning("%s has gone; it is made again, with the results from now on only", self.results)
            self.results.mkdir(parents=True, exist_ok=True)
        path = self.results / f"{hashlib.sha256(body).hexdigest()[:24]}.json"
        if not path.exists() and sum(1 for _ in self.results.glob("*.json")) >= MOST_RESULTS:
            raise OSError(f"{self.results} holds {MOST_RESULTS} results: no more are taken")
        with replacing(path) as part:
            part.write_bytes(body)
        logger.info("results of %r in %s", result.rater, path)


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


class _Handler(BaseHTTPRequestHandler):
    server: ResultsServer
    server_version = "qamdt"
    sys_version = ""
    timeout = SLOWEST_BODY

    def do_GET(self) -> None:
        """Send a file of the page."""
        if self._refused():
            return
        path = self.server.files.get(self.path.partition("?")[0].lstrip("/"))
        if path is None:
            self._answer(404, "no such file")
        else:
            self._send_file(path)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Take a rater's answers."""
        length = self.headers.get("Content-Length", "")
        if not length_fits(length) or "Transfer-Encoding" in self.headers:
            self._drain(length)
            self._answer(413, f"answers are at most {LARGEST_BODY} bytes, with their Content-Length")
            return
        body = self._body(int(length))
        if body is None:
            self._answer(408, "too slow")
        elif not self._refused():
            self._keep(body)

    def _keep(self, body: bytes) -> None:
        if self.path != "/results":
            self._answer(404, "answers go to /results")
            return
        try:
            self.server.keep(body)
        except (ValueError, RecursionError) as error:  # of the encoding, of JSON or of the answers
            self._answer(400, str(error))
        except OSError as error:
            logger.error("answers were not kept: %s", error)
            self._answer(507, "the answers could not be kept")
        else:
            self._answer(201, "kept")

    def _refused(self) -> bool:
        reason = self.server.hosts.refusal(self.headers.get("Host", ""), self.headers.get("Origin"))
        if reason is not None:
            self._answer(403, reason)
        return reason is not None

    def _body(self, length: int) -> bytes | None:
        """Read the body; None where it takes too long or is cut off."""
        end, content = time.monotonic() + SLOWEST_BODY, bytearray()
        while len(content) < length:
            try:
                piece = self.rfile.read1(min(_PIECE, length - len(content)))
            except TimeoutError:
                return None
            if not piece or time.monotonic() > end:
                return None
            content += piece
        return bytes(content)

    def _drain(self, length: str) -> None:
        """Read and drop a body that is refused: a connection closed before that resets, and no answer is seen."""
        left = int(length) if length.isascii() and length.isdigit() and len(length) < 12 else 0
        end = time.monotonic() + SLOWEST_BODY
        while 0 < left <= LARGEST_DRAINED and time.monotonic() < end:
            piece = self.rfile.read1(min(_PIECE, left))
            if not piece:
                return
            left -= len(piece)

    def _send_file(self, path: Path) -> None:
        """Send a file, or the part that `Range` asks for: players seek by it."""
        size = path.stat().st_size
        first, stop = 0, size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is not None:
            first, stop = int(asked[1]), min(size, int(asked[2] or size) + 1)
            if first >= stop:
                self._answer(416, "there is no such part")
                return
        self.send_response(200 if asked is None else 206)
        self._send_headers(_TYPES.get(path.suffix, "application/octet-stream"), stop - first)
        if asked is not None:
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command != "HEAD":
            with open(path, "rb") as file:
                file.seek(first)
                self.wfile.write(file.read(stop - first))

    def _answer(self, status: int, text: str) -> None:
        body = f"{text}\n".encode("utf-8", "replace")
        self.send_response(status)
        self._send_headers("text/plain; charset=utf-8", len(body))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, kind: str, length: int) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Connection", "close")

    def log_message(self, format: str, *args: object) -> None:
        """Log at a level that is off by default: a line for each part of each clip."""
        logger.debug(format, *args)


def serve(page: Path, results: Path, host: str, port: int, allow_hosts: Sequence[str]) -> None:
    """Serve a test until interrupted; see `ResultsServer`."""
    with ResultsServer(page, results, host, port, allow_hosts) as server:
        shown = f"[{host}]" if ":" in host else host
        logger.info("http://%s:%d; results go to %s", shown, server.server_port, results)
        server.serve_forever()
