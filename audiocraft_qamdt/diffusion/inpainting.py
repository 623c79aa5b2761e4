"""Keeping a part of a clip while the rest is generated (continuation, inpainting)."""

from __future__ import annotations

import torch
from torch import Tensor

from .objective import NoiseSchedule
from .samplers import Denoise


def keeping(denoise: Denoise, known: Tensor, kept: Tensor, schedule: NoiseSchedule) -> Denoise:
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
    signal = schedule.alphas_cumprod().to(known.device)
    log_sigmas = 0.5 * ((1 - signal) / signal).log()

    def truth(x: Tensor, t: Tensor) -> Tensor:
        if schedule.prediction == "x0":
            return known
        alpha, sigma = _scales(log_sigmas, t)
        noise = (x - alpha * known) / sigma
        return noise if schedule.prediction == "epsilon" else alpha * noise - sigma * known

    def denoise_rest(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(frames, truth(x, t), denoise(x, t).float())

    return denoise_rest


def _scales(log_sigmas: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # Samplers also ask between integer steps, where diffusers' schedulers interpolate the logarithm of σ/α.
    low, high = t.floor().long(), t.ceil().long()
    between = torch.lerp(log_sigmas[low], log_sigmas[high], (t - low).to(log_sigmas.dtype)).view(-1, 1, 1, 1)
    return torch.sigmoid(-2 * between).sqrt(), torch.sigmoid(2 * between).sqrt()
