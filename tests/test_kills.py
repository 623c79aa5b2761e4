"""Commands killed at random moments lose nothing: the short form of `python -m benchmarks.kills`."""

from __future__ import annotations

import pytest

from benchmarks.kills import main


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dora run", "annotate", "captions", "generate", "export"])
def test_a_command_that_is_killed_ends_as_if_it_never_was(trained, tmp_path, command):
    argv = ["--kills", "2", "--only", command, "--model", str(trained.export), "--out", str(tmp_path / "work")]
    assert main(argv) == 0
