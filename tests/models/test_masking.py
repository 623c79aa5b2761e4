from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.models.masking import MASKS, TokenMask, draw_mask, mask_from_noise, time_frequency_mask

GRIDS = [(64, 16), (64, 1), (16, 4), (9, 5), (8, 8), (3, 40), (250, 1), (2, 2)]


def check(mask: TokenMask, batch: int, tokens: int) -> None:
    """Both views of a mask tell the same, and every item hides the same number of tokens."""
    assert mask.hidden.shape == (batch, tokens)
    assert mask.hidden.dtype == torch.bool
    assert (mask.visible.diff(dim=1) > 0).all()
    rebuilt = torch.ones_like(mask.hidden).scatter(1, mask.visible, False)
    assert torch.equal(rebuilt, mask.hidden)


@pytest.mark.parametrize("tokens", [10, 64, 1024])
@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.3, 0.5, 0.9])
def test_exactly_the_published_share_stays_visible(tokens, ratio, generator):
    mask = mask_from_noise(torch.rand(3, tokens, generator=generator), ratio)
    check(mask, 3, tokens)
    assert mask.visible.shape[1] == int(torch.tensor(tokens) * (1 - torch.tensor(ratio)))


def test_the_smallest_noise_stays_visible():
    mask = mask_from_noise(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), 0.5)
    assert mask.visible.tolist() == [[1, 3]]
    assert mask.hidden.tolist() == [[True, False, True, False]]


def test_a_ratio_in_a_tensor_means_the_same(generator):
    noise = torch.rand(2, 100, generator=generator)
    as_float, as_tensor = mask_from_noise(noise, 0.37), mask_from_noise(noise, torch.tensor([0.37]))
    assert torch.equal(as_float.visible, as_tensor.visible)


@pytest.mark.parametrize("ratio", [1.0, 0.99, -0.2])
def test_a_ratio_that_leaves_no_or_too_many_tokens_is_refused(ratio):
    with pytest.raises(ValueError, match="mask ratio"):
        mask_from_noise(torch.rand(1, 10), ratio)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.45, 0.6, 0.8])
def test_time_frequency_hides_whole_lines_and_the_share_within_half_a_line(grid, ratio, generator):
    rows, columns = grid
    noise = torch.rand(4, rows, generator=generator), torch.rand(4, columns, generator=generator)
    mask = time_frequency_mask(*noise, ratio)
    check(mask, 4, rows * columns)
    hidden = mask.hidden.view(4, rows, columns)
    whole_rows, whole_columns = hidden.all(2, keepdim=True), hidden.all(1, keepdim=True)
    assert torch.equal(hidden, whole_rows | whole_columns)
    assert abs(mask.visible.shape[1] - rows * columns * (1 - ratio)) <= min(rows, columns) / 2


def test_time_frequency_hides_both_frames_and_bins_alike(generator):
    mask = time_frequency_mask(torch.rand(1, 64, generator=generator), torch.rand(1, 16, generator=generator), 0.4)
    hidden = mask.hidden.view(64, 16)
    frames, bins = hidden.all(1).float().mean(), hidden.all(0).float().mean()
    assert 0.15 < frames < 0.3
    assert 0.15 < bins < 0.3


def test_time_frequency_hides_the_lines_with_the_largest_noise():
    noise_time, noise_bins = torch.tensor([[0.1, 0.9, 0.2, 0.3]]), torch.tensor([[0.8, 0.1, 0.2, 0.3]])
    hidden = time_frequency_mask(noise_time, noise_bins, 1 - 9 / 16).hidden.view(4, 4)
    assert hidden.all(1).tolist() == [False, True, False, False]
    assert hidden.all(0).tolist() == [True, False, False, False]


def test_with_one_bin_only_frames_are_hidden(generator):
    mask = time_frequency_mask(torch.rand(2, 50, generator=generator), torch.rand(2, 1, generator=generator), 0.3)
    assert mask.visible.shape[1] == 35


@pytest.mark.parametrize("kind", sorted(MASKS))
def test_a_draw_repeats_with_its_generator_and_differs_between_items(kind):
    def draw(seed: int) -> TokenMask:
        mask = draw_mask(kind, 4, (32, 8), 0.5, torch.Generator().manual_seed(seed))
        assert mask is not None
        return mask

    check(draw(1), 4, 256)
    assert torch.equal(draw(1).hidden, draw(1).hidden)
    assert not torch.equal(draw(1).hidden, draw(2).hidden)
    assert not torch.equal(draw(1).hidden[0], draw(1).hidden[1])


def test_a_draw_leaves_the_global_generator_alone(generator):
    state = torch.random.get_rng_state()
    draw_mask("random", 2, (8, 2), (0.3, 0.5), generator)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_range_draws_one_share_per_batch_from_all_of_it(generator):
    shares = []
    for _ in range(200):
        mask = draw_mask("random", 2, (100, 10), (0.3, 0.5), generator)
        assert mask is not None
        shares.append(1 - mask.visible.shape[1] / 1000)
    assert 0.3 <= min(shares) < 0.31
    assert 0.49 < max(shares) <= 0.501
    assert abs(sum(shares) / len(shares) - 0.4) < 0.015


def test_every_token_is_hidden_equally_often(generator):
    counts = torch.zeros(64)
    for _ in range(50):
        mask = draw_mask("random", 20, (16, 4), 0.5, generator)
        assert mask is not None
        counts += mask.hidden.float().sum(0)
    assert (counts / 1000 - 0.5).abs().max() < 0.08


@pytest.mark.parametrize("kind", sorted(MASKS))
def test_nothing_to_hide_is_none(kind, generator):
    assert draw_mask(kind, 2, (8, 4), 0.0, generator) is None


@pytest.mark.parametrize("ratio", [(0.5, 0.3), (0.3, 1.0), -0.1, 1.0])
def test_a_bad_range_is_refused(ratio, generator):
    with pytest.raises(ValueError, match="mask ratio"):
        draw_mask("random", 2, (8, 4), ratio, generator)


def test_an_unknown_kind_is_refused_with_the_known_ones(generator):
    with pytest.raises(ValueError, match="'blocks'; known kinds: random, time_frequency"):
        draw_mask("blocks", 2, (8, 4), 0.5, generator)
