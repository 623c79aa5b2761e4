"""Windows: they cover the clip, their averages are exact, and no seam is left where they meet."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiocraft_qamdt.diffusion.windows import plan_windows, window_weights, windowed


@given(st.integers(1, 300), st.integers(1, 80), st.data())
def test_windows_cover_the_clip_and_are_all_of_one_size(length, window, data):
    windows = plan_windows(length, window, data.draw(st.integers(1, window)))
    assert windows[0][0] == 0
    assert windows[-1][1] == length
    assert all(stop - start == min(window, length) for start, stop in windows)
    assert all(after[0] <= before[1] and after[0] > before[0] for before, after in pairwise(windows))


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(ValueError, match=f"stride={stride}"):
        plan_windows(100, 16, stride)


def whole(conditions, start, stop):
    return conditions


@pytest.mark.parametrize("length, window, stride", [(100, 16, 8), (37, 16, 5), (20, 16, 16), (16, 16, 8)])
def test_a_network_that_looks_at_single_frames_is_not_changed(length, window, stride, generator):
    x = torch.randn(2, 3, length, 4, generator=generator)
    predict = windowed(lambda x, t: 2 * x + 1, plan_windows(length, window, stride), whole)
    assert torch.allclose(predict(x, torch.zeros(2)), 2 * x + 1, atol=1e-5)


def test_no_evaluation_is_longer_than_the_window():
    seen = []

    def network(x, t):
        seen.append(tuple(x.shape))
        return x

    windowed(network, plan_windows(1000, 16, 8), whole)(torch.zeros(2, 1, 1000, 1), torch.zeros(2))
    assert set(seen) == {(2, 1, 16, 1)}
    assert len(seen) == 124


def test_windows_that_disagree_are_crossed_over_gradually():
    """Each window says its number: between neighbours the average changes by no more than the ramp's slope."""
    count = iter(range(100))
    windows = plan_windows(64, 16, 8)
    said = windowed(lambda x, t: torch.full_like(x, next(count)), windows, whole)(
        torch.zeros(1, 1, 64, 1), torch.zeros(1)
    )
    steps = said.flatten().diff()
    assert steps.abs().max() <= 1 / 8 + 1e-5
    assert said.flatten()[-1] == len(windows) - 1


def test_weights_ramp_at_inner_ends_only():
    assert window_weights(0, 8, 20, 4)[0] == 1
    assert window_weights(12, 20, 20, 4)[-1] == 1
    middle = window_weights(6, 14, 20, 4)
    assert torch.equal(middle, middle.flip(0))
    assert middle.min() > 0
    assert middle[3] < 1 <= middle.max() + 0.2


def test_each_window_gets_its_own_conditions():
    def cut(conditions, start, stop):
        return {"level": conditions["level"][:, start:stop]}

    levels = torch.arange(40.0).expand(2, 40)
    predict = windowed(lambda x, t, level: level[:, None, :, None].expand_as(x), plan_windows(40, 16, 8), cut)
    said = predict(torch.zeros(2, 1, 40, 1), torch.zeros(2), level=levels)
    assert torch.allclose(said[:, 0, :, 0], levels, atol=1e-4)
