"""Settings of generation in a solver's config: `generate.<knob>`, or AudioCraft's key for it."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from ..utils.reading import JsonObject
from .params import KNOBS

ALIASES: dict[str, str] = {
    "guidance_scale": "classifier_free_guidance.inference_coef",
    "quality_scale": "classifier_free_guidance.quality_coef",
    "guidance_rescale": "classifier_free_guidance.rescale",
    "apg_eta": "classifier_free_guidance.apg_eta",
    "apg_norm": "classifier_free_guidance.apg_norm",
    "apg_momentum": "classifier_free_guidance.apg_momentum",
    "null_level": "quality.null_level",
    "null_prefix": "quality.null_prefix",
    "duration": "generate.lm.gen_duration",
}
"""Knob → the key that holds it where `generate.<knob>` is null."""


def generation_settings(cfg: DictConfig) -> JsonObject:
    """Return the knobs that a solver's config sets, without those that are null or were added after it was written."""
    settings = {
        "duration": cfg.dataset.segment_duration,
        "guidance_interval": (cfg.classifier_free_guidance.start, cfg.classifier_free_guidance.stop),
    }
    for name in KNOBS:
        for key in (ALIASES.get(name), f"generate.{name}"):
            value = None if key is None else OmegaConf.select(cfg, key)
            if value is not None:
                settings[name] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return settings
