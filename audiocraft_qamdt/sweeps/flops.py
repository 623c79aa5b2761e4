"""Count the operations of an update with masked tokens and without, for comparisons at equal compute."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from .. import builders
from ..models.masking import TokenMask, draw_mask
from ..models.mdt import MaskedDiffusionTransformer
from ..utils.randomness import keyed_generator

DRAWS = 16
"""Shares of masked tokens that a range is averaged over."""

TEXT_TOKENS = 32


def forward_flops(model: MaskedDiffusionTransformer, frames: int, mask: TokenMask | None = None) -> int:
    """Count the operations of matrix products and attention in one forward pass, as PyTorch does.

    Args:
        model: on the meta device: nothing is computed.
        frames: latent frames of the clip.
        mask: of one item; None = no masking.
    """
    latents = torch.zeros(1, model.latent_channels, frames, model.latent_bins, device="meta")
    text = torch.zeros(1, TEXT_TOKENS, model.context_embed.in_features, device="meta")
    hidden = None if mask is None else TokenMask(mask.hidden.to("meta"), mask.visible.to("meta"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(latents, torch.zeros(1, device="meta"), text, mask=hidden)
    return counter.get_total_flops()


def masked_share(cfg: DictConfig) -> float:
    """Return the cost of a training update with the recipe's masking relative to one without.

    The backward pass costs twice the forward pass in both, so that the ratio is that of the forward passes.
    """
    codec = builders.get_codec(cfg.latents)
    with torch.device("meta"):
        model = builders.get_backbone(cfg, codec)
    if not isinstance(model, MaskedDiffusionTransformer):
        return 1.0  # nothing is hidden
    model, frames = model.to("meta"), builders.latent_frames(cfg, codec)
    low, high = cfg.masking.ratio, cfg.masking.ratio + cfg.masking.spread
    costs = []
    for draw in range(DRAWS if high > low else 1):
        ratio = low + (high - low) * (draw + 0.5) / DRAWS if high > low else low
        mask = draw_mask(cfg.masking.kind, 1, model.grid(frames), ratio, keyed_generator("flops", draw))
        costs.append(forward_flops(model, frames, mask))
    return sum(costs) / len(costs) / forward_flops(model, frames)
