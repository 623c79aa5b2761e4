"""Several processes at one folder of cached latents, as users start them."""

from __future__ import annotations

import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch

from audiocraft_qamdt.data.cache import LatentBatchLoader

from .helpers.audio_folder import make_folder
from .helpers.runs import TINY, dora, log_of

pytestmark = pytest.mark.slow

UPDATES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("audio"), tracks=4)


def argv(folder: Path, cache: Path, *more: str) -> list[str]:
    given = [f"folder={folder}", f"cache.path={cache}", f"optim.updates_per_epoch={UPDATES}", "dataset.num_workers=0"]
    return [*TINY, *given, "generate.every=null", "evaluate.every=null", "dataset.valid.num_samples=4", *more]


def wait_for(file: Path, process: subprocess.Popen, outputs: Path) -> None:
    deadline = time.time() + 300
    while not file.exists():
        assert process.poll() is None and time.time() < deadline, log_of(outputs)[-3000:]
        time.sleep(0.005)


def latents(cache: Path) -> dict[str, list[torch.Tensor]]:
    """All latents of a cache, by file."""
    found = {}
    for path in sorted(cache.glob("0*/*.zip")):
        with zipfile.ZipFile(path) as archive:
            records = [torch.load(archive.open(name), weights_only=True)[0] for name in archive.namelist()]
        found[str(path.relative_to(cache))] = [record["latents"] for record in records]
    return found


def test_two_writers_divide_the_epochs_and_a_killed_one_goes_on(folder, tmp_path):
    cache, alone = tmp_path / "cache", tmp_path / "alone"
    shards = [
        argv(folder, cache, "cache.write=true", "cache.write_num_shards=2", f"cache.write_shard={shard}")
        for shard in (0, 1)
    ]
    four = ["optim.epochs=4"]
    killed, other = (dora(tmp_path / str(shard), *shards[shard], *four, wait=False) for shard in (0, 1))
    wait_for(cache / "00003" / "000002.zip", killed, tmp_path / "0")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert other.wait(timeout=300) == 0, log_of(tmp_path / "1")[-3000:]

    loader = LatentBatchLoader(cache, batch_size=4, num_workers=1, min_length=UPDATES)
    assert len(list((cache / "00003").glob("*.zip"))) < UPDATES
    for epoch, read in ((1, "00001"), (2, "00002"), (3, "00004"), (4, "00001")):
        loader.start_epoch(epoch)
        assert loader._zip_path(0).parent.name == read, "the epoch that the killed writer left is not taken"

    assert dora(tmp_path / "0", *shards[0], *four).returncode == 0, log_of(tmp_path / "0")[-3000:]
    assert dora(tmp_path / "2", *argv(folder, alone, "cache.write=true", *four)).returncode == 0
    written, expected = latents(cache), latents(alone)
    assert written.keys() == expected.keys()
    assert len(written) == 4 * UPDATES
    assert all(
        torch.equal(first, second)
        for name in written
        for first, second in zip(written[name], expected[name], strict=True)
    )
    assert not list(cache.glob("0*/.*")), "nothing half-written is left"
    assert dora(tmp_path / "3", *argv(folder, cache, *four)).returncode == 0, log_of(tmp_path / "3")[-3000:]


def test_a_second_writer_of_the_same_epochs_says_who_writes_them(folder, tmp_path):
    cache = tmp_path / "cache"
    writer = argv(folder, cache, "cache.write=true")
    first = dora(tmp_path / "first", *writer, "optim.epochs=500", wait=False)
    try:
        wait_for(cache / "00001" / "000000.zip", first, tmp_path / "first")
        second = dora(tmp_path / "second", *writer, "optim.epochs=2")
        assert second.returncode == 2, log_of(tmp_path / "second")[-3000:]
        message = log_of(tmp_path / "second").strip().splitlines()[-1]
        assert f"cache.path={cache}: process {first.pid} on " in message
        assert "is writing shard 0 of 1 there: wait for it" in message
        assert "cache.write_num_shards" in message
        assert first.poll() is None, "the first one is not disturbed"
    finally:
        first.kill()
        first.wait()
