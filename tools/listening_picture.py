#!/usr/bin/env python3
"""Take the picture of a listening test's page: `listening_picture.py docs/images`. Needs playwright and Chromium."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from audiocraft_qamdt.listening.page import make_test
from audiocraft_qamdt.playground.degradation import degrade
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.utils.files import replacing

SAMPLE_RATE, SECONDS = 16000, 4.0
PIECES = (1, 2, 3)
SYSTEMS = {"ours": 0.0, "baseline": 0.7}  # strength of noise
WIDTH, HEIGHT = 900, 640


def write_systems(folder: Path) -> dict[str, Path]:
    """Write clips of the same pieces for each system, with their descriptions beside them."""
    for system, strength in SYSTEMS.items():
        (folder / system).mkdir()
        for index in PIECES:
            piece = compose(2, index)
            clip = degrade(
                render(piece, SECONDS, SAMPLE_RATE), SAMPLE_RATE, "noise", strength, np.random.default_rng(0)
            )
            soundfile.write(folder / system / f"{index}.wav", clip, SAMPLE_RATE)
            sidecar = folder / system / f"{index}.json"
            sidecar.write_text(json.dumps({"description": piece.description}), encoding="utf-8")
    return {system: folder / system for system in SYSTEMS}


def photograph(page_file: Path, out: Path) -> None:
    """Open the page, begin as a rater, and write what the first screen looks like."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium, headless=True, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(180_000)  # milliseconds: a busy machine is slow
        page.goto(page_file.as_uri())
        page.fill("#rater", "7")
        page.click("#start")
        page.wait_for_selector("audio")
        with replacing(out) as part:
            part.write_bytes(page.screenshot(type="png"))
        browser.close()


def main() -> None:
    """Write listening.png into the folder that is named."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "page"
        make_test(write_systems(Path(scratch)), made, checks=0, title="Which music sounds better?")
        photograph(made / "public" / "index.html", folder / "listening.png")


if __name__ == "__main__":
    main()
