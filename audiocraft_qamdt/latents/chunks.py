"""Encoding and decoding long clips in memory that does not grow with their length."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.windows import plan_windows
from .codec import LatentCodec


def decode_long(codec: LatentCodec, latents: Tensor, samples: int, window: int, overlap: int) -> Tensor:
    """Decode latents of any length, `window` frames at a time, crossfading where chunks overlap.

    Args:
        latents: [B, C, T, F].
        samples: length wanted.
        window: frames decoded at once.
        overlap: frames that neighbouring chunks share. The outer quarters, where a chunk does not know what comes
            next, are not used; the middle is crossfaded.
    Returns:
        Audio [B, channels, samples], float32, on the CPU.
    """
    frames, hop = latents.shape[2], codec.hop_length
    if frames <= window:
        return codec.decode(latents, samples).float().cpu()
    audio = torch.zeros(len(latents), codec.channels, frames * hop)
    weight = torch.zeros(frames * hop)
    for start, stop in plan_windows(frames, window, window - overlap):
        fade = _fade((stop - start) * hop, overlap * hop, start > 0, stop < frames)
        part = codec.decode(latents[:, :, start:stop]).float().cpu()
        audio[..., start * hop : stop * hop] += fade * part
        weight[start * hop : stop * hop] += fade
    return F.pad((audio / weight)[..., :samples], (0, max(0, samples - frames * hop)))


def encode_long(codec: LatentCodec, audio: Tensor, window: int, overlap: int) -> Tensor:
    """Encode audio of any length, `window` frames at a time, each part of it with what is beside it.

    Args:
        audio: [B, channels, S].
        window: frames encoded at once.
        overlap: frames that neighbouring chunks share; each is taken from the chunk that knows more of what is around.
    Returns:
        Latents [B, C, T, F], on the codec's device.
    """
    frames, hop = codec.num_frames(audio.shape[-1]), codec.hop_length
    chunks = plan_windows(frames, window, window - overlap)
    edges = [0, *((stop + start) // 2 for (_, stop), (start, _) in itertools.pairwise(chunks)), frames]
    parts = []
    for (start, stop), (first, last) in zip(chunks, itertools.pairwise(edges), strict=True):
        latents = codec.encode(audio[..., start * hop : stop * hop].to(codec.statistics.mean.device))
        parts.append(latents[:, :, first - start : last - start])
    return torch.cat(parts, dim=2)


def _fade(length: int, overlap: int, fade_in: bool, fade_out: bool) -> Tensor:
    ramp = ((torch.arange(length) + 0.5 - overlap / 4) / max(1, overlap / 2)).clamp(0, 1)
    ones = torch.ones(length)
    return (ramp if fade_in else ones) * (ramp.flip(0) if fade_out else ones)
