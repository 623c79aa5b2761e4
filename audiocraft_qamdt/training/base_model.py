"""Recipes that start from a whole model: an adapter (LoRA), or a student of few steps."""

from __future__ import annotations

import typing as tp
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from audiocraft_qamdt.utils import prepared

from ..checkpoints import loading, store
from ..conditioning.lora import LoraSettings, TrainedPart, add_lora
from ..conditioning.model import QAMDTModel
from ..utils.reading import JsonObject

from audiocraft.utils.utils import dict_from_config

_OF_BASE = (
    "sample_rate",
    "channels",
    "backbone",
    "mdt",
    "unet",
    "latents",
    "diffusion",
    "conditioners",
    "fuser",
    "quality",
)
"""Config keys that an adapter's run takes from the model that it is for: what its weights mean depends on them."""
_OF_BASE_UNLESS_GIVEN = ("masking", "classifier_free_guidance", "condition_dropout", "mdt.checkpointing")
_NOT_OF_BASE = ("quality.noise_range",)
"""Keys below those of the model that are about its training data, and not about what its weights mean."""
_RANGES = ("distill.text_scale", "distill.quality_scale")


def adopt_base(cfg: DictConfig, xp_cfg: DictConfig, given: tp.Sequence[str]) -> store.TrainedModel:
    """Read the model of `continue_from` (null = the package's) and give its keys to the config of a recipe on it.

    Args:
        cfg: the solver's.
        xp_cfg: the experiment's, which samples and checkpoints read: another object under `dora run`.
        given: overrides of the command line.
    Raises:
        ValueError: naming an override of a key that comes from the model, or a model that has guidance inside.
    """
    recipe = recipe_from_base(cfg)
    name = (cfg.continue_from or str(store.EMBEDDED)).removeprefix("//pretrained/")
    base = loading.load(name)
    chosen = [override.lstrip("+~").partition("=")[0] for override in given]
    for key in chosen:
        unless_given = _is_in(key, (*_OF_BASE_UNLESS_GIVEN, *_NOT_OF_BASE))
        if not unless_given and (_is_in(key, _OF_BASE) or key in ("model", "conditioner", "qamdt")):
            raise ValueError(f"{key}=: with {recipe} it comes from the model ({name}): drop that override")
    _check_student(cfg, base.cfg, f"continue_from={name}", chosen)
    for each in (cfg, xp_cfg):
        _adopt(each, base, chosen)
        each.mdt.guidance_inputs = cfg.distill.use
        each.continue_from = str(Path(name).resolve()) if Path(name).exists() else name
    return base


def _check_student(cfg: DictConfig, base: DictConfig, source: str, chosen: tp.Sequence[str]) -> None:
    """Refuse a model of few steps where one of more is needed: as a teacher, it can only do what it learned."""
    if not OmegaConf.select(base, "distill.use"):
        return
    needed = cfg.distill.steps * cfg.distill.teacher_steps
    if not cfg.distill.use:
        raise ValueError(
            f"{source} was made for few steps, and {recipe_from_base(cfg)} needs a model of many: give its teacher"
        )
    if base.distill.steps != needed:
        raise ValueError(
            f"{source} takes {base.distill.steps} steps, but distill.steps={cfg.distill.steps} times "
            f"distill.teacher_steps={cfg.distill.teacher_steps} are {needed}: set them so that their product is "
            f"{base.distill.steps}, or give its teacher"
        )
    for key in _RANGES:
        (least, most), (lowest, highest) = OmegaConf.select(cfg, key), OmegaConf.select(base, key)
        if key in chosen and (least < lowest or most > highest):
            raise ValueError(
                f"{key}=[{least:g}, {most:g}]: {source} knows weights from {lowest:g} to {highest:g}: stay within "
                "them, or give its teacher"
            )


def recipe_from_base(cfg: DictConfig) -> str:
    """Return what is typed for the recipe of a config that starts from a whole model."""
    return "solver=qamdt/distill" if cfg.distill.use else "solver=qamdt/lora"


def _adopt(cfg: DictConfig, base: store.TrainedModel, chosen: tp.Sequence[str]) -> None:
    kept = [*(key for key in chosen if _is_in(key, _OF_BASE_UNLESS_GIVEN)), *_NOT_OF_BASE]
    own = {key: OmegaConf.select(cfg, key) for key in kept}
    with open_dict(cfg):
        for key in (*_OF_BASE, *_OF_BASE_UNLESS_GIVEN[:-1]):
            if key in base.cfg:
                is_section = isinstance(base.cfg[key], DictConfig)
                cfg[key] = OmegaConf.merge(cfg[key], base.cfg[key]) if is_section else base.cfg[key]
        if cfg.distill.use and OmegaConf.select(base.cfg, "distill.use"):
            for key in set(_RANGES) - set(chosen):  # a student of few steps teaches the weights that it knows
                OmegaConf.update(cfg, key, OmegaConf.select(base.cfg, key))
        for key, value in own.items():
            OmegaConf.update(cfg, key, value)
        for key in ("segment_duration", "min_segment_ratio"):
            if cfg.dataset[key] is None:
                cfg.dataset[key] = base.cfg.dataset[key]
        if base.quality_statistics:  # levels mean what they meant to the model, whatever the new tracks are like
            cfg.quality.statistics = base.quality_statistics


def _is_in(key: str, sections: tp.Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def get_lora(model: QAMDTModel, cfg: DictConfig) -> tuple[TrainedPart, JsonObject]:
    """Freeze a model and give it the adapter of a `lora` config; see `add_lora`."""
    options = dict_from_config(cfg.lora)
    options.pop("use")
    return add_lora(model, LoraSettings(**{**options, "targets": tuple(options["targets"])}), cfg.continue_from)
