"""Trained models on disk: AudioCraft's checkpoints read, and exports (config + safetensors) read and written.

An export is a folder with `config.yaml` (the solver's config), `model.safetensors` (network, conditioners and the
codec's latent statistics) and, where known, `quality.json` (the statistics that levels are derived from).
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import typing as tp
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from .compat import prepare

CONFIG, WEIGHTS, QUALITY = "config.yaml", "model.safetensors", "quality.json"
_STATISTICS = "codec.statistics."
_MODEL = "model."
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass
class TrainedModel:
    """What is needed to generate with a model or to train it further.

    Args:
        cfg: the solver's config.
        model: state of `QAMDTModel`.
        codec_statistics: state of the codec's `LatentStatistics`.
        quality_statistics: fields of `QualityStatistics`; empty if unknown.
    """

    cfg: DictConfig
    model: dict[str, Tensor]
    codec_statistics: dict[str, Tensor]
    quality_statistics: dict[str, tp.Any]

    def solver_state(self) -> dict[str, tp.Any]:
        """The same as the part of a solver's state that AudioCraft continues from."""
        return {
            "best_state": {"model": self.model},
            "codec.statistics": self.codec_statistics,
            "quality_statistics": self.quality_statistics,
        }


def is_export(path: str | Path) -> bool:
    """Whether `path` is an export folder."""
    return (Path(path) / CONFIG).is_file() and (Path(path) / WEIGHTS).is_file()


def load(name: str | Path) -> TrainedModel:
    """Read an export folder, a checkpoint file, an experiment's folder, `//sig/…` or `//reference/…`.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: the file is damaged, holds anything but data, or is not a checkpoint of this solver.
    """
    if is_export(name):
        return _load_export(Path(name))
    prepare()
    from audiocraft.utils import checkpoint  # a second to import, and exports do not need it

    path = checkpoint.resolve_checkpoint_path(str(name))
    if path is None:
        raise FileNotFoundError(f"{name}: neither an export (folder with {CONFIG} and {WEIGHTS}) nor a checkpoint")
    state = load_safely(path)
    missing = [key for key in ("xp.cfg", "best_state", "codec.statistics") if key not in state]
    if missing:
        raise ValueError(f"{path}: not a checkpoint of solver=qamdt, it has no {', '.join(missing)}")
    return TrainedModel(
        state["xp.cfg"], state["best_state"]["model"], state["codec.statistics"], state.get("quality_statistics", {})
    )


def load_safely(path: Path, mmap: bool = False) -> dict[str, tp.Any]:
    """`torch.load` of data only, on the CPU.

    Raises:
        ValueError: naming the file, when it is damaged or holds code.
    """
    try:
        return torch.load(path, "cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported.*|.*GLOBAL.*|WeightsUnpickler error.*", str(error))
        raise ValueError(
            f"{path}: refused, it holds more than tensors and plain data "
            f"({reason[0] if reason else _first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: damaged or not a torch checkpoint ({_first_line(error)})") from error


def export(folder: str | Path, trained: TrainedModel) -> None:
    """Write an export: complete under another name first, then renamed; an existing one is replaced.

    Raises:
        ValueError: weights that are not finite, named.
    """
    bad = [key for key, value in trained.model.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"weights with NaN or infinite values, nothing was written: {', '.join(bad[:5])}")
    folder = Path(folder)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        (part / CONFIG).write_text(OmegaConf.to_yaml(trained.cfg, resolve=True))
        _write_safetensors(dict(_flatten(trained)), part / WEIGHTS)
        if trained.quality_statistics:
            (part / QUALITY).write_text(json.dumps(trained.quality_statistics, indent=2))
        _replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    """The safetensors format, one tensor in memory at a time: the library's `save_file` copies all of them first."""
    header, offset = {}, 0
    for key, value in tensors.items():
        size = value.numel() * value.element_size()
        header[key] = {
            "dtype": _DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for value in tensors.values():
            file.write(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def _flatten(trained: TrainedModel) -> tp.Iterator[tuple[str, Tensor]]:
    yield from ((_MODEL + key, value) for key, value in trained.model.items())
    yield from ((_STATISTICS + key, value) for key, value in trained.codec_statistics.items())


def _replace(part: Path, folder: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def _load_export(folder: Path) -> TrainedModel:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: damaged ({_first_line(error)})") from error
    quality = folder / QUALITY
    return TrainedModel(
        cfg=tp.cast(DictConfig, OmegaConf.load(folder / CONFIG)),
        model={key.removeprefix(_MODEL): value for key, value in state.items() if key.startswith(_MODEL)},
        codec_statistics={
            key.removeprefix(_STATISTICS): value for key, value in state.items() if key.startswith(_STATISTICS)
        },
        quality_statistics=json.loads(quality.read_text()) if quality.exists() else {},
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
