"""Latents on disk: what goes in comes out, read as plain data."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from audiocraft_qamdt.data import cache
from audiocraft_qamdt.data.cache import Description, LatentBatchLoader, LatentBatchWriter, from_record, to_record
from audiocraft_qamdt.data.dataset import QualityMusicDataset

from ..helpers.audio_folder import make_folder

from audiocraft.utils.cache import CachedBatchWriter

DESCRIPTION = Description({"sample_rate": 16000}, {cache.UPDATES: 2}, {"codec": "mdct", "mdct": {}}, [[[0.5]]])


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
    assert info.meta == infos[0].meta
    assert info.seek_time == infos[0].seek_time


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


def write(folder, infos, *epochs, batches=2, description=DESCRIPTION, shard=(0, 1)):
    writer = LatentBatchWriter(folder, shard)
    with writer.open(description):
        for epoch in epochs:
            writer.start_epoch(epoch)
            for index in range(batches):
                writer.save([to_record(info, torch.full((1, 1, 1), 10.0 * epoch + index)) for info in infos])


def read(folder, epoch):
    loader = LatentBatchLoader(folder, batch_size=4, num_workers=1)
    loader.start_epoch(epoch)
    return [int(latents[0]) for latents, _ in loader]


def test_an_epoch_that_is_not_complete_is_not_read(tmp_path, infos):
    write(tmp_path, infos, 1, 3)
    write(tmp_path, infos, 2, batches=1)
    assert [read(tmp_path, epoch) for epoch in (1, 2, 3)] == [[10, 11], [30, 31], [10, 11]]
    write(tmp_path, infos, 2)
    assert [read(tmp_path, epoch) for epoch in (1, 2, 3)] == [[10, 11], [20, 21], [30, 31]]


def test_without_a_complete_epoch_the_cache_is_named(tmp_path, infos):
    write(tmp_path, infos, 1, batches=1)
    with pytest.raises(FileNotFoundError, match=f"cache.path={tmp_path} holds no complete epoch.*cache.write=true"):
        read(tmp_path, 1)


def test_a_cache_without_a_description_is_read_whole_but_not_added_to(tmp_path, infos):
    write(tmp_path, infos, 1, 2)
    (tmp_path / cache.DESCRIPTION).unlink()
    assert [read(tmp_path, epoch) for epoch in (1, 2)] == [[10, 11], [20, 21]]
    with pytest.raises(ValueError, match=f"cache.path={tmp_path} holds latents without latents.json.*name another"):
        write(tmp_path, infos, 3)


def test_writers_with_other_batches_are_refused(tmp_path, infos):
    write(tmp_path, infos, 1)
    other = dataclasses.replace(DESCRIPTION, written_with={cache.UPDATES: 3})
    with pytest.raises(ValueError, match=r"written with optim.updates_per_epoch=2, here it is 3: set it as there"):
        write(tmp_path, infos, 2, description=other)


@pytest.mark.parametrize("shard, free", [((0, 2), False), ((1, 2), True), ((0, 1), False), ((1, 3), False)])
def test_a_share_that_somebody_writes_is_refused(tmp_path, infos, shard, free):
    with LatentBatchWriter(tmp_path, (0, 2)).open(DESCRIPTION):
        if free:
            write(tmp_path, infos, 2, shard=shard)
            return
        with pytest.raises(BlockingIOError, match=r"process \d+ on .* is writing shard 0 of 2 there"):
            write(tmp_path, infos, 2, shard=shard)


def test_a_damaged_batch_and_an_impossible_share_are_named(tmp_path, infos):
    write(tmp_path, infos, 1)
    batch = tmp_path / "00001" / "000001.zip"
    batch.write_bytes(batch.read_bytes()[:100])
    with pytest.raises(ValueError, match="00001/000001.zip: damaged"):
        read(tmp_path, 1)
    with pytest.raises(ValueError, match="cache.write_shard=2 with cache.write_num_shards=2"):
        LatentBatchWriter(tmp_path, (2, 2))


def test_data_are_told_apart_by_content_and_not_by_folder(tmp_path):
    first = make_folder(tmp_path / "audio")
    kept = [str(first / f"track{index}.wav") for index in range(6)]
    known = cache.data_settings(first, kept)
    moved = tmp_path / "elsewhere" / "audio"
    shutil.copytree(first, moved)
    manifest = make_folder(tmp_path / "other", tracks=5)
    assert known["datasource.train"].startswith("6 tracks (")
    assert cache.data_settings(make_folder(moved), [path.replace(str(first), str(moved)) for path in kept]) == known
    fewer = cache.data_settings(first, kept[:5])
    assert [key for key in known if known[key] != fewer[key]] == ["dataset.train.share or filter_below"]
    other = cache.data_settings(manifest, [])
    assert all(known[key] != other[key] for key in known)
    (first / "quality.json").unlink()
    assert [key for key, value in cache.data_settings(first, kept).items() if value != known[key]] == [
        "quality.json of datasource.train"
    ]


@pytest.mark.parametrize(
    "field, value",
    [
        ("settings", []),
        ("written_with", {}),
        ("written_with", {cache.UPDATES: "two"}),
        ("codec", "mdct"),
        ("probe", [["a"]]),
        ("probe", [[[1.0], [1.0, 2.0]]]),
        ("probe", 0.5),
    ],
)
def test_a_damaged_description_is_refused_in_one_line(tmp_path, infos, field, value):
    write(tmp_path, infos, 1)
    path = tmp_path / cache.DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match="latents.json: damaged or no description of cached latents"):
        cache.read_description(tmp_path)


@pytest.mark.parametrize("shard", [("a", 2), (0, "b"), (0, None), (2, 2), (True, 2)])
def test_a_shard_that_is_none_is_refused(tmp_path, shard):
    with pytest.raises(ValueError, match="cache.write_shard=.* with cache.write_num_shards="):
        LatentBatchWriter(tmp_path, shard)
