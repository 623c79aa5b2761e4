"""Labels cannot go astray: each clip's audible mark, caption and quality arrive together, whatever the way.

A clip is a sine whose frequency says which clip it is; its caption and its p-MOS say so too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiocraft_qamdt.data.cache import LatentBatchLoader, to_record
from audiocraft_qamdt.data.dataset import QualityMusicDataset, QualityMusicInfo
from audiocraft_qamdt.data.manifest import build_manifest, read_manifest, write_manifest
from audiocraft_qamdt.latents.mdct import MDCTCodec
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule

import flashy
from audiocraft.utils.cache import CachedBatchWriter

RATE, SECONDS, CLIPS, SPACING = 16000, 0.512, 24, 100  # Hz, s, number, Hz between the marks of two clips
ROOT = Path(__file__).resolve().parents[2]


def pmos(clip: int) -> float:
    return 1.2 + clip * 0.15


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    for clip in range(CLIPS):
        mark = 0.3 * np.sin(2 * np.pi * (500 + SPACING * clip) * np.arange(RATE * 2) / RATE)
        soundfile.write(folder / f"{clip}.wav", mark, RATE)
        quality = {"pmos": pmos(clip), "hop": 1.0, "frames": [pmos(clip)] * 2, "predictor": "mark", "version": "1"}
        (folder / f"{clip}.json").write_text(json.dumps({"description": f"clip {clip}", "quality": quality}))
    build_manifest(folder)
    # Sampling weights, which the published code let take a label to another clip.
    rows = [row | {"weight": 1 + index % 3} for index, row in enumerate(read_manifest(folder))]
    write_manifest(folder / "data.jsonl.gz", rows)
    return folder


def loader(folder: Path, num_workers: int = 0) -> torch.utils.data.DataLoader:
    """As AudioCraft builds the one of training: shuffled, weighted, divided among ranks."""
    dataset = QualityMusicDataset.from_meta(
        folder,
        segment_duration=SECONDS,
        sample_rate=RATE,
        channels=1,
        num_samples=32,
        shuffle=True,
        sample_on_weight=True,
        sample_on_duration=False,
    )
    options = {"batch_size": 4, "num_workers": num_workers, "collate_fn": dataset.collater}
    return flashy.distrib.loader(dataset, shuffle=True, **options)


def start_epoch(batches: torch.utils.data.DataLoader, epoch: int) -> None:
    """As AudioCraft's solvers do before each epoch."""
    batches.dataset.start_epoch(epoch)
    if hasattr(batches.sampler, "set_epoch"):
        batches.sampler.set_epoch(epoch)


def heard(audio: Tensor) -> int:
    """The clip whose mark [1, S] holds."""
    spectrum = torch.fft.rfft(audio[0] * torch.hann_window(audio.shape[-1])).abs()
    return round((spectrum.argmax().item() * RATE / audio.shape[-1] - 500) / SPACING)


def check(audio: Tensor, infos: list[QualityMusicInfo]) -> list[int]:
    """Clips of a batch [B, 1, S], each of which all its labels belong to."""
    rule = level_rule("quantile", QualityStatistics.from_scores([pmos(clip) for clip in range(CLIPS)], "mark", "1"))
    clips = [heard(item) for item in audio]
    for clip, info in zip(clips, infos, strict=True):
        text = replace(info, rule=rule).to_condition_attributes().text
        assert text["description"] == f"clip {clip}"
        assert Path(info.meta.path).stem == str(clip)
        assert info.pmos == info.pmos_track == pytest.approx(pmos(clip))
        assert info.pmos_curve == pytest.approx([pmos(clip)] * len(info.pmos_curve))
        assert text["quality_clip"] == rule.level(pmos(clip))
    return clips


def write_cache(folder: Path, cache: Path, epochs: int) -> list[int]:
    """Train-time latents into a cache, as the solver writes them; checks what it writes."""
    batches, codec, writer, clips = loader(folder), MDCTCodec(), CachedBatchWriter(cache), []
    for epoch in range(1, epochs + 1):
        start_epoch(batches, epoch)
        writer.start_epoch(epoch)
        for audio, infos in batches:
            clips += check(audio, infos)
            latents = codec.encode(audio)
            writer.save([to_record(info, item) for info, item in zip(infos, latents, strict=True)])
    return clips


def read_cache(cache: Path, epochs: int, num_workers: int) -> list[int]:
    batches, codec, clips = LatentBatchLoader(cache, batch_size=4, num_workers=num_workers), MDCTCodec(), []
    for epoch in range(1, epochs + 1):
        batches.start_epoch(epoch)
        for latents, infos in batches:
            clips += check(codec.decode(latents.float(), round(SECONDS * RATE)), infos)
    return clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("labels") / "data")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_through_loader_shuffling_weights_and_workers(folder, num_workers):
    batches, epochs = loader(folder, num_workers), []
    for epoch in (1, 2):
        start_epoch(batches, epoch)
        epochs.append([clip for audio, infos in batches for clip in check(audio, infos)])
    assert len(epochs[0]) == 32
    assert epochs[0] != epochs[1]
    assert len({*epochs[0], *epochs[1]}) > CLIPS / 2


def test_through_the_latent_cache(folder, tmp_path):
    written = write_cache(folder, tmp_path, epochs=2)
    assert read_cache(tmp_path, epochs=2, num_workers=2) == written


@pytest.mark.slow
def test_through_two_processes_and_their_cache(folder, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    code = f"import tests.conftest, tests.data.test_labels as it; it.run_rank({str(folder)!r}, {str(tmp_path)!r}, "
    ranks = [subprocess.Popen([sys.executable, "-c", f"{code}{rank})"], cwd=ROOT, env=environment) for rank in (0, 1)]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert len(first["written"]) == len(second["written"]) == 32
    assert first["written"] != second["written"], "each rank has its own share"
    assert (first["read"], second["read"]) == (first["written"], second["written"])


def run_rank(folder: str, out: str, rank: int) -> None:
    """One of two ranks: what it wrote into their cache and what it read back; fails where labels went astray."""
    meet, cache = Path(out, "meet"), Path(out, "cache")
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    assert flashy.distrib.world_size() == 2
    written = write_cache(Path(folder), cache, epochs=2)
    read = read_cache(cache, epochs=2, num_workers=1)
    Path(out, f"{rank}.json").write_text(json.dumps({"written": written, "read": read}))
    torch.distributed.destroy_process_group()
