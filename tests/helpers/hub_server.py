"""A Hugging Face hub on loopback: as much of its HTTP interface as uploading and downloading models takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import typing as tp
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .serving import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Models by id, each a dict of paths and contents."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.breaks_after = 0
        self.redirects = False
        """Whether files come from another host, as large ones do on the hub."""
        self.goes_down = False
        """Whether a break takes the files away, until `is_down` is set back."""
        self.is_down = False
        self.starts: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: tp.Any) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def reply(self, content: tp.Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_file(self, content: bytes) -> None:
        """A file, or the end of it; with `Hub.breaks_after` the connection ends there, once."""
        start = int((re.match(r"bytes=(\d+)-", self.headers["Range"] or "") or [0, 0])[1])
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.server.starts.append(start)
        if self.command == "GET" and (stop := self.server.breaks_after):
            self.server.breaks_after = 0
            self.server.is_down = self.server.goes_down
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[:stop])
            self.close_connection = True
            return
        self.reply(content[start:], 206 if start else 200, **headers)

    def redirect(self, model: str, path: str, content: bytes) -> None:
        """Send to the same file under another name of this host, with the headers that the hub adds."""
        self.reply(
            {},
            302,
            Location=f"http://localhost:{self.server.server_address[1]}/cdn/{model}/{path}",
            X_Linked_Etag=f'"{hashlib.sha256(content).hexdigest()}"',
            X_Linked_Size=str(len(content)),
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            name = name if "/" in name else f"me/{name}"
            self.server.models.setdefault(name, {})
            self.reply({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/.+", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/.+", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.models[match[1]][line["value"]["path"]] = content
            address = f"{self.server.url}/{match[1]}/commit/{COMMIT}"
            self.reply({"commitOid": COMMIT, "commitUrl": address, "success": True})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        else:
            self.reply({"error": "no such endpoint"}, 404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", path):
            content = self.server.models.get(match[1], {}).get(match[2])
            if self.server.redirects and content is not None:
                self.redirect(match[1], match[2], content)
            elif self.server.is_down:
                self.reply({"error": "Down for maintenance"}, 503)
            elif content is None:
                self.reply({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            else:
                self.reply_file(content)
            return
        if match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self.reply_file(self.server.models[match[1]][match[2]])
            return
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+|/tree/.+)?", path)
        if match is None or match[1] not in self.server.models:
            self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif (match[2] or "").startswith("/tree/"):
            files = self.server.models[match[1]].items()
            self.reply([{"type": "file", "path": file, "size": len(data), "oid": COMMIT} for file, data in files])
        else:
            files = [{"rfilename": file, "size": len(data)} for file, data in self.server.models[match[1]].items()]
            self.reply({"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": files, "private": False})

    do_HEAD = do_GET


@contextmanager
def hub() -> tp.Iterator[Hub]:
    """A hub that listens while the block runs."""
    with running(Hub()) as server:
        yield server


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tp.Iterator[Hub]:
    """A hub that huggingface_hub of this process asks in place of its own, with an empty cache."""
    with hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        # Made from the endpoint when the library is imported.
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
