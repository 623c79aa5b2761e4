"""The network with its conditioners: what the solver trains, averages and saves."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor, nn

from audiocraft_qamdt.utils import prepared

from ..data.attributes import QUALITY
from ..diffusion.guidance import Conditions
from ..models.backbone import Backbone, resample_levels
from ..models.masking import TokenMask
from .conditioners import Level, QualityConditioner
from .fuser import ModelFuser

from audiocraft.modules.conditioners import ConditioningAttributes, ConditioningProvider

CURVE = "curve"
"""Key of the quality along a long clip among its conditions."""


class QAMDTModel(nn.Module):
    """The network plus AudioCraft's conditioning provider.

    Args:
        backbone: the network.
        condition_provider: encodes text and hands over quality levels.
        fuser: maps each condition to its place in the network.
    """

    def __init__(self, backbone: Backbone, condition_provider: ConditioningProvider, fuser: ModelFuser) -> None:
        super().__init__()
        self.backbone = backbone
        self.condition_provider = condition_provider
        self.fuser = fuser

    def encode_conditions(self, attributes: list[ConditioningAttributes]) -> Conditions:
        """Encode attributes in levels (see `data.attributes`) as the conditions that `forward` takes."""
        return self.fuser(self.condition_provider(self.condition_provider.tokenize(attributes)))

    def project_context(self, conditions: Conditions) -> Conditions:
        """Compute the text's keys and values of every block, once per generation; the other conditions stay."""
        context, mask = conditions.get("context"), conditions.get("context_mask")
        if not isinstance(context, Tensor):
            return conditions
        projected = self.backbone.project_context(context, tp.cast("Tensor | None", mask))
        return {**conditions, "context": projected, "context_mask": None}

    def encode_long(self, attributes: list[ConditioningAttributes], frames: int) -> Conditions:
        """Encode attributes of a clip of `frames` frames that is generated in windows (see `window_conditions`)."""
        curves = [tp.cast(Level, item.text.get(f"{QUALITY}_frame")) for item in attributes]
        conditions = self.encode_conditions(attributes)
        if any(isinstance(curve, list) for curve in curves):
            levels = QualityConditioner("frame", device=next(self.parameters()).device).tokenize(curves)
            conditions[CURVE] = resample_levels(levels, frames)  # [B, T]
        return conditions

    def forward(self, x: Tensor, t: Tensor, mask: TokenMask | None = None, **conditions: object) -> Tensor:
        """Predict [B, C, T, F] for noisy latents x [B, C, T, F] at timesteps t [B]; `mask` hides tokens."""
        return self.backbone(x, t, mask=mask, **conditions)


def window_conditions(conditions: Conditions, start: int, stop: int) -> Conditions:
    """Return the conditions of the frames from `start` to `stop`, with the quality of these frames.

    As in training, where every condition describes the segment that was cut.
    """
    own = {key: value for key, value in conditions.items() if key != CURVE}
    whole = conditions.get(CURVE)
    if not isinstance(whole, Tensor):
        return own
    curve = whole[:, start:stop]  # [B, window]
    known = curve >= 1
    mean = torch.where(known, curve, 0).sum(dim=1) / known.sum(dim=1).clamp(min=1)  # [B]
    along: dict[str, Tensor] = {"clip": mean, "adaln": mean, "frame": curve}
    quality = tp.cast("dict[str, Tensor]", conditions["quality"])
    own["quality"] = {name: along.get(name, levels) for name, levels in quality.items()}
    return own
