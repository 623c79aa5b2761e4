"""The network with its conditioners: what the solver trains, averages and saves."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor, nn

from audiocraft_qamdt.utils import prepared

from ..data.attributes import QUALITY
from ..models.backbone import Backbone, resample_levels
from ..models.masking import TokenMask
from .conditioners import QualityConditioner
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

    def encode_conditions(self, attributes: list[ConditioningAttributes]) -> dict[str, tp.Any]:
        """Attributes in levels (see `data.attributes`) to the conditions that `forward` takes."""
        return self.fuser(self.condition_provider(self.condition_provider.tokenize(attributes)))

    def project_context(self, conditions: dict[str, tp.Any]) -> dict[str, tp.Any]:
        """The same conditions with the text's keys and values of every block computed: once per generation."""
        if conditions.get("context") is None:
            return conditions
        projected = self.backbone.project_context(conditions["context"], conditions["context_mask"])
        return {**conditions, "context": projected, "context_mask": None}

    def encode_long(self, attributes: list[ConditioningAttributes], frames: int) -> dict[str, tp.Any]:
        """As `encode_conditions`, for a clip of `frames` frames that is made in windows (see `window_conditions`)."""
        curves: list[tp.Any] = [item.text.get(f"{QUALITY}_frame") for item in attributes]
        conditions = self.encode_conditions(attributes)
        if any(isinstance(curve, list) for curve in curves):
            levels = QualityConditioner("frame", device=next(self.parameters()).device).tokenize(curves)
            conditions[CURVE] = resample_levels(levels, frames)  # [B, T]
        return conditions

    def forward(self, x: Tensor, t: Tensor, mask: TokenMask | None = None, **conditions: tp.Any) -> Tensor:
        """Prediction [B, C, T, F] for noisy latents x [B, C, T, F] at timesteps t [B]; `mask` hides tokens."""
        return self.backbone(x, t, mask=mask, **conditions)


def window_conditions(conditions: dict[str, tp.Any], start: int, stop: int) -> dict[str, tp.Any]:
    """Conditions of the frames from `start` to `stop`, each window being told its own quality where that changes.

    As in training, where every condition describes the segment that was cut.
    """
    own = {key: value for key, value in conditions.items() if key != CURVE}
    if CURVE not in conditions:
        return own
    curve = conditions[CURVE][:, start:stop]  # [B, window]
    known = curve >= 1
    mean = torch.where(known, curve, 0).sum(dim=1) / known.sum(dim=1).clamp(min=1)  # [B]
    along: dict[str, Tensor] = {"clip": mean, "adaln": mean, "frame": curve}
    own["quality"] = {name: along.get(name, levels) for name, levels in conditions["quality"].items()}
    return own
