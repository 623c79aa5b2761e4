"""The config of an export: data that may come from anybody, so nothing in it is resolved, and every key is known."""

from __future__ import annotations

import functools
import json
import math
import re
import typing as tp
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ..utils.composing import compose_config
from ..utils.errors import first_line
from ..utils.reading import JsonObject, JsonValue

OPEN = ("datasource", "optim", "schedule", "metrics", "evaluate", "slurm", "wandb", "tensorboard", "logging", "dora")
"""Sections of which generation reads nothing: recipes and users add their own keys to them."""
MACHINE = ("metrics", "slurm", "wandb", "tensorboard", "dora")
"""Sections about the machine that trained the model; `portable` leaves them out."""
TYPES: dict[str, tuple[type, ...]] = {
    "label": (str, int, float),
    "folder": (str,),
    "mdt.pooled_text": (bool,),
    "generate.quality": (int, float),
    "checkpoint.best_metric": (str,),
    "generate.clap": (str,),
    "generate.rerank": (str,),
    "generate.negative_prompt": (str,),
    "generate.extend_stride": (int, float),
    "generate.lm.gen_duration": (int, float),
    "quality.statistics": (str, dict),
    "classifier_free_guidance.quality_coef": (int, float),
    "diffusion.snr_gamma": (int, float),
    "compile.train": (str,),
    "compile.generate": (str,),
    "latents.spectral_vae.checkpoint": (str,),
    "latents.encodec.checkpoint": (str,),
    "latents.mel_vae.checkpoint": (str,),
    "latents.mel_vae.vae": (str,),
    "latents.mel_vae.vocoder": (str,),
    "latents.oobleck.checkpoint": (str,),
    "latents.dac.checkpoint": (str,),
    "latents.dac.channels": (int,),
    "latents.dac.codebooks": (int,),
}
"""Types of keys whose default does not show them; null is always possible."""
_ABSOLUTE = re.compile(r"(^|[\s='\",;(\[])(~|/|file:|[A-Za-z]:[\\/]|\\\\)")
_PARENT = re.compile(r"(^|[\\/])\.\.([\\/]|$)")
_SCHEMES = ("//pretrained/", "//encodec/", "//reference/", "http://", "https://")


def read(path: Path, check_keys: bool = True) -> DictConfig:
    """Read an export's config.json.

    Args:
        check_keys: refuse keys that no recipe has, and values of another type than there.
    Raises:
        ValueError: naming the file, and the key that is unknown, of another type, or asks to be resolved.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: damaged (no JSON object)")
    _refuse_interpolations(content, f"{path}: ", "${")
    if check_keys:
        codec = content["latents"].get("codec") if isinstance(content.get("latents"), dict) else None
        free = {*OPEN, "conditioners", f"latents.{codec}", "quality.statistics"}
        _check(content, _known(), "", path, free)
    return OmegaConf.create(content)


def resolved(cfg: DictConfig, where: str | Path) -> JsonObject:
    """Return a run's config as plain data: references to other keys are followed, no resolver runs.

    Raises:
        ValueError: naming `where` and the key that holds a resolver (`${oc.env:...}`).
    """
    _refuse_interpolations(OmegaConf.to_container(cfg, resolve=False), f"{where}: ", ":")
    return tp.cast(dict, OmegaConf.to_container(cfg, resolve=True))


def portable(content: JsonValue) -> JsonValue:
    """Return the content without what names the machine it was trained on: its sections, and every path."""
    if isinstance(content, dict):
        return {key: portable(value) for key, value in content.items() if key not in MACHINE}
    if isinstance(content, list):
        return [portable(value) for value in content]
    return None if isinstance(content, str) and names_a_path(content) else content


def names_a_path(text: str) -> bool:
    """Return whether a text holds an absolute path, one that leaves its folder, or one that exists here."""
    if text.startswith(_SCHEMES):
        return bool(_PARENT.search(text))
    if _ABSOLUTE.search(text) or _PARENT.search(text):
        return True
    try:
        return "/" in text and Path(text).exists()
    except (OSError, ValueError):  # longer than a path can be, or with a null byte
        return False


def _refuse_interpolations(value: object, where: str, mark: str) -> None:
    if isinstance(value, dict):
        for key, child in value.items():
            _refuse_interpolations(key, where, mark)
            _refuse_interpolations(child, f"{where}{'' if where.endswith(' ') else '.'}{key}", mark)
    elif isinstance(value, list):
        for child in value:
            _refuse_interpolations(child, where, mark)
    elif isinstance(value, str) and "${" in value and mark in value:
        raise ValueError(f"{where} refused: {value[:60]!r} is an interpolation; give the value itself")


def _check(content: dict, known: dict, prefix: str, path: Path, free: set[str], inside: bool = False) -> None:
    for key, value in content.items():
        name = f"{prefix}{key}"
        is_free = inside or name in free
        if key not in known and name not in TYPES and not is_free:
            raise ValueError(f"{path}: unknown key {name!r}: remove it, or load the model where that key is known")
        default = known.get(key)
        _check_type(value, default, name, path)
        if isinstance(value, dict):
            _check(value, default if isinstance(default, dict) else {}, f"{name}.", path, free, is_free)


def _check_type(value: object, default: object, name: str, path: Path) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path}: {name} must be a finite number, got {value!r}")
    expected = TYPES.get(name) or _types(default)
    if value is None or expected is None or name.startswith(("evaluate.", "optim.", "schedule.")):
        return
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        kinds = " or ".join(kind.__name__ for kind in expected)
        raise ValueError(f"{path}: {name} must be {kinds}, got {value!r:.80}")
    if isinstance(value, list) and isinstance(default, list) and default:
        for item in value:
            _check_type(item, default[0], f"{name}[]", path)


def _types(default: object) -> tuple[type, ...] | None:
    if default is None or default == "???":
        return None
    return (int, float) if isinstance(default, (int, float)) and not isinstance(default, bool) else (type(default),)


@functools.cache
def _known() -> JsonObject:
    """Return every key of the recipes with its default."""
    known: object = {}
    for recipe in ("qamdt/playground", "qamdt"):
        known = _merged(known, OmegaConf.to_container(compose_config(f"solver={recipe}")))
    return tp.cast("JsonObject", known)


def _merged(first: object, second: object) -> object:
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: _merged(first.get(key), second.get(key)) for key in first | second}
    if isinstance(second, str) and "${" in second:  # of the type of what it refers to, which nothing says here
        return None
    return first if second is None else second
