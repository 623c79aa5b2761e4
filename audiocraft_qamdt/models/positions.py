"""Encode the positions of tokens: fixed sine-cosine tables and rotary angles."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Rotary = tuple[Tensor, Tensor]  # cosine and sine of the angles, each [N, d/2], or [B, 1, N, d/2] where items differ


def sincos_table(dim: int, shape: tuple[int, int], base_size: float, scale: float = 1.0) -> Tensor:
    """Make 2-D sine-cosine positions as in PixArt: half of the channels for the bin, then half for the time.

    Args:
        dim: width D, a multiple of 4.
        shape: rows (time) and columns (bins) of tokens (H, W).
        base_size: both axes are stretched to this length, whatever the number of tokens.
        scale: positions are divided by it (`lewei_scale` in the published code).
    Returns:
        [H * W, D] in float32; computed in float64 from positions in float32, as published.
    """
    rows, columns = (torch.arange(n, dtype=torch.float32) / (n / base_size) for n in shape)
    rows, columns = torch.meshgrid(rows.double() / scale, columns.double() / scale, indexing="ij")  # [H, W] each
    omega = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = [position.reshape(-1, 1) * omega for position in (columns, rows)]  # [H * W, D / 4] each
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1).float()


def rotary_table(
    shape: tuple[int, int], head_dim: int, prefix_tokens: int, scale: float, device: torch.device
) -> Rotary:
    """Make angles of 2-D rotary positions (RoFormer, arXiv 2104.09864): half the channel pairs turn with time.

    Args:
        shape: rows (time) and columns (bins) of tokens (H, W).
        head_dim: width of a head d, a multiple of 4.
        prefix_tokens: tokens before the grid, which are not rotated.
        scale: positions are divided by it.
        device: where the table is wanted.
    Returns:
        Cosine and sine, [prefix_tokens + H * W, d / 2] each, in float32: the pairs of time, then those of the bin.
    """
    omega = 10000 ** (-torch.arange(head_dim // 4, device=device, dtype=torch.float32) / (head_dim // 4))
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32)[:, None] / scale * omega for n in shape)
    grid = (rows.repeat_interleave(shape[1], dim=0), columns.repeat(shape[0], 1))  # [H * W, d / 4] each
    angles = F.pad(torch.cat(grid, dim=1), (0, 0, prefix_tokens, 0))  # [prefix_tokens + H * W, d / 2]
    return angles.cos(), angles.sin()


@lru_cache(maxsize=16)
def cached_rotary_table(
    shape: tuple[int, int], head_dim: int, prefix_tokens: int, scale: float, device: torch.device
) -> Rotary:
    """Return `rotary_table`, computed once for each set of arguments."""
    with torch.inference_mode(False):  # a table first made while generating must serve training too
        return rotary_table(shape, head_dim, prefix_tokens, scale, device)


def take_rotary(rotary: Rotary | None, rows: Tensor) -> Rotary | None:
    """Take the angles of the tokens `rows` [B, N] of each item, [B, 1, N, d / 2]."""
    return None if rotary is None else (rotary[0][rows].unsqueeze(1), rotary[1][rows].unsqueeze(1))


def rotate(x: Tensor, rotary: Rotary | None) -> Tensor:
    """Turn queries or keys x [B, heads, N, d] by their positions, in float32; None = no rotation."""
    if rotary is None:
        return x
    cos, sin = rotary
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
