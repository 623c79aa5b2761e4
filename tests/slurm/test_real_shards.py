"""Shards on a real SLURM: all done, each failure reported with its log; Ctrl-C and --no-wait leave jobs running."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import soundfile

from audiocraft_qamdt import cli
from audiocraft_qamdt.data.manifest import read_quality
from audiocraft_qamdt.quality.levels import QualityStatistics
from audiocraft_qamdt.slurm.shards import INTERRUPTED, Shard, add_shard_options, run_shards

from ..helpers.audio_folder import make_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _jobs_find_the_tests(slurm, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def parse(tmp_path: Path, *argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.set_defaults(command="work")
    add_shard_options(parser)
    return parser.parse_args([*argv, "--slurm-cpus", "1", "--slurm-logs", str(tmp_path / "logs")])


def succeed_fail_or_die(fault: str, shard: Shard) -> str:
    if shard == (1, 3):
        raise ValueError(fault)
    if shard == (2, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"shard {shard[0]}"


def touch_slowly(folder: Path, shard: Shard) -> None:
    time.sleep(3)
    (folder / str(shard[0])).touch()


def test_annotate_on_three_shards(tmp_path, capsys):
    folder = make_folder(tmp_path / "data", tracks=6, duration=2.0, quality=False)
    (folder / "track4.wav").write_bytes(b"RIFF")
    logs = tmp_path / "logs"
    argv = ["annotate", str(folder), "--slurm", "3", "--slurm-cpus", "1", "--slurm-logs", str(logs)]
    assert cli.main(argv) == 1  # for the track that cannot be read
    told = capsys.readouterr().out
    assert "5 tracks scored, 0 before, 1 unreadable" in told
    assert "track4.wav" in told.splitlines()[-1]
    assert QualityStatistics.load(folder).count == 5
    assert len(list(logs.glob("annotate-*/*_log.out"))) == 3
    soundfile.write(folder / "track4.wav", soundfile.read(folder / "track3.wav")[0], 16000)
    assert cli.main(argv) == 0
    assert "1 tracks scored, 5 before, 0 unreadable" in capsys.readouterr().out
    assert all(read_quality(folder / f"track{index}.wav") for index in range(6))


def test_shards_that_fail_are_reported_with_their_logs(tmp_path):
    done = run_shards(parse(tmp_path, "--slurm", "3"), functools.partial(succeed_fail_or_die, "no such thing"))
    assert (done.results, done.status) == (["shard 0"], 1)
    raised, killed = done.lines
    assert raised.startswith("shard 1/3 failed (ValueError: no such thing): see ")
    assert killed.startswith("shard 2/3 failed (")
    assert "FAILED" in killed
    assert "ValueError: no such thing" in Path(raised.split("see ")[1]).read_text()
    assert Path(killed.split("see ")[1]).exists()


def test_a_partition_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(RuntimeError, match="SLURM refused the jobs .*[Ii]nvalid partition"):
        run_shards(parse(tmp_path, "--slurm", "2", "--slurm-partition", "nowhere"), print)


@pytest.mark.parametrize("how", ["no-wait", "ctrl-c"])
def test_jobs_that_are_not_waited_for_go_on(how, tmp_path):
    work = functools.partial(touch_slowly, tmp_path)
    if how == "ctrl-c":
        handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 2)
        try:
            done = run_shards(parse(tmp_path, "--slurm", "2"), work)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
        assert done.status == INTERRUPTED
    else:
        done = run_shards(parse(tmp_path, "--slurm", "2", "--no-wait"), work)
        assert done.status == 0
    assert not (tmp_path / "1").exists()
    told = "\n".join(done.lines)
    job = told.split("submitted as job ")[1].split(",")[0]
    assert f"squeue -j {job}" in told
    assert f"scancel {job}" in told
    deadline = time.monotonic() + 60
    while subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()
