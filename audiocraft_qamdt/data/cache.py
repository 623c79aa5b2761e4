"""Latents cached on disk, in AudioCraft's cache layout (`cache.*`), read back without unpickling objects.

Beside the epochs' folders lies `latents.json`: the codec, the settings and the data that the latents were made with.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import typing as tp
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from ..utils.files import locked, remove_dead_parts, replacing_durably, write_json
from ..utils.patching import replaced
from ..utils.reading import JsonObject, read_json
from .attributes import STATISTICS_FILE
from .dataset import QualityMusicInfo
from .manifest import find_manifest, read_manifest

import flashy
from audiocraft.data.audio_dataset import AudioMeta
from audiocraft.utils.cache import CachedBatchLoader, CachedBatchWriter

Record = JsonObject
_NOT_KEPT = ("self_wav", "joint_embed", "audio_tokens", "meta", "rule")

DESCRIPTION = "latents.json"
SETTINGS = (
    "sample_rate",
    "channels",
    "dataset.segment_duration",
    "dataset.min_segment_ratio",
    "dataset.sample_on_duration",
    "dataset.sample_on_weight",
    "dataset.caption",
    "dataset.shuffle_quality",
)
"""Config keys that decide what a cache holds: a run that reads it or adds to it must have the same."""

UPDATES = "optim.updates_per_epoch"


def to_record(info: QualityMusicInfo, latents: Tensor) -> Record:
    """Return an item as plain data and one tensor, for AudioCraft's `CachedBatchWriter`.

    Args:
        info: what conditions the item.
        latents: [C, T, F], not normalised: statistics may change, latents do not. Kept in float16.
    """
    plain = {field.name: getattr(info, field.name) for field in fields(info) if field.name not in _NOT_KEPT}
    return {"info": plain, "meta": info.meta.to_dict(), "latents": latents.half().cpu()}


def from_record(record: Record) -> tuple[Tensor, QualityMusicInfo]:
    """Return the item of `to_record`."""
    return record["latents"], QualityMusicInfo(meta=AudioMeta.from_dict(record["meta"]), **record["info"])


# ---- what a cache was made with


@dataclass(frozen=True)
class Description:
    """What the latents of a cache were made with.

    Args:
        settings: what readers must share, by config key; data as the number of tracks and a hash.
        written_with: what only writers must share, by config key; `UPDATES` is the number of batches of an epoch.
        codec: the config's keys `codec` and the section of that name.
        probe: `LatentCodec.probe` as lists [C][T][F].
    """

    settings: JsonObject
    written_with: JsonObject
    codec: JsonObject
    probe: list[list[list[float]]]


def short_probe(probe: Tensor) -> list[list[list[float]]]:
    """Return a probe [C, T, F] as lists of numbers with four digits."""
    rounded = [float(f"{value:.4g}") for value in probe.flatten().tolist()]
    return torch.tensor(rounded, dtype=torch.float64).view(probe.shape).tolist()


def data_settings(manifest: str | Path, kept: tp.Collection[str]) -> dict[str, str]:
    """Identify a training set: its tracks, those of them that are trained on, and their annotation.

    The folder that the tracks lie in does not count, so that a data set can be moved.

    Args:
        manifest: of the training set, or its folder.
        kept: paths of the tracks that `dataset.train.share` and `filter_below` leave.
    """
    file = find_manifest(manifest)
    tracks = [
        [_name_in(file.parent, row["path"]), row["duration"], row["sample_rate"], row.get("weight")]
        for row in read_manifest(file)
    ]
    return {
        "datasource.train": _identity(tracks, "tracks"),
        "dataset.train.share or filter_below": _identity([_name_in(file.parent, path) for path in kept], "tracks kept"),
        f"{STATISTICS_FILE} of datasource.train": _annotation(file.parent / STATISTICS_FILE),
    }


def _name_in(folder: Path, path: str) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path


def _identity(items: tp.Sequence[object], what: str) -> str:
    digest = hashlib.sha256()
    for line in sorted(map(json.dumps, items)):
        digest.update(f"{line}\n".encode())
    return f"{len(items)} {what} ({digest.hexdigest()[:16]})"


def _annotation(file: Path) -> str:
    if not file.exists():
        return "none"
    content = read_json(file)
    known = [content.get(key) for key in ("predictor", "version", "count", "mean", "std")]
    return "{} {}, {} scores, mean {}, standard deviation {}".format(*known)


def read_description(folder: Path) -> Description | None:
    """Read what a cache was made with; None = it does not say, as those that were written before `latents.json`.

    Raises:
        ValueError: naming the file, when it is not what `LatentBatchWriter` leaves.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        return None
    content = read_json(path)
    try:
        description = Description(**content)
        _check_types(description)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: damaged or no description of cached latents ({error}): put the file back, or name another "
            "cache.path"
        ) from error
    return description


