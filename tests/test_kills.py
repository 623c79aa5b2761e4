"""Commands killed at random moments lose nothing: the short form of `python -m benchmarks.kills`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import kills

from .helpers.forked import Process, start

PROGRAMS = {"dora": "dora", "audiocraft_qamdt.cli": "qamdt"}


def started(command: Sequence[str], folder: Path) -> Process:
    """As the benchmark starts them, without the imports, during which most of the kills would come."""
    _, _, module, *argv = command  # python -m MODULE
    return start(PROGRAMS[module], *argv, log=folder / "log", AUDIOCRAFT_DORA_DIR=folder / "outputs")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dora run", "annotate", "captions", "generate", "export"])
def test_a_command_that_is_killed_ends_as_if_it_never_was(trained, tmp_path, monkeypatch, command):
    monkeypatch.setattr(kills, "start", started)
    argv = ["--kills", "2", "--only", command, "--model", str(trained.export), "--out", str(tmp_path / "work")]
    assert kills.main(argv) == 0
