from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from audiocraft_qamdt.models import cpu_kernels
from audiocraft_qamdt.models.linear import Linear, linear

SHAPES = [(6, 5, 17), (6, 17, 5), (6, 8, 8)]  # rows, in, out: wide, narrow, square


@pytest.fixture(params=["oneDNN", "MKL"])
def products(request, monkeypatch):
    """Small products take the fast path too, by either library; they are counted."""
    if not cpu_kernels._HAS_ONEDNN:
        pytest.skip("this build of PyTorch has no oneDNN")
    calls = []
    kernel = cpu_kernels._product

    def counted(*args):
        calls.append(1)
        return kernel(*args)

    monkeypatch.setattr(cpu_kernels, "_MKL_IS_FASTEST", request.param == "MKL")
    monkeypatch.setattr(cpu_kernels, "_MIN_PRODUCTS", 0)
    monkeypatch.setattr(cpu_kernels, "_product", counted)
    return calls


def operands(rows: int, inputs: int, outputs: int, generator: torch.Generator) -> list[torch.Tensor]:
    shapes = ((2, rows, inputs), (outputs, inputs), (outputs,))
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("gelu", [False, True])
def test_the_fast_path_gives_the_values_and_gradients_of_the_plain_one(
    rows, inputs, outputs, gelu, products, generator
):
    x, weight, bias = args = operands(rows, inputs, outputs, generator)
    expected = F.linear(x, weight, bias)
    expected = F.gelu(expected, approximate="tanh") if gelu else expected
    cotangent = torch.randn(expected.shape, generator=generator)
    gradients = torch.autograd.grad(expected, args, cotangent)
    actual = linear(x, weight, bias, gelu)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(torch.autograd.grad(actual, args, cotangent), gradients, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias, gelu), expected, atol=1e-5, rtol=1e-5)
    assert len(products) == 4  # two forward passes, two of the three gradients


def test_only_the_gradients_that_are_wanted_are_computed(products, generator):
    x, weight, bias = operands(4, 3, 5, generator)
    linear(x.detach(), weight, bias.detach()).sum().backward()
    assert weight.grad is not None
    assert bias.grad is None
    assert len(products) == 2


def test_views_and_a_missing_bias_are_taken(products, generator):
    x = torch.randn(4, 7, 3, generator=generator).permute(2, 1, 0)
    weight = torch.randn(10, 4, generator=generator)
    torch.testing.assert_close(linear(x, weight[2:7]), x @ weight[2:7].t())
    assert products


def test_the_products_are_counted_by_torchs_counter(products):
    with FlopCounterMode(display=False, custom_mapping=cpu_kernels.FLOPS) as counter, torch.no_grad():
        linear(torch.zeros(2, 3, 5), torch.zeros(7, 5))
    assert counter.get_total_flops() == 2 * 6 * 5 * 7


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("why", ["double", "autocast", "disabled", "small", "switched off"])
def test_everything_else_takes_the_plain_path(why, products, monkeypatch, generator):
    layer = Linear(8, 4).to(torch.float64 if why == "double" else torch.float32)
    x = torch.randn(2, 8, generator=generator, dtype=layer.weight.dtype)
    if why == "small":
        monkeypatch.setattr(cpu_kernels, "_MIN_PRODUCTS", 2 * 8 * 4 + 1)
    if why == "switched off":
        monkeypatch.setattr(cpu_kernels, "ENABLED", False)
    with torch.autocast("cpu", enabled=why == "autocast"), torch.backends.mkldnn.flags(enabled=why != "disabled"):
        y = layer(x)
    assert not products
    assert y.dtype == {"double": torch.float64, "autocast": torch.bfloat16}.get(why, torch.float32)


def test_the_layer_has_the_parameters_of_a_plain_one(generator):
    plain = torch.nn.Linear(5, 3)
    layer = Linear(5, 3)
    layer.load_state_dict(copy.deepcopy(plain.state_dict()))
    x = torch.randn(2, 5, generator=generator)
    torch.testing.assert_close(layer(x), plain(x))
