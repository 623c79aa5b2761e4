"""Pretrained parts of a model (codec, text encoder) that are local files: which are in use, and into an export."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

PARTS = "weights"
PART_KEYS = (
    "latents.spectral_vae.checkpoint",
    "latents.encodec.checkpoint",
    "latents.mel_vae.checkpoint",
    "latents.mel_vae.vae",
    "latents.mel_vae.vocoder",
    "latents.oobleck.checkpoint",
    "latents.dac.checkpoint",
    "conditioners.description.qamdt_t5.name",
)
"""Config keys of pretrained parts; in an export, a value that begins with `./` is inside its folder."""
_PIPELINE_FOLDERS = ("vae", "vocoder")
"""Folders of a diffusers pipeline that codecs read; of its other files, which may be large, they read none."""
_FILES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|(pytorch_model|model|diffusion_pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
    r"|spiece\.model|vocab\.txt|merges\.txt"
)
"""Files that diffusers and transformers read of a model's folder, and no others."""


def in_use(cfg: DictConfig) -> dict[str, str]:
    """Return the keys of the parts that the model of this config loads, with what they name."""
    described = OmegaConf.select(cfg, "conditioners.description.model")
    prefixes = (f"latents.{OmegaConf.select(cfg, 'latents.codec')}.", f"conditioners.description.{described}.")
    found = {key: OmegaConf.select(cfg, key) for key in PART_KEYS if key.startswith(prefixes)}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def locate(folder: Path, value: str, where: str) -> str:
    """Return the path of a part `./...` of an export.

    Raises:
        ValueError: it is outside of the export's folder.
    """
    if ".." in Path(value).parts or not is_inside(folder / value, folder):
        raise ValueError(f"{where}={value!r} is refused: a part of an export lies in its folder")
    return str(folder / value)


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path lies in a folder, links followed (the hub's cache keeps contents two folders up)."""
    roots = [folder.resolve()]
    if folder.parent.name == "snapshots":
        roots.append(folder.resolve().parents[1] / "blobs")
    return any(path.resolve().is_relative_to(root) for root in roots)


def refuse_outside(used: dict[str, str], origin: Path) -> None:
    """Refuse local parts of an export that lie outside of its folder.

    Raises:
        ValueError: naming the key and the part.
    """
    for key, source in used.items():
        if Path(source).exists() and not is_inside(Path(source), origin):
            raise ValueError(f"{origin}: {key}={source} is outside of that export, and is not copied")


def add_parts(folder: Path, config: Path, used: dict[str, str]) -> None:
    """Copy the local files among the parts in use into an export, and point its config at them.

    Args:
        folder: the export.
        config: its config.json.
        used: see `in_use`.
    """
    content, targets = json.loads(config.read_text(encoding="utf-8")), dict[str, Path]()
    portable = OmegaConf.create(content)
    for key in PART_KEYS:
        source = used.get(key)
        if source is None:
            if isinstance(value := OmegaConf.select(portable, key), str) and value.startswith((".", "/")):
                OmegaConf.update(portable, key, None)
            continue
        if not Path(source).exists():
            OmegaConf.update(portable, key, source)
            continue
        if source not in targets:
            targets[source] = Path(PARTS) / key.rpartition(".")[2] / Path(source).name
            _copy(Path(source), folder / targets[source])
        OmegaConf.update(portable, key, f"./{targets[source].as_posix()}")
    config.write_text(json.dumps(OmegaConf.to_container(portable), indent=2), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
        return
    pipeline = any((source / name).is_dir() for name in _PIPELINE_FOLDERS)
    for name in _PIPELINE_FOLDERS if pipeline else (".",):
        for file in sorted((source / name).glob("*")):
            if _FILES.fullmatch(file.name) and file.is_file() and is_inside(file, source):
                (target / name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / name / file.name)