def _check_types(description: Description) -> None:
    """Refuse what JSON can hold in the fields of a description and `LatentBatchWriter` does not write.

    Raises:
        TypeError, ValueError: saying which field.
    """
    for name in ("settings", "written_with", "codec"):
        if not isinstance(getattr(description, name), dict):
            raise TypeError(f"{name} is no object")
    updates = description.written_with.get(UPDATES)
    if type(updates) is not int or updates < 1:
        raise TypeError(f"written_with has no number of {UPDATES}")
    if torch.tensor(description.probe, dtype=torch.float64).dim() != 3:
        raise TypeError("probe is no list [C][T][F] of numbers")


def check_same(folder: Path, there: JsonObject, here: JsonObject) -> None:
    """Refuse settings that a cache was not made with.

    Raises:
        ValueError: naming the cache and the first key that differs.
    """
    for key, value in here.items():
        if there.get(key) != value:
            raise ValueError(
                f"cache.path={folder}: its latents were written with {key}={there.get(key)}, here it is {value}: "
                "set it as there, or name another cache.path"
            )


def _epochs(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())


def _complete_epochs(folder: Path) -> list[int]:
    """Return the epochs whose last batch is there; all of a cache that does not say how many batches they have."""
    written, description = _epochs(folder), read_description(folder)
    if description is None:
        return written
    last = description.written_with[UPDATES] - 1  # batches are written in their order
    return [epoch for epoch in written if CachedBatchWriter._get_zip_path(folder, epoch, last).exists()]


# ---- writing


class LatentBatchWriter(CachedBatchWriter):
    """AudioCraft's writer, for one of several processes: an epoch's files are whole or not there.

    Args:
        cache_folder: of the latents.
        shard: (i, n): this process writes every n-th epoch from the i-th on.
    Raises:
        ValueError: there is no such shard.
    """

    def __init__(self, cache_folder: Path, shard: tuple[int, int] = (0, 1)) -> None:
        super().__init__(cache_folder)
        self.shard = shard
        if not all(type(number) is int for number in shard) or not 0 <= shard[0] < shard[1]:
            raise ValueError(
                f"cache.write_shard={shard[0]} with cache.write_num_shards={shard[1]}: give the number of writers, and "
                "of this one, from 0"
            )

    @contextlib.contextmanager
    def open(self, description: Description) -> tp.Iterator[None]:
        """Describe the cache and keep its share to this process; no other may write the same epochs meanwhile.

        Raises:
            BlockingIOError: another process does; it says which one.
            ValueError: the cache holds latents that were written with other settings, or does not say.
        """
        self.cache_folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._hold(*self.shard))
            for shard in self._other_divisions():
                with self._hold(*shard):  # a writer that divides the epochs otherwise would write some of ours
                    pass
            with locked(self.cache_folder):
                self._describe(description)
            yield

    @contextlib.contextmanager
    def _hold(self, shard: int, shards: int) -> tp.Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.cache_folder / f"writer-{shard}-of-{shards}.lock", wait=False))
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"cache.path={self.cache_folder}: {error} is writing shard {shard} of {shards} there: wait for it, "
                    "end it, or divide the epochs: cache.write_num_shards=2 with cache.write_shard=0 and 1"
                ) from error
            yield

    def _other_divisions(self) -> list[tuple[int, int]]:
        names = [path.stem.split("-") for path in self.cache_folder.glob("writer-*-of-*.lock")]
        found = [(int(name[1]), int(name[3])) for name in names]
        return [shard for shard in found if shard[1] != self.shard[1]]

    def _describe(self, description: Description) -> None:
        known = read_description(self.cache_folder)
        if known is not None:
            check_same(self.cache_folder, known.written_with, description.written_with)
            return
        if _epochs(self.cache_folder):
            raise ValueError(
                f"cache.path={self.cache_folder} holds latents without {DESCRIPTION}, of a codec that is not known: "
                "it can be read, but to write name another cache.path"
            )
        write_json(self.cache_folder / DESCRIPTION, asdict(description))

    def check_written(self, epoch: int) -> None:
        """See that this process's epochs before `epoch` are there: a run that has trained them writes them no more.

        Raises:
            FileNotFoundError: naming the first that is not, somebody has removed it.
        """
        first, shards = self.shard
        missing = set(range(first + 1, epoch, shards)) - set(_complete_epochs(self.cache_folder))
        if missing:
            raise FileNotFoundError(
                f"cache.path={self.cache_folder} has lost latents that this run wrote (epoch {min(missing)}), and it "
                "does not write them twice: put the folder back, or start the run anew with `dora run --clear ...`"
            )

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        remove_dead_parts(self._zip_path.parent)

    def save(self, *content: object) -> None:
        with replaced(flashy.utils, "write_and_rename", replacing_durably):
            super().save(*content)


