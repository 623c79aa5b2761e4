"""The web page, in a real browser: type, move the slider, generate, play; limits; nothing leaves the machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from audiocraft_qamdt.compat import CONFIG_ROOT

from ..helpers.browser import PATIENCE, browsing, need_browser

# What the server is started with: addresses beyond this machine are written down and refused.
GUARD = """
import socket, sys
def refuse(address):
    with open(sys.argv[1], "a") as log:
        log.write(f"{address}\\n")
    raise OSError(f"the test admits loopback only, not {address}")
def local(host):
    return host in (None, "", "localhost", "0.0.0.0", "::1") or str(host).startswith("127.")
connect, lookup = socket.socket.connect, socket.getaddrinfo
def guarded_connect(self, address):
    if isinstance(address, tuple) and not local(address[0]):
        refuse(address)
    return connect(self, address)
def guarded_lookup(host, *args, **kwargs):
    host = host.decode() if isinstance(host, bytes) else host
    if not local(host):
        refuse(host)
    return lookup(host, *args, **kwargs)
socket.socket.connect, socket.getaddrinfo = guarded_connect, guarded_lookup
from audiocraft_qamdt.cli import main
sys.exit(main(sys.argv[2:]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(trained, folder: Path, *options: str) -> Iterator[tuple[str, Path, int]]:
    """`qamdt app` with the trained model: address, file that names connections it tried to make, process."""
    pytest.importorskip("gradio", reason='it is not installed: pip install "audiocraft_qamdt[app]"')
    port, outside = free_port(), folder / "outside"
    command = [sys.executable, "-c", GUARD, str(outside), "app", "--model", str(trained.export), "--device", "cpu"]
    command += ["--port", str(port), "--max-duration", "4", "--max-candidates", "2", "--max-steps", "8", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    environment["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    environment["PYTHONPATH"] = os.pathsep.join([str(CONFIG_ROOT.parent), environment.get("PYTHONPATH", "")])
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/", process, folder / "log")
        yield f"http://127.0.0.1:{port}/", outside, process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def queueing(trained, tmp_path_factory):
    """That server with a short queue, and its log."""
    folder = tmp_path_factory.mktemp("queue")
    with serving(trained, folder, "--max-queue", "4") as (url, _, pid):
        yield url, pid, folder / "log"


@pytest.fixture(scope="module")
def served(request, tmp_path_factory):
    """That server, for a browser."""
    need_browser()
    with serving(request.getfixturevalue("trained"), tmp_path_factory.mktemp("app")) as server:
        yield server


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the page does not come up:\n{log.read_text()}")


@pytest.fixture
def page(served):
    """See `browsing`."""
    with browsing(served[0]) as page:
        page.wait_for_selector("#generate")
        yield page


def fill(page, **values: str) -> None:
    """Type numbers into the boxes of the sliders (open "More" for some of them)."""
    for name, value in values.items():
        page.fill(f"#{name} input[type=number]", value)
        page.press(f"#{name} input[type=number]", "Tab")


def test_type_move_the_slider_generate_and_play(page, served, tmp_path):
    page.fill("#prompt textarea", "slow piano")
    page.focus("#quality input[type=range]")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert page.input_value("#quality input[type=number]") == "3"
    fill(page, duration="1.5")
    page.click("button:has-text('More')")
    fill(page, steps="2", candidates="2")
    page.click("#generate")
    page.wait_for_selector("#message:has-text('2 × 1.5 s')")
    for clip in range(2):
        link = page.get_attribute(f"#clip-{clip} [data-testid=download-link]", "href")
        with urllib.request.urlopen(link) as reply:
            assert reply.read(4) == b"RIFF"
        assert page.wait_for_selector(f"#picture-{clip} img").evaluate("image => image.naturalWidth") > 300
    assert link.endswith("/1.wav")  # the second candidate is that of the next seed
    page.click("#clip-0 button[aria-label='Play']")
    page.wait_for_function("document.querySelector('#clip-0 #time').textContent != '0:00'")
    page.screenshot(path=tmp_path / "generated.png", full_page=True)
    assert page.problems == []
    assert all(url.startswith((served[0], "blob:", "data:")) for url in page.addresses)
    assert not served[1].exists(), served[1].read_text()


def test_a_curve_and_an_example(page, tmp_path):
    page.click("text=fast drums and bass")
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'fast drums and bass'")
    page.check("#changes input")
    page.wait_for_selector("#quality-end")
    fill(page, duration="1", **{"quality-start": "1", "quality-end": "5"})
    page.click("button:has-text('More')")
    fill(page, steps="2")
    page.click("#generate")
    page.wait_for_selector("#message:has-text('1 × 1 s')")
    page.screenshot(path=tmp_path / "curve.png", full_page=True)
    assert page.problems == []


def test_requests_beyond_the_limits_are_refused_by_the_server(model, tmp_path):
    """The page's sliders end there, but anyone can send anything."""
    from audiocraft_qamdt.generation.app import Asked, Limits, make_clips

    asked = Asked("piano", "", 5, False, 1, 3, 5, duration=1.0, steps=2, guidance_scale=3.5, seed=0, candidates=1)
    limits = Limits(duration=4, candidates=2, steps=8, words=10)
    beyond = {
        "duration": 3600.0,
        "steps": 1000,
        "candidates": 50,
        "prompt": "word " * 5000,
        "quality": 6,
        "rerank": "pmos:os:system",
    }
    for name, value in beyond.items():
        with pytest.raises(ValueError, match=name):
            make_clips(model, "m", Asked(**{**vars(asked), name: value}), limits, tmp_path, lambda done, total: None)
    seen = []
    clips = make_clips(model, "m", asked, limits, tmp_path, lambda done, total: seen.append((done, total)))
    assert [path.name for path in clips[0]] == ["0.wav", "0.png"]
    assert seen == [(1, 2), (2, 2)]


def test_the_page_keeps_the_best_clip_where_it_is_asked_to(model, tmp_path):
    from audiocraft_qamdt.generation.app import Asked, Limits, make_clips

    asked = Asked("piano", "", 5, False, 1, 3, 5, 1.0, 2, 3.5, seed=4, candidates=2, rerank="pmos:acoustic")
    clips = make_clips(model, "m", asked, Limits(), tmp_path, lambda done, total: None)
    record = json.loads((tmp_path / "4.json").read_text())
    assert len(clips) == 1
    assert len(record["scores"]["pmos:acoustic"]) == 2


def test_the_page_goes_on_where_its_folder_of_clips_was_removed(model, tmp_path):
    from audiocraft_qamdt.generation.app import Asked, Limits, build

    folder = tmp_path / "clips"
    page = build(model, "m", Limits(), folder)  # not made yet is as gone as removed
    generate = next(event.fn for event in page.fns.values() if event.api_name == "generate")
    asked = Asked("piano", "", 5, False, 1, 3, 5, duration=1.0, steps=2, guidance_scale=3.5, seed=0, candidates=1)
    assert generate(*vars(asked).values())[0] == "1 × 1 s"
    assert len(list(folder.rglob("0.wav"))) == 1


def peak_memory(pid: int) -> int:
    """Most memory that a process ever had, in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def post(url: str, values: list) -> tuple[int, str, str]:
    """Status, Retry-After and body of the answer to a request to generate."""
    request = urllib.request.Request(url, json.dumps({"data": values}).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE / 1000) as reply:
            return reply.status, "", reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Retry-After", ""), ""


def generated(url: str, values: list) -> str:
    """The event stream of a request that is let into the queue; "" where it is not."""
    status, _, body = post(f"{url}gradio_api/call/generate", values)
    if status != 200:
        return ""
    address = f"{url}gradio_api/call/generate/{json.loads(body)['event_id']}"
    with urllib.request.urlopen(address, timeout=PATIENCE / 1000) as reply:
        return reply.read().decode()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_thirty_requests_at_once_take_the_memory_of_one(queueing):
    values = [["piano", "", 3, False, 1, 3, 5, 2, 4, 1, seed, 2, 0, ""] for seed in range(0, 60, 2)]
    url, pid, log = queueing
    assert "event: complete" in generated(url, values[0])
    alone = peak_memory(pid)
    with ThreadPoolExecutor(60) as pool:
        direct = pool.map(lambda asked: post(f"{url}gradio_api/run/generate", asked), values)
        queued = pool.map(lambda asked: post(f"{url}gradio_api/call/generate", asked), values)
        direct, queued = list(direct), list(queued)
    assert {status for status, *_ in direct} == {403}
    refused = [wait for status, wait, _ in queued if status == 503]
    assert len(refused) >= 20
    assert all(int(wait) > 0 for wait in refused)
    assert len(refused) + sum(status == 200 for status, *_ in queued) == 30
    assert "event: complete" in _after_the_others(url, values[0])
    assert peak_memory(pid) < 1.3 * alone
    assert "Traceback" not in log.read_text()


def _after_the_others(url: str, values: list) -> str:
    end = time.monotonic() + PATIENCE / 1000
    while not (stream := generated(url, values)) and time.monotonic() < end:
        time.sleep(0.5)
    return stream


@pytest.mark.slow
def test_uploads_long_texts_and_foreign_hosts_are_refused(queueing):
    values = ["x" * 20_000, "", 3, False, 1, 3, 5, 1, 1, 1, 0, 1, 0]
    url, *_ = queueing
    assert "event: complete" not in generated(url, values)
    assert post(f"{url}gradio_api/call/generate", ["x" * 20_000_000, *values[1:]])[0] == 413
    assert post(f"{url}gradio_api/upload", values)[0] == 403
    request = urllib.request.Request(url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=60)


def test_without_gradio_the_error_names_the_extra(monkeypatch, caplog, trained):
    from audiocraft_qamdt.cli import main

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--model", str(trained.export)]) == 2
    assert 'pip install "audiocraft_qamdt[app]"' in caplog.text


@pytest.mark.parametrize("port", ["taken", "70000"])
def test_a_port_that_cannot_be_had_names_the_option(caplog, trained, port):
    pytest.importorskip("gradio")
    from audiocraft_qamdt.cli import main

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1]) if port == "taken" else port
        assert main(["app", "--model", str(trained.export), "--port", port]) == 2
    assert f":{port}" in caplog.text
    assert "choose another --port" in caplog.text
