from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from audiocraft_qamdt.models.patching import PatchEmbed, patch_grid, unpatchify

LAYOUTS = [
    # frames, bins, patch, overlap
    (32, 8, (4, 1), (0, 0)),
    (32, 8, (4, 4), (2, 2)),
    (34, 8, (4, 4), (1, 0)),
    (33, 7, (4, 4), (1, 2)),  # an odd number of padded frames: more after than before
    (10, 5, (4, 2), (0, 1)),
    (7, 1, (3, 1), (2, 0)),
    (5, 5, (5, 5), (4, 4)),
    (9, 16, (2, 16), (1, 3)),
]


@pytest.mark.parametrize("frames, bins, patch, overlap", LAYOUTS)
def test_number_of_patches_follows_the_papers_formula(frames, bins, patch, overlap):
    grid = patch_grid(frames, bins, patch, overlap)
    rows = math.ceil((frames - patch[0]) / (patch[0] - overlap[0]) + 1)
    columns = math.ceil((bins - patch[1]) / (patch[1] - overlap[1]) + 1)
    assert grid.shape == (rows, columns)
    assert grid.tokens == rows * columns


@pytest.mark.parametrize("frames, bins, patch, overlap", LAYOUTS)
def test_padding_is_split_in_halves_and_covers_the_latent_exactly(frames, bins, patch, overlap):
    grid = patch_grid(frames, bins, patch, overlap)
    for axis, (before, after) in enumerate((grid.padding[2:], grid.padding[:2])):
        assert after - before in (0, 1)
        assert grid.padded[axis] == (grid.shape[axis] - 1) * grid.stride[axis] + patch[axis]


@pytest.mark.parametrize("frames, bins, patch, overlap", LAYOUTS)
def test_cutting_patches_and_putting_them_back_is_the_identity(frames, bins, patch, overlap, generator):
    channels, area = 3, patch[0] * patch[1]
    x = torch.randn(2, channels, frames, bins, generator=generator)
    embed = PatchEmbed(channels, channels * area, patch, overlap)
    # Output number (frame, bin, channel) of a patch is its value there.
    with torch.no_grad():
        eye = torch.eye(channels * area).view(channels, area, channels, *patch)  # [C, area] out, [C, p_t, p_f] in
        weight, bias = embed.parameters()
        weight.copy_(eye.transpose(0, 1).reshape(weight.shape))
        bias.zero_()
        restored = unpatchify(embed(x), patch_grid(frames, bins, patch, overlap))
    torch.testing.assert_close(restored, x, atol=1e-6, rtol=1e-6)


def test_overlapping_values_are_averaged():
    grid = patch_grid(frames=6, bins=1, patch=(4, 1), overlap=(2, 0))
    values = torch.tensor([[1.0], [3.0]]).expand(2, 4).unsqueeze(0)  # two patches of constant value
    assert unpatchify(values, grid).flatten().tolist() == [1, 1, 2, 2, 3, 3]


def test_tokens_are_time_major_and_values_channels_last(generator):
    x = torch.randn(1, 2, 4, 3, generator=generator)
    grid = patch_grid(4, 3, (2, 1), (0, 0))
    tokens = x.view(2, 2, 2, 3).permute(1, 3, 2, 0).reshape(1, 6, 4)  # (row, column), (frame in patch, channel)
    torch.testing.assert_close(unpatchify(tokens, grid), x)


def test_embedding_is_the_convolution_that_published_weights_are_for(generator):
    embed = PatchEmbed(3, 5, (4, 2), (1, 0))
    x = torch.randn(2, 3, 10, 6, generator=generator)
    tokens = embed(x)
    assert tokens.shape == (2, 9, 5)
    weight, bias = embed.parameters()
    first = torch.einsum("bcij,dcij->bd", x[:, :, :4, :2], weight) + bias
    torch.testing.assert_close(tokens[:, 0], first)
    second_row = torch.einsum("bcij,dcij->bd", x[:, :, 3:7, :2], weight) + bias
    torch.testing.assert_close(tokens[:, 3], second_row)


def test_gradient_of_unpatchify_is_that_of_the_mean(generator):
    grid = patch_grid(7, 5, (4, 3), (2, 1))
    values = torch.randn(1, grid.tokens, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: unpatchify(v, grid), values)


def test_a_latent_smaller_than_a_patch_is_refused_with_the_values():
    with pytest.raises(ValueError, match=r"latent shape that does not fit the patches: 3 frames x 8 bins .* 4 x 1"):
        patch_grid(3, 8, (4, 1), (0, 0))


@pytest.mark.parametrize("overlap, axis", [((4, 0), "frames"), ((0, 2), "bins"), ((-1, 0), "frames")])
def test_an_overlap_that_is_not_smaller_than_the_patch_is_refused(overlap, axis):
    with pytest.raises(ValueError, match=f"patch \\(4, 2\\): in {axis}"):
        PatchEmbed(1, 8, (4, 2), overlap)


def test_fold_agrees_with_torch_unfold(generator):
    grid = patch_grid(12, 9, (4, 3), (2, 1))
    x = torch.randn(2, 3, 12, 9, generator=generator)
    cut = F.unfold(F.pad(x, grid.padding), grid.patch, stride=grid.stride)  # [B, C * area, P]
    values = cut.view(2, 3, -1, grid.tokens).permute(0, 3, 2, 1).flatten(2)
    torch.testing.assert_close(unpatchify(values, grid), x)
