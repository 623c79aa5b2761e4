"""Draw the tokens that are masked in training, from the caller's noise or generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class TokenMask(NamedTuple):
    """The same number of hidden tokens in every item of a batch, so that all shapes are known on the host.

    Attributes:
        hidden: bool [B, P], True = hidden from the encoder.
        visible: long [B, K], indices of the visible tokens, ascending.
    """

    hidden: Tensor
    visible: Tensor


def mask_from_noise(noise: Tensor, ratio: float | Tensor) -> TokenMask:
    """Keep the ⌊P (1 − ratio)⌋ tokens with the smallest noise visible: the published rule, in float32 as there.

    Args:
        noise: uniform noise [B, P].
        ratio: share of tokens to hide, in [0, 1); a tensor with one element is read on the host.
    Raises:
        ValueError: if no token would stay visible, or the ratio is negative.
    """
    tokens = noise.shape[1]
    visible = int(tokens * (1 - torch.as_tensor(ratio, dtype=torch.float32)))
    if not 0 < visible <= tokens:
        raise ValueError(f"mask ratio {float(ratio)} leaves {visible} of {tokens} tokens visible; it must be in [0, 1)")
    return _mask_of(noise.argsort(dim=1)[:, :visible], tokens)


def time_frequency_mask(noise_time: Tensor, noise_bins: Tensor, ratio: float | Tensor) -> TokenMask:
    """Hide whole frames and whole bins of the token grid: those with the largest noise.

    Every item has the same number of each. Among the splits whose number of masked tokens is within half a line (a
    row or a column, whichever is shorter) of what `ratio` asks for, it is the one with the most similar shares of
    frames and of bins.

    Args:
        noise_time: uniform noise per row of the token grid [B, H].
        noise_bins: uniform noise per column [B, W]; with W = 1 only frames are hidden.
        ratio: share of tokens to hide, in [0, 1); a tensor with one element is read on the host.
    Raises:
        ValueError: if the ratio is not in [0, 1).
    """
    rows, columns = _visible_split(noise_time.shape[1], noise_bins.shape[1], float(ratio))
    frames = noise_time.argsort(dim=1)[:, :rows]  # [B, rows]
    bins = noise_bins.argsort(dim=1)[:, :columns]  # [B, columns]
    visible = (frames.unsqueeze(2) * noise_bins.shape[1] + bins.unsqueeze(1)).flatten(1)  # [B, rows * columns]
    return _mask_of(visible, noise_time.shape[1] * noise_bins.shape[1])


def draw_mask(
    kind: str,
    batch: int,
    grid: tuple[int, int],
    ratio: float | tuple[float, float],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> TokenMask | None:
    """Draw the mask of one training step.

    Args:
        kind: a name in `MASKS`: "random" or "time_frequency".
        batch: number of items.
        grid: rows (time) and columns (bins) of the token grid.
        ratio: share of tokens to hide, or a range from which one share per batch is drawn uniformly (published: 0.3 to
            0.5).
        generator: source of all randomness, on any device.
        device: where the mask is wanted.
    Returns:
        The mask, or None where nothing would be hidden.
    Raises:
        ValueError: for an unknown kind, or a range that is not ascending within [0, 1).
    """
    if kind not in MASKS:
        raise ValueError(f"unknown mask kind {kind!r}; known kinds: {', '.join(sorted(MASKS))}")
    low, high = (ratio, ratio) if isinstance(ratio, (int, float)) else ratio
    if not 0 <= low <= high < 1:
        raise ValueError(f"mask ratio {ratio} is not a share, or an ascending range of shares, in [0, 1)")
    share = low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))
    mask = MASKS[kind](batch, grid, share, generator)
    if mask.visible.shape[1] == mask.hidden.shape[1]:
        return None
    return TokenMask(mask.hidden.to(device), mask.visible.to(device))


def _mask_of(visible: Tensor, tokens: int) -> TokenMask:
    hidden = torch.ones(visible.shape[0], tokens, dtype=torch.bool, device=visible.device)
    return TokenMask(hidden.scatter_(1, visible, False), visible.sort(dim=1).values)


def _visible_split(rows: int, columns: int, ratio: float) -> tuple[int, int]:
    """Return the number of rows and of columns that stay visible."""
    if not 0 <= ratio < 1:
        raise ValueError(f"mask ratio {ratio} must be in [0, 1)")
    target = rows * columns * (1 - ratio)

    def badness(split: tuple[int, int]) -> tuple[bool, float, float]:
        error = abs(split[0] * split[1] - target)
        return error > min(rows, columns) / 2, abs(split[0] / rows - split[1] / columns), error

    splits = [(min(max(round(target / kept), 1), rows), kept) for kept in range(1, columns + 1)]
    return min(splits, key=badness)


def _uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _random(batch: int, grid: tuple[int, int], ratio: float, generator: torch.Generator) -> TokenMask:
    return mask_from_noise(_uniform((batch, grid[0] * grid[1]), generator), ratio)


def _time_frequency(batch: int, grid: tuple[int, int], ratio: float, generator: torch.Generator) -> TokenMask:
    return time_frequency_mask(_uniform((batch, grid[0]), generator), _uniform((batch, grid[1]), generator), ratio)


MASKS: dict[str, Callable[[int, tuple[int, int], float, torch.Generator], TokenMask]] = {
    "random": _random,
    "time_frequency": _time_frequency,
}
