"""Clips longer than the network takes: windows that overlap, denoised together (MultiDiffusion, arXiv 2302.08113)."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor

from .guidance import Conditions, Predict

Cut = tp.Callable[[Conditions, int, int], Conditions]
"""cut(conditions, start, stop) -> the conditions of the frames from start to stop."""


def plan_windows(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """Return windows (start, stop) that cover `length` frames, the last one ending with them.

    Args:
        length, window: frames of the clip and of a window.
        stride: frames from one start to the next, at most `window`.
    Raises:
        ValueError: a stride that leaves gaps.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride} frames: windows of {window} frames take a stride between 1 and {window}")
    if length <= window:
        return [(0, length)]
    starts = [*range(0, length - window, stride), length - window]
    return [(start, start + window) for start in starts]


def window_weights(start: int, stop: int, length: int, overlap: int, device: torch.device | str = "cpu") -> Tensor:
    """Return each frame's weight in a window [stop - start]: ramps over `overlap` frames, except at the clip's ends."""
    size = stop - start
    ramp = (torch.arange(size, device=device) + 0.5) / max(1, overlap)
    rising = ramp if start > 0 else torch.ones_like(ramp)
    falling = ramp.flip(0) if stop < length else torch.ones_like(ramp)
    return torch.minimum(rising, falling).clamp(max=1)


def windowed(predict: Predict, windows: tp.Sequence[tuple[int, int]], cut: Cut) -> Predict:
    """Return the network over a whole clip: evaluated window by window, the predictions averaged where windows overlap.

    Activations are those of one window at a time.

    Args:
        predict: the network for [B, C, window, F].
        windows: see `plan_windows`.
        cut: conditions of one window.
    """
    length = windows[-1][1]
    overlap = windows[0][1] - windows[1][0] if len(windows) > 1 else 0  # the last two may share more

    def predict_all(x: Tensor, t: Tensor, **conditions: object) -> Tensor:
        total = torch.zeros(x.shape, device=x.device)
        weight = torch.zeros(length, 1, device=x.device)
        for start, stop in windows:
            part = predict(x[:, :, start:stop], t, **cut(conditions, start, stop)).float()  # [B, C, window, F]
            ramp = window_weights(start, stop, length, overlap, x.device)[:, None]
            total[:, :, start:stop] += ramp * part
            weight[start:stop] += ramp
        return total / weight

    return predict_all
