"""Sine-cosine and rotary positions."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.models.positions import cached_rotary_table, rotary_table, rotate, sincos_table, take_rotary

CPU = torch.device("cpu")


def normal(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def test_sincos_halves_tell_the_bin_and_the_time():
    table = sincos_table(16, (5, 3), base_size=10).view(5, 3, 16)
    assert torch.equal(table[0, :, :8], table[4, :, :8])  # first half: the bin alone
    assert torch.equal(table[:, 0, 8:], table[:, 2, 8:])  # second half: the time alone
    assert table.flatten(0, 1).unique(dim=0).shape[0] == 15


def test_sincos_stretches_axes_to_the_base_size_and_divides_by_the_scale():
    rows = sincos_table(16, (4, 2), base_size=8)[::2, 8:]  # time parts at columns 0
    angles = torch.arange(4) * 8 / 4
    omega = 10000 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(rows[:, :4], (angles[:, None] * omega).sin())
    torch.testing.assert_close(rows[:, 4:], (angles[:, None] * omega).cos())
    torch.testing.assert_close(sincos_table(16, (4, 2), 8, scale=2.0), sincos_table(16, (4, 2), 4))


@pytest.mark.parametrize("offset", [(3, 0), (0, 2), (4, 1)])
def test_rotated_logits_depend_on_the_distance_alone(offset, generator):
    rows, columns, head_dim = 9, 4, 16
    rotary = rotary_table((rows, columns), head_dim, 0, 1.0, CPU)
    q = normal(1, 1, 1, head_dim, generator=generator).expand(-1, -1, rows * columns, -1)
    k = normal(1, 1, 1, head_dim, generator=generator).expand(-1, -1, rows * columns, -1)
    logits = (rotate(q, rotary) @ rotate(k, rotary).mT).view(rows, columns, rows, columns)
    dt, df = offset
    near, far = logits[: rows - dt, : columns - df, : rows - dt, : columns - df], logits[dt:, df:, dt:, df:]
    torch.testing.assert_close(far, near, atol=1e-4, rtol=1e-4)
    assert (logits[0, 0] - logits[0, 0, 0, 0]).abs().max() > 0.1  # and they do depend on it


def test_prefix_tokens_are_not_rotated(generator):
    rotary = rotary_table((3, 2), 8, 2, 1.0, CPU)
    x = normal(1, 2, 8, 8, generator=generator)
    turned = rotate(x, rotary)
    assert torch.equal(turned[:, :, :3], x[:, :, :3])  # the prefix, and the grid's origin
    assert not torch.allclose(turned[:, :, 3:], x[:, :, 3:])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_the_rotary_table_of_a_subset_is_a_subset_of_the_table(generator):
    rotary = rotary_table((4, 3), 8, 1, 1.0, CPU)
    rows = torch.tensor([[0, 2, 5], [0, 7, 12]])
    x = normal(2, 2, 13, 8, generator=generator)
    subset = torch.stack([x[i][:, rows[i]] for i in range(2)])
    expected = torch.stack([rotate(x, rotary)[i][:, rows[i]] for i in range(2)])
    torch.testing.assert_close(rotate(subset, take_rotary(rotary, rows)), expected)


def test_a_table_made_while_generating_serves_training():
    with torch.inference_mode():
        cached_rotary_table((5, 2), 8, 0, 1.0, CPU)
    cos, sin = cached_rotary_table((5, 2), 8, 0, 1.0, CPU)
    assert not cos.is_inference()
    assert cached_rotary_table((5, 2), 8, 0, 1.0, CPU)[0] is cos
