"""Keeping a part of a clip while the rest is generated (continuation, inpainting)."""

from __future__ import annotations

import torch
from torch import Tensor

from .objective import Schedule
from .samplers import Denoise


def keeping(denoise: Denoise, known: Tensor, kept: Tensor, schedule: Schedule) -> Denoise:
    """Return a denoiser that answers with the truth where it is known, so that any sampler arrives there.

    The frames that are kept hence hold, at every step, the known latents at that step's noise level, and the network
    sees them so (the replacement of RePaint, arXiv 2201.09865, eq. 8, without its resampling).

    Args:
        denoise: the network, with guidance.
        known: latents [B, C, T, F]; where they are not kept, anything.
        kept: [T], true for frames to keep.
        schedule: as in training.
    """
    frames = kept.to(known.device)[:, None]  # [T, 1]

    def truth(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.scales(t)
        return schedule.target(known, (x - alpha * known) / sigma, alpha, sigma)

    def denoise_rest(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(frames, truth(x, t), denoise(x, t).float())

    return denoise_rest
