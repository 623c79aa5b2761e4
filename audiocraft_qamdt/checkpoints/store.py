"""Trained models on disk: AudioCraft's checkpoints read, and exports (config + safetensors) read and written.

An export is a folder, or a model on the Hugging Face hub, with `config.json` (the solver's config), `model.safetensors`
(network, conditioners and the codec's latent statistics) and, where known, `quality.json` (the statistics that levels
are derived from). Pretrained parts that came from local files may lie in its folder `weights`; see `parts`.
"""

from __future__ import annotations

import json
import pickle
import re
import typing as tp
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..utils.errors import first_line
from ..utils.files import refuse_foreign, replacing_folder
from ..utils.reading import JsonObject
from . import config, parts

CONFIG, WEIGHTS, QUALITY = "config.json", "model.safetensors", "quality.json"
EMBEDDED = Path(__file__).resolve().parent.parent / "pretrained"
"""The model in the package, trained by `make pretrained`."""
FAST = EMBEDDED.with_name("pretrained_fast")
"""Its student of few steps, trained by `make fast`."""
PACKAGED = {"fast": FAST}
"""Models in the package that have a name."""
COMMAND = "`qamdt export`"
_STATISTICS = "codec.statistics."
CODEC_PROBE = "codec.probe"
ADAPTER_BASE = "adapter_base"
"""Key of a checkpoint that has `adapters.base_of` the weights that its adapter is trained on."""
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
    """Everything needed to generate with a model or to train it further.

    Args:
        cfg: the solver's config.
        model: state of `QAMDTModel`.
        codec_statistics: state of the codec's `LatentStatistics`.
        quality_statistics: fields of `QualityStatistics`; empty if unknown.
        history: metrics by epoch and stage; empty if unknown.
        codec_probe: `LatentCodec.probe` of the codec that it was trained with; None = not known.
        origin: folder of the export that it was read from; None = it is a training run's.
    """

    cfg: DictConfig
    model: dict[str, Tensor]
    codec_statistics: dict[str, Tensor]
    quality_statistics: JsonObject
    history: list[JsonObject] = field(default_factory=list)
    codec_probe: Tensor | None = None
    origin: Path | None = None

    def solver_state(self) -> JsonObject:
        """Return the part of a solver's state that AudioCraft continues from."""
        return {
            "best_state": {"model": self.model},
            "codec.statistics": self.codec_statistics,
            "quality_statistics": self.quality_statistics,
        }


def is_export(path: str | Path) -> bool:
    """Return whether `path` is an export folder."""
    return (Path(path) / CONFIG).is_file() and (Path(path) / WEIGHTS).is_file()


_KINDS = ("sample_rate", "channels", "mdt", "latents.codec", "conditioners", "fuser", "dataset.segment_duration")
"""Config keys, and sections, that decide what parameters a model has."""


def check_fits(
    source: str, weights: dict[str, Tensor], cfg: DictConfig | None, own: dict[str, Tensor], own_cfg: DictConfig
) -> None:
    """Refuse weights that would leave parameters of a model at random, or of another codec.

    Args:
        source: where the weights come from, for the message.
        weights, cfg: the model's, from there; None = its config is not known.
        own, own_cfg: of the model that they go into.
    Raises:
        ValueError: naming parameters and the config keys that differ.
    """
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shaped = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    keys = [] if cfg is None else _different_keys(cfg, own_cfg)
    other_codec = [key for key in keys if key.startswith("latents.codec")]
    if not (missing or extra or shaped or other_codec):
        return
    parts = {"missing there": missing, "not here": extra, "of other shapes": shaped}
    names = "; ".join(f"{len(found)} parameters {what} ({found[0]})" for what, found in parts.items() if found)
    raise ValueError(
        f"continue_from={source} is a model of another kind: {names or 'same shapes, another codec'}; the config keys "
        f"that differ: {', '.join(keys) or 'none that is known'}. Set them as there, or drop continue_from"
    )


OTHER_CODEC = 0.05
"""Relative difference of two probes from which on their codecs are two: another device's rounding stays below it."""


def other_codec(probe: Tensor, cfg: DictConfig | None, own_probe: Tensor, own_cfg: DictConfig) -> str | None:
    """Return in which config keys a codec differs that gives other latents, for a message; None = it gives the same.

    Args:
        probe, cfg: `LatentCodec.probe` and config of the codec there; None = the config is not known.
        own_probe, own_cfg: of the codec here.
    """
    same_shape = probe.shape == own_probe.shape
    if same_shape and (probe - own_probe).norm() <= OTHER_CODEC * own_probe.norm():
        return None
    section = f"latents.{own_cfg.latents.codec}"
    keys = [] if cfg is None else _different_keys(cfg, own_cfg, ("latents.codec", section))
    return ", ".join(keys) or f"{section} is the same in both configs, so the file that it names has changed"


