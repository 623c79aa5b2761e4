"""Latents cached on disk, in AudioCraft's cache layout (`cache.*`), read back without unpickling objects."""

from __future__ import annotations

import io
import typing as tp
import zipfile
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from .dataset import QualityMusicInfo

import flashy
from audiocraft.data.audio_dataset import AudioMeta
from audiocraft.utils.cache import CachedBatchLoader

Record = dict[str, tp.Any]
_NOT_KEPT = ("self_wav", "joint_embed", "audio_tokens", "meta", "rule")


def to_record(info: QualityMusicInfo, latents: Tensor) -> Record:
    """One item as plain data and one tensor, for AudioCraft's `CachedBatchWriter`.

    Args:
        info: what conditions the item.
        latents: [C, T, F], not normalised: statistics may change, latents do not. Kept in float16.
    """
    plain = {field.name: getattr(info, field.name) for field in fields(info) if field.name not in _NOT_KEPT}
    return {"info": plain, "meta": info.meta.to_dict(), "latents": latents.half().cpu()}


def from_record(record: Record) -> tuple[Tensor, QualityMusicInfo]:
    """Return the item of `to_record`."""
    return record["latents"], QualityMusicInfo(meta=AudioMeta.from_dict(record["meta"]), **record["info"])


class LatentBatchLoader(CachedBatchLoader):
    """AudioCraft's cached loader over latents: yields (latents [B, C, T, F], infos).

    Where fewer epochs were written than are trained, they come again from the first.

    Args:
        args, kwargs: of AudioCraft's loader.
        tracks: paths of the only tracks that may come; None = any.
    """

    def __init__(self, *args: tp.Any, tracks: tp.Collection[str] | None = None, **kwargs: tp.Any) -> None:
        super().__init__(*args, **kwargs)
        self.tracks = tracks

    def start_epoch(self, epoch: int) -> None:
        """Read the batches of this epoch, which starts at 1."""
        written = len([folder for folder in self.cache_folder.glob("[0-9]*") if folder.is_dir()])
        super().start_epoch((epoch - 1) % written + 1 if written else epoch)

    def _load_one(self, index: int) -> tuple[Tensor, list[QualityMusicInfo]] | None:
        path = self._zip_path(index)
        if not path.exists():
            if index < self.min_length:
                raise FileNotFoundError(
                    f"{path}: cache.path holds {index} batches of epoch {self._current_epoch}, "
                    f"{self.min_length} are needed: write them with cache.write=true"
                )
            return None
        with zipfile.ZipFile(path) as archive:
            names = self._names_of_rank(path, archive)
            records = [torch.load(_seekable(archive, name), "cpu", weights_only=True)[0] for name in names]
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
