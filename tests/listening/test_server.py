"""The server of a listening test: its own files only, results of this test only, bounded, from its own page."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import socket
import threading
from contextlib import contextmanager

import pytest

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.listening import server as servers
from audiocraft_qamdt.listening.page import make_test
from audiocraft_qamdt.listening.server import ResultsServer
from audiocraft_qamdt.utils.serving import LARGEST_BODY

from ..helpers.listening import answers, make_systems
from ..helpers.serving import running


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_test(make_systems(folder / "systems"), folder / "page")
    return folder / "page"


@contextmanager
def serving(page, results, **settings):
    with running(ResultsServer(page, results, port=0, **settings)) as server:
        yield server


@pytest.fixture
def served(page, tmp_path):
    with serving(page, tmp_path / "results") as server:
        yield server


def ask(server, path, method="GET", body=None, **headers):
    """Status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), content


def test_it_serves_the_page_and_its_clips(served, page):
    status, headers, content = ask(served, "/?rater=anna")
    assert status == 200
    assert content == (page / "public" / "index.html").read_bytes()
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    clip = next((page / "public" / "clips").iterdir())
    status, headers, content = ask(served, f"/clips/{clip.name}")
    assert (status, headers["Content-Type"], content) == (200, "audio/flac", clip.read_bytes())
    assert ask(served, "/", "HEAD")[2] == b""


@pytest.mark.parametrize(
    "path", ["/key.json", "/../key.json", "/public/index.html", "/clips/", "/clips/../../key.json", "/%2e%2e/key.json"]
)
def test_it_serves_nothing_else(served, path):
    assert ask(served, path)[0] == 404


@pytest.mark.parametrize(
    "asked, status, part",
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=5-999999999", 206, slice(5, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=-5", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_players_can_seek(served, page, asked, status, part):
    clip = next((page / "public" / "clips").iterdir())
    found, headers, content = ask(served, f"/clips/{clip.name}", Range=asked)
    assert found == status
    if part is not None:
        assert content == clip.read_bytes()[part]
    if status == 206:
        assert headers["Content-Range"].endswith(f"/{clip.stat().st_size}")


def test_answers_are_kept_once_and_reported(served, page, tmp_path, capsys):
    body = json.dumps(answers(served.key, "../../Ännä", lambda *_: 4))
    assert [ask(served, "/results", "POST", body)[0] for _ in range(2)] == [201, 201]
    assert len(list((tmp_path / "results").iterdir())) == 1
    assert main(["listening-test", "report", str(tmp_path / "results"), "--key", str(page / "key.json")]) == 0
    assert "| ours-secret | 4.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b'{"test": "x", "trials": []}', b"[" * 100_000, b"[" * 2000 + b"]" * 2000]
)
def test_what_is_no_result_is_refused_and_not_kept(served, tmp_path, body):
    assert ask(served, "/results", "POST", body)[0] == 400
    assert not list((tmp_path / "results").iterdir())


def test_bodies_are_bounded(served):
    assert ask(served, "/results", "POST", b"x" * (LARGEST_BODY + 1))[0] == 413
    assert ask(served, "/results", "POST", b"x", Content_Length="9" * 30)[0] == 413
    assert ask(served, "/results", "POST", b"x", Transfer_Encoding="chunked", Content_Length="1")[0] == 413


def test_a_slow_body_is_given_up(page, tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "SLOWEST_BODY", 0.3)
    with serving(page, tmp_path / "results") as server, socket.create_connection(server.server_address) as sender:
        sender.sendall(b"POST /results HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        for _ in range(2):  # the second piece comes too late
            threading.Event().wait(0.2)
            sender.sendall(b"x")
        assert sender.recv(100).startswith(b"HTTP/1.0 408")


def test_a_folder_of_results_that_was_removed_is_made_again_and_said_once(served, caplog):
    shutil.rmtree(served.results)
    statuses = [
        ask(served, "/results", "POST", json.dumps(answers(served.key, rater, lambda *_: 3)))[0] for rater in "ab"
    ]
    assert statuses == [201, 201]
    assert len(list(served.results.glob("*.json"))) == 2
    assert caplog.text.count("has gone; it is made again") == 1


def test_results_are_bounded(served, monkeypatch):
    monkeypatch.setattr(servers, "MOST_RESULTS", 1)
    statuses = [
        ask(served, "/results", "POST", json.dumps(answers(served.key, rater, lambda *_: 3)))[0] for rater in "ab"
    ]
    assert statuses == [201, 507]


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}]
)
def test_other_sites_are_kept_out(served, tmp_path, headers):
    body = json.dumps(answers(served.key, "anna", lambda *_: 4))
    assert ask(served, "/results", "POST", body, **headers)[0] == 403
    assert not list((tmp_path / "results").iterdir())


def test_a_name_that_is_allowed_is_known(page, tmp_path):
    with serving(page, tmp_path / "results", allow_hosts=["music.example"]) as server:
        assert ask(server, "/", Host="music.example")[0] == 200
        assert ask(server, "/", Host="other.example")[0] == 403


def test_other_methods_and_paths_are_refused(served):
    assert ask(served, "/results", "PUT", b"x")[0] == 501
    assert ask(served, "/elsewhere", "POST", b"x")[0] == 404


def test_what_cannot_be_served_is_named(page, tmp_path, caplog):
    command = ["listening-test", "serve"]
    assert main([*command, str(tmp_path), "--results", str(tmp_path / "r")]) == 2
    assert f"no listening test in {tmp_path}" in caplog.text
    assert main([*command, str(page), "--results", str(page / "public" / "results")]) == 2
    assert "among what raters can read" in caplog.text
    (tmp_path / "file").write_text("")
    assert main([*command, str(page), "--results", str(tmp_path / "file")]) == 2
    assert "file is a file, not a folder" in caplog.text
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main([*command, str(page), "--results", str(tmp_path / "r"), "--port", port]) == 2
    assert "choose another --port" in caplog.text


def test_the_log_names_the_rater_as_text(served, caplog):
    caplog.set_level(logging.INFO)
    ask(served, "/results", "POST", json.dumps(answers(served.key, "a\nb", lambda *_: 4)))
    assert "'a\\nb'" in caplog.text
