from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from audiocraft_qamdt.models import cpu_kernels
from audiocraft_qamdt.models.modulation import modulate


@pytest.fixture
def by_item(monkeypatch):
    """Small inputs go through the layer norm item by item too; those that do are counted."""
    calls = []
    apply = cpu_kernels._ItemNorm.apply

    def counted(*args):
        calls.append(1)
        return apply(*args)

    monkeypatch.setattr(cpu_kernels, "_MIN_ITEM", 0)
    monkeypatch.setattr(cpu_kernels._ItemNorm, "apply", counted)
    return calls


def operands(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    shapes = ((3, 5, 8), (3, 1, 8), (3, 1, 8))
    return [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes]


def plain(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


@pytest.mark.parametrize("again", [False, True])
def test_values_and_gradients_are_those_of_a_norm_that_is_scaled_and_shifted(by_item, generator, again):
    args = operands(generator)
    expected = plain(*args)
    cotangent = torch.randn(expected.shape, generator=generator)
    gradients = torch.autograd.grad(expected, args, cotangent)
    actual = checkpoint(modulate, *args, use_reentrant=False) if again else modulate(*args)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(torch.autograd.grad(actual, args, cotangent), gradients, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert len(by_item) == 1 + again


def test_gradients_need_not_be_wanted_of_all(by_item, generator):
    x, shift, scale = operands(generator)
    modulate(x, shift.detach(), scale.detach()).square().sum().backward()
    wanted = torch.autograd.grad(plain(x, shift, scale).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted, atol=1e-4, rtol=1e-4)
    assert by_item


def test_no_tokens_give_no_tokens(by_item):
    assert modulate(torch.zeros(2, 0, 8), torch.zeros(2, 1, 8), torch.zeros(2, 1, 8)).shape == (2, 0, 8)


@pytest.mark.parametrize("why", ["double", "small", "strided", "switched off"])
def test_everything_else_takes_the_plain_path(why, by_item, monkeypatch, generator):
    x, shift, scale = operands(generator, torch.float64 if why == "double" else torch.float32)
    if why == "small":
        monkeypatch.setattr(cpu_kernels, "_MIN_ITEM", 5 * 8 + 1)
    if why == "switched off":
        monkeypatch.setattr(cpu_kernels, "ENABLED", False)
    if why == "strided":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(modulate(x, shift, scale), plain(x, shift, scale), atol=1e-5, rtol=1e-5)
    assert not by_item