# ---- reading


class LatentBatchLoader(CachedBatchLoader):
    """AudioCraft's cached loader over latents: yields (latents [B, C, T, F], infos).

    Epochs that a writer has not completed are left out. Where fewer were written than are trained, they come again
    from the first.

    Args:
        cache_folder: of the latents.
        batch_size: items of a batch, of each process.
        num_workers: threads that read.
        min_length: batches that an epoch must have.
        tracks: paths of the only tracks that may come; None = any.
    """

    def __init__(
        self,
        cache_folder: Path,
        batch_size: int,
        num_workers: int = 10,
        min_length: int = 1,
        tracks: tp.Collection[str] | None = None,
    ) -> None:
        super().__init__(cache_folder, batch_size, num_workers, min_length)
        self.tracks = tracks

    def start_epoch(self, epoch: int) -> None:
        """Read the batches of this epoch, which starts at 1.

        Raises:
            FileNotFoundError: no epoch is complete.
        """
        written = _complete_epochs(self.cache_folder)
        if not written:
            raise FileNotFoundError(
                f"cache.path={self.cache_folder} holds no complete epoch of latents: write them with cache.write=true"
            )
        super().start_epoch(written[(epoch - 1) % len(written)])

    def _load_one(self, index: int) -> tuple[Tensor, list[QualityMusicInfo]] | None:
        path = self._zip_path(index)
        if not path.exists():
            if index < self.min_length:
                raise FileNotFoundError(
                    f"{path}: cache.path holds {index} batches of epoch {self._current_epoch}, "
                    f"{self.min_length} are needed: write them with cache.write=true"
                )
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                names = self._names_of_rank(path, archive)
                records = [torch.load(_seekable(archive, name), "cpu", weights_only=True)[0] for name in names]
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: damaged ({error}): write the latents again, to another cache.path") from error
        latents, infos = zip(*map(from_record, records), strict=True)
        for info in infos:
            if self.tracks is not None and info.meta.path not in self.tracks:
                raise ValueError(
                    f"{path}: holds latents of {info.meta.path}, which dataset.train.share or filter_below leaves out: "
                    "name another cache.path, and write it with these settings and cache.write=true"
                )
        return torch.stack(latents), list(infos)

    def _names_of_rank(self, path: Path, archive: zipfile.ZipFile) -> list[str]:
        names = sorted(archive.namelist(), key=int)
        needed = self.batch_size * flashy.distrib.world_size()
        if len(names) < needed:
            raise ValueError(f"{path}: holds {len(names)} items, but dataset.batch_size needs {needed}")
        start = flashy.distrib.rank() * self.batch_size
        return names[start : start + self.batch_size]


def _seekable(archive: zipfile.ZipFile, name: str) -> tp.IO[bytes]:
    return io.BytesIO(archive.read(name))