def check_codec(
    where: str, probe: Tensor | None, cfg: DictConfig | None, own_probe: Tensor, own_cfg: DictConfig
) -> None:
    """Refuse weights that were trained on the latents of another codec, also where it has the same name.

    Args:
        where: the weights' origin, for the message.
        probe, cfg, own_probe, own_cfg: as in `other_codec`; a probe that is None is accepted.
    Raises:
        ValueError: naming the config keys of the codec, those that differ where they are known.
    """
    changed = None if probe is None else other_codec(probe, cfg, own_probe, own_cfg)
    if changed is not None:
        raise ValueError(
            f"{where}: trained on latents of another codec than latents.{own_cfg.latents.codec} gives here: {changed}. "
            "Name that codec, or train a new model with this one"
        )


def _different_keys(cfg: DictConfig, own_cfg: DictConfig, names: tp.Sequence[str] = _KINDS) -> list[str]:
    there, here = (_flat(OmegaConf.to_container(each, resolve=True)) for each in (cfg, own_cfg))
    keys = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    return [
        f"{key}={here.get(key)} (there: {there.get(key)})"
        for key in keys
        if any(key == name or key.startswith(f"{name}.") for name in names)
    ]


def _flat(value: object, key: str = "") -> JsonObject:
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {
        name: item
        for part, inner in value.items()
        for name, item in _flat(inner, f"{key}.{part}" if key else str(part)).items()
    }


def load_safely(path: Path, mmap: bool = False) -> JsonObject:
    """Load a .safetensors file, or another with `torch.load`, data only, on the CPU.

    Raises:
        ValueError: naming the file, when it is damaged or holds code.
    """
    if path.suffix == ".safetensors":
        return tp.cast(JsonObject, _load_tensors(path))
    try:
        return torch.load(path, "cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported.*|.*GLOBAL.*|WeightsUnpickler error.*", str(error))
        raise ValueError(
            f"{path}: refused, it holds more than tensors and plain data ({reason[0] if reason else first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: damaged or not a torch checkpoint ({first_line(error)})") from error


def export(folder: str | Path, trained: TrainedModel, finish: tp.Callable[[Path], None] = lambda folder: None) -> None:
    """Write an export: complete under another name first, then renamed; an existing export is replaced.

    Args:
        finish: called with the export before it is renamed, to add to it; what it raises leaves nothing behind.
    Raises:
        ValueError: weights that are not finite, named.
        FileExistsError: the folder holds something else than an export.
    """
    bad = [key for key, value in trained.model.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"weights with NaN or infinite values, nothing was written: {', '.join(bad[:5])}")
    with replacing_folder(folder, is_own_export, COMMAND) as part:
        content = config.resolved(trained.cfg, "the model's config")
        (part / CONFIG).write_text(json.dumps(content, indent=2), encoding="utf-8")
        write_safetensors(dict(_flatten(trained)), part / WEIGHTS)
        if trained.quality_statistics:
            (part / QUALITY).write_text(json.dumps(trained.quality_statistics, indent=2), encoding="utf-8")
        finish(part)


def check_out(folder: str | Path) -> None:
    """Refuse a folder that `export` would refuse, before any work.

    Raises:
        FileExistsError, NotADirectoryError: it holds something else than an export.
    """
    refuse_foreign(Path(folder), COMMAND, is_own_export)


def is_own_export(folder: Path) -> bool:
    """Return whether a folder is an export of this package and holds nothing else."""
    known = {CONFIG, WEIGHTS, QUALITY, "README.md", parts.PARTS}
    if not is_export(folder) or {path.name for path in folder.iterdir()} - known:
        return False
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("solver") == "qamdt"


def write_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write the safetensors format, one tensor in memory at a time: the library's `save_file` copies all at first."""
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
    if trained.codec_probe is not None:
        yield CODEC_PROBE, trained.codec_probe


def in_package(folder: Path) -> bool:
    """Tell whether a folder is that of a model in the package."""
    return folder.resolve() in (EMBEDDED, FAST)


def read_export(folder: Path, own: bool = True) -> TrainedModel:
    """Read an export's folder.

    Args:
        own: it was written on this machine, so that its config may name files outside of it.
    Raises:
        ValueError: a file in it is damaged, or refused.
    """
    state, quality = _load_tensors(folder / WEIGHTS), folder / QUALITY
    return TrainedModel(
        cfg=_read_config(folder, own),
        model={key.removeprefix(_MODEL): value for key, value in state.items() if key.startswith(_MODEL)},
        codec_statistics={
            key.removeprefix(_STATISTICS): value for key, value in state.items() if key.startswith(_STATISTICS)
        },
        quality_statistics=_read_quality(quality) if quality.exists() else {},
        codec_probe=state.get(CODEC_PROBE),
        origin=folder,
    )


def _load_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({first_line(error)})") from error


def _read_quality(path: Path) -> JsonObject:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({first_line(error)})") from error


def _read_config(folder: Path, own: bool) -> DictConfig:
    # ours is tested instead: to know all keys takes half a second
    cfg = config.read(folder / CONFIG, check_keys=not in_package(folder))
    used = parts.in_use(cfg)
    for key in parts.PART_KEYS:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, str) or not value.startswith("./"):
            if key in used and not own and config.names_a_path(used[key]):
                raise ValueError(f"{folder / CONFIG}: {key}={value!r} is refused: it is outside of the model's folder")
            continue
        inside = parts.locate(folder, value, f"{folder / CONFIG}: {key}") if key in used else None
        OmegaConf.update(cfg, key, inside)
    return cfg
