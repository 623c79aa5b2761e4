"""A real browser for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
).split()
PATIENCE = 180_000  # milliseconds; a busy machine is slow


def need_browser() -> None:
    """Skip where there is none."""
    pytest.importorskip("playwright", reason="it is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")


@contextmanager
def browsing(url: str, height: int = 1000) -> Iterator:
    """The page in Chromium, with what it complains of (`problems`) and where it connects to (`addresses`)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": height})
        page.set_default_timeout(PATIENCE)
        page.problems, page.addresses = [], []
        complain = page.problems.append
        page.on("console", lambda message: complain(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("response", lambda reply: complain(f"{reply.status} {reply.url}") if reply.status >= 400 else None)
        page.on("request", lambda request: page.addresses.append(request.url))
        page.goto(url)
        yield page
        browser.close()
