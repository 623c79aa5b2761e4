"""Latents to overlapping patches and back. Tokens are time-major: token = row (time) * columns + column (bin)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class PatchGrid(NamedTuple):
    """Positions of a latent's patches; made by `patch_grid`.

    Attributes:
        size: latent frames and bins (T, F).
        patch: frames and bins of one patch.
        stride: patch minus overlap.
        shape: rows (time) and columns (bins) of tokens (H, W).
        padding: zeros around the latent in the order of `torch.nn.functional.pad`: bins left and right, frames.
    """

    size: tuple[int, int]
    patch: tuple[int, int]
    stride: tuple[int, int]
    shape: tuple[int, int]
    padding: tuple[int, int, int, int]

    @property
    def tokens(self) -> int:
        """Return the number of tokens, H * W."""
        return self.shape[0] * self.shape[1]

    @property
    def padded(self) -> tuple[int, int]:
        """Return the latent frames and bins with the padding."""
        left, right, top, bottom = self.padding
        return self.size[0] + top + bottom, self.size[1] + left + right


def patch_grid(frames: int, bins: int, patch: tuple[int, int], overlap: tuple[int, int]) -> PatchGrid:
    """Lay patches over a latent.

    P = ⌈(T − p_t)/(p_t − o_t) + 1⌉ · ⌈(F − p_f)/(p_f − o_f) + 1⌉ (QA-MDT, arXiv 2405.15863). Where the stride does not
    divide, the latent is padded with zeros: half of them, rounded down, before it, the rest after it.

    Args:
        frames: latent frames T.
        bins: latent bins F.
        patch: frames and bins of one patch.
        overlap: frames and bins that neighbouring patches share.
    Raises:
        ValueError: if an overlap is not smaller than its patch, or the latent is smaller than a patch.
    """
    stride = patch_stride(patch, overlap)
    if frames < patch[0] or bins < patch[1]:
        raise ValueError(
            f"latent shape that does not fit the patches: {frames} frames x {bins} bins is smaller than one patch of "
            f"{patch[0]} x {patch[1]}"
        )
    rows, top, bottom = _axis(frames, patch[0], stride[0])
    columns, left, right = _axis(bins, patch[1], stride[1])
    return PatchGrid((frames, bins), (patch[0], patch[1]), stride, (rows, columns), (left, right, top, bottom))


def patch_stride(patch: tuple[int, int], overlap: tuple[int, int]) -> tuple[int, int]:
    """Return the frames and bins from one patch to the next.

    Raises:
        ValueError: if an overlap is negative or not smaller than its patch.
    """
    for axis, size, shared in zip(("frames", "bins"), patch, overlap, strict=True):
        if not 0 <= shared < size:
            raise ValueError(f"overlap {tuple(overlap)} of patch {tuple(patch)}: in {axis} it must be in [0, {size})")
    return patch[0] - overlap[0], patch[1] - overlap[1]


def _axis(size: int, patch: int, stride: int) -> tuple[int, int, int]:
    """Return the number of patches along an axis, and the padding before and after."""
    count = -(-(size - patch) // stride) + 1
    padding = (count - 1) * stride + patch - size
    return count, padding // 2, padding - padding // 2


class PatchEmbed(nn.Module):
    """Embed overlapping patches of a latent as tokens.

    Args:
        channels: latent channels C.
        dim: width of a token D.
        patch: frames and bins of one patch.
        overlap: frames and bins that neighbouring patches share.
    """

    def __init__(self, channels: int, dim: int, patch: tuple[int, int], overlap: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.overlap = patch, overlap
        self.proj = nn.Conv2d(channels, dim, kernel_size=(patch[0], patch[1]), stride=patch_stride(patch, overlap))

    def grid(self, frames: int, bins: int) -> PatchGrid:
        """Lay out the patches of a latent with this many frames and bins."""
        return patch_grid(frames, bins, self.patch, self.overlap)

    def forward(self, x: Tensor) -> Tensor:
        """Embed x [B, C, T, F] as tokens [B, P, D]."""
        grid = self.grid(x.shape[2], x.shape[3])
        x = self.proj(F.pad(x, grid.padding))  # [B, D, H, W]
        return x.flatten(2).transpose(1, 2)  # [B, P, D]


def unpatchify(values: Tensor, grid: PatchGrid) -> Tensor:
    """Put the patches' values back in their place: the mean where patches overlap, without the padding.

    Args:
        values: [B, P, p_t * p_f * C], frames slowest and channels fastest within a patch, as in the published code.
        grid: where the patches lie.
    Returns:
        Latents [B, C, T, F].
    """
    area = grid.patch[0] * grid.patch[1]
    values = values.unflatten(2, (area, -1)).permute(0, 3, 2, 1).flatten(1, 2)  # [B, C * area, P]
    latents = F.fold(values, grid.padded, grid.patch, stride=grid.stride)  # [B, C, T + padding, F + padding]
    if grid.stride != grid.patch:
        ones = values.new_ones(1, area, grid.tokens)
        latents = latents / F.fold(ones, grid.padded, grid.patch, stride=grid.stride)
    left, _, top, _ = grid.padding
    return latents[:, :, top : top + grid.size[0], left : left + grid.size[1]]
