"""Latents on disk: what goes in comes out, read as plain data."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.data.cache import LatentBatchLoader, from_record, to_record
from audiocraft_qamdt.data.dataset import QualityMusicDataset

from ..helpers.audio_folder import make_folder

from audiocraft.utils.cache import CachedBatchWriter


@pytest.fixture
def infos(tmp_path):
    dataset = QualityMusicDataset.from_meta(
        make_folder(tmp_path / "audio"), segment_duration=1.0, sample_rate=16000, channels=1, num_samples=8
    )
    dataset.start_epoch(1)
    return [dataset[index][1] for index in range(4)]


def test_a_record_gives_the_item_back(infos):
    latents = torch.randn(2, 5, 3)
    again, info = from_record(to_record(infos[0], latents))
    assert torch.allclose(again.float(), latents, atol=1e-2)
    assert info.to_condition_attributes().text == infos[0].to_condition_attributes().text
    assert info.meta == infos[0].meta and info.seek_time == infos[0].seek_time


def test_batches_come_back_in_order(tmp_path, infos):
    writer = CachedBatchWriter(tmp_path / "cache")
    writer.start_epoch(1)
    batches = [torch.randn(4, 2, 5, 3) for _ in range(3)]
    for batch in batches:
        writer.save([to_record(info, item) for info, item in zip(infos, batch, strict=True)])
    loader = LatentBatchLoader(tmp_path / "cache", batch_size=4, num_workers=2, min_length=3)
    loader.start_epoch(1)
    read = list(loader)
    assert len(read) == 3
    for batch, (latents, found) in zip(batches, read, strict=True):
        assert torch.equal(latents, batch.half())
        assert [info.description for info in found] == [info.description for info in infos]


def test_missing_batches_and_large_batch_sizes_are_named(tmp_path, infos):
    writer = CachedBatchWriter(tmp_path / "cache")
    writer.start_epoch(1)
    writer.save([to_record(info, torch.zeros(1, 1, 1)) for info in infos])
    loader = LatentBatchLoader(tmp_path / "cache", batch_size=4, num_workers=1, min_length=2)
    loader.start_epoch(1)
    with pytest.raises(FileNotFoundError, match="cache.path holds 1 batches of epoch 1, 2 are needed"):
        list(loader)
    large = LatentBatchLoader(tmp_path / "cache", batch_size=8, num_workers=1)
    large.start_epoch(1)
    with pytest.raises(ValueError, match="holds 4 items, but dataset.batch_size needs 8"):
        list(large)
