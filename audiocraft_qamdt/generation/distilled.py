"""What a model of few steps can be asked for: its own steps, and guidance's weights within what it was trained for."""

from __future__ import annotations

from dataclasses import dataclass

from .params import GenerationParams

FIXED = (
    "steps",
    "sampler",
    "negative_prompt",
    "null_level",
    "null_prefix",
    "guidance_interval",
    "guidance_rescale",
    "apg_eta",
    "apg_norm",
    "apg_momentum",
)
"""Settings that are inside such a model."""


@dataclass(frozen=True)
class Distilled:
    """Training of a model with guidance inside (`solver=qamdt/distill`).

    Args:
        text_scale, quality_scale: least and largest weight of the text and of quality.
        recipe: settings that it was trained for; those in `FIXED` cannot be changed.
    """

    text_scale: tuple[float, float]
    quality_scale: tuple[float, float]
    recipe: GenerationParams

    def weights(self, params: GenerationParams) -> tuple[float, float]:
        """Return the weights of text and quality that settings ask for."""
        guidance = params.guidance
        quality = guidance.guidance_scale if guidance.quality_scale is None else guidance.quality_scale
        return guidance.guidance_scale, quality

    def check(self, params: GenerationParams) -> None:
        """Refuse settings that the model cannot follow.

        Raises:
            ValueError: naming the setting, and what the model was trained for.
        """
        asked, own = params.to_dict(), self.recipe.to_dict()
        for name in FIXED:
            if _plain(asked[name]) != _plain(own[name]):
                raise ValueError(
                    f"{name}={asked[name]!r}: this model was distilled for {name}={own[name]!r}, which is inside it: "
                    "leave that setting, or use the model that it was made from"
                )
        weights = zip(self.weights(params), (self.text_scale, self.quality_scale), strict=True)
        for name, (weight, (least, most)) in zip(("guidance_scale", "quality_scale"), weights, strict=True):
            if not least <= weight <= most:
                raise ValueError(
                    f"{name}={weight:g}: this model has guidance inside, with weights from {least:g} to {most:g}: "
                    "choose one of these, or use the model that it was made from"
                )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
