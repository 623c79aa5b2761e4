"""The network with its conditioners: what the solver trains, averages and saves."""

from __future__ import annotations

import typing as tp

from torch import Tensor, nn

from .compat import prepare
from .conditioners import ModelFuser
from .models.masking import TokenMask
from .models.mdt import MaskedDiffusionTransformer

prepare()

from audiocraft.modules.conditioners import ConditioningAttributes, ConditioningProvider  # noqa: E402


class QAMDTModel(nn.Module):
    """Masked diffusion transformer plus AudioCraft's conditioning provider.

    Args:
        backbone: the network.
        condition_provider: encodes text and hands over quality levels.
        fuser: says which condition enters where.
    """

    def __init__(
        self, backbone: MaskedDiffusionTransformer, condition_provider: ConditioningProvider, fuser: ModelFuser
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.condition_provider = condition_provider
        self.fuser = fuser

    def encode_conditions(self, attributes: list[ConditioningAttributes]) -> dict[str, tp.Any]:
        """Attributes in levels (see `conditioners.to_levels`) to the conditions that `forward` takes."""
        return self.fuser(self.condition_provider(self.condition_provider.tokenize(attributes)))

    def project_context(self, conditions: dict[str, tp.Any]) -> dict[str, tp.Any]:
        """The same conditions with the text's keys and values of every block computed: once per generation."""
        if conditions.get("context") is None:
            return conditions
        projected = self.backbone.project_context(conditions["context"], conditions["context_mask"])
        return {**conditions, "context": projected, "context_mask": None}

    def forward(self, x: Tensor, t: Tensor, mask: TokenMask | None = None, **conditions: tp.Any) -> Tensor:
        """Prediction [B, C, T, F] for noisy latents x [B, C, T, F] at timesteps t [B]; `mask` hides tokens."""
        return self.backbone(x, t, mask=mask, **conditions)
