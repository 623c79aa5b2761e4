from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from audiocraft_qamdt.models import cpu_kernels
from audiocraft_qamdt.models.cpu_kernels import FoldedKeys
from audiocraft_qamdt.models.layers import (
    Block,
    CrossAttention,
    FinalLayer,
    LevelEmbedding,
    Mlp,
    SelfAttention,
    SwiGLU,
    Text,
    TextKeys,
    TimestepEmbedding,
    take,
)
from audiocraft_qamdt.models.positions import rotary_table

CPU = torch.device("cpu")
DIM, HEADS = 24, 3


def normal(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


# ---- attention


@pytest.mark.parametrize("with_rotary", [False, True])
def test_attention_from_some_tokens_is_a_part_of_attention_from_all(with_rotary, generator):
    attention = SelfAttention(DIM, HEADS)
    x, rows = normal(2, 7, DIM, generator=generator), torch.tensor([[0, 3, 6], [1, 2, 4]])
    rotary = rotary_table((7, 1), DIM // HEADS, 0, 1.0, CPU) if with_rotary else None
    torch.testing.assert_close(attention(x, rotary, rows), take(attention(x, rotary), rows))


def test_self_attention_is_softmax_attention(generator):
    attention = SelfAttention(DIM, HEADS)
    x = normal(2, 5, DIM, generator=generator)
    q, k, v = attention.qkv(x).view(2, 5, 3, HEADS, -1).unbind(2)
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / (DIM // HEADS) ** 0.5).softmax(-1)
    expected = attention.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def cross_attention(words: int, generator: torch.Generator) -> tuple[CrossAttention, torch.Tensor, torch.Tensor]:
    """Cross-attention with every weight and bias drawn, tokens, and text tokens."""
    attention = CrossAttention(DIM, HEADS)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(normal(*parameter.shape, generator=generator) / DIM**0.5)
    return attention, normal(3, 6, DIM, generator=generator), normal(3, words, DIM, generator=generator)


# Few words are folded into the weights, many go through scaled_dot_product_attention.
PATHS = [(4, FoldedKeys), (13, TextKeys)]


@pytest.mark.parametrize("words, kind", PATHS)
def test_both_orders_of_the_products_are_softmax_attention_over_the_words(words, kind, generator):
    attention, x, tokens = cross_attention(words, generator)
    lengths = torch.tensor([words, 2, 1])
    mask = torch.arange(words) < lengths[:, None]
    text = attention.project(Text(tokens, mask))
    assert isinstance(text.keys, kind)
    for i in range(3):
        q = attention.q_linear(x[i]).view(6, HEADS, -1)
        k, v = attention.kv_linear(tokens[i, : lengths[i]]).view(lengths[i], 2, HEADS, -1).unbind(1)
        weights = (torch.einsum("nhd,lhd->hnl", q, k) / (DIM // HEADS) ** 0.5).softmax(-1)
        expected = attention.proj(torch.einsum("hnl,lhd->nhd", weights, v).flatten(1))
        torch.testing.assert_close(attention(x, text)[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("words, kind", PATHS)
def test_projecting_before_is_projecting_inside(words, kind, generator):
    attention, x, tokens = cross_attention(words, generator)
    text = Text(tokens, None)
    assert isinstance(attention.project(text).keys, kind)
    torch.testing.assert_close(attention(x, attention.project(text)), attention(x, text))
    full = torch.ones(3, words, dtype=torch.bool)
    torch.testing.assert_close(attention(x, Text(tokens, full)), attention(x, text), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("words, kind", PATHS)
def test_padding_is_never_attended_and_gets_no_gradient(words, kind, generator):
    attention, x, tokens = cross_attention(words, generator)
    mask = torch.ones(3, words, dtype=torch.bool)
    mask[:, -2:] = False
    expected = attention(x, Text(tokens, mask))
    other = tokens.clone()
    other[:, -2:] = 1e4
    other.requires_grad_()
    actual = attention(x, Text(other, mask))
    assert torch.equal(actual, expected)
    actual.square().sum().backward()
    assert other.grad is not None
    assert not other.grad[:, -2:].any()
    assert other.grad[:, :-2].any()


@pytest.mark.parametrize("words, kind", PATHS)
def test_a_text_that_is_all_padding_adds_exactly_zero_with_finite_gradients(words, kind, generator):
    attention, x, tokens = cross_attention(words, generator)
    x.requires_grad_()
    mask = torch.ones(3, words, dtype=torch.bool)
    mask[1] = False
    out = attention(x, Text(tokens, mask))
    assert not out[1].any()
    assert out[0].any()
    out.square().sum().backward()
    for leaf in (x, *attention.parameters()):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    assert x.grad is not None
    assert not x.grad[1].any()


def test_switched_off_a_short_text_goes_through_the_fused_kernel_with_the_same_result(monkeypatch, generator):
    attention, x, tokens = cross_attention(4, generator)
    folded = attention(x, Text(tokens))
    monkeypatch.setattr(cpu_kernels, "ENABLED", False)
    assert isinstance(attention.project(Text(tokens)).keys, TextKeys)
    torch.testing.assert_close(attention(x, Text(tokens)), folded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("amx", [False, True], ids=["float32", "bfloat16"])
def test_low_precision_keeps_the_scores_in_the_fused_kernel(amx, monkeypatch, generator):
    monkeypatch.setattr(cpu_kernels, "_HAS_AMX", amx)
    attention, x, tokens = cross_attention(4, generator)
    expected = attention(x, Text(tokens, None))
    low = attention.bfloat16()
    text = low.project(Text(tokens.bfloat16(), torch.ones(3, 4, dtype=torch.bool)))
    assert isinstance(text.keys, TextKeys)
    torch.testing.assert_close(low(x.bfloat16(), text).float(), expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("tokens", "gradient", "wide"),
    [(255, True, True), (256, True, False), (255, False, False)],
    ids=["short, trained", "long, trained", "short, evaluated"],
)
def test_with_amx_only_gradients_of_short_sequences_attend_in_float32(tokens, gradient, wide, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_HAS_AMX", True)
    q = torch.zeros(1, 2, tokens, 8, dtype=torch.bfloat16, requires_grad=gradient)
    assert cpu_kernels.takes_attention(q) is wide


# ---- blocks


@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
def test_a_block_that_computes_some_tokens_gives_what_it_gives_for_all(ffn, generator):
    block = Block(DIM, HEADS, 4.0, ffn)
    x, modulation = normal(2, 7, DIM, generator=generator), normal(2, 6, DIM, generator=generator)
    text = Text(normal(2, 3, DIM, generator=generator), None)
    rows = torch.tensor([[0, 3, 6], [1, 2, 4]])
    some = block(x, modulation, text, rows=rows)
    torch.testing.assert_close(some, take(block(x, modulation, text), rows), atol=1e-5, rtol=1e-5)


def test_a_block_with_closed_gates_and_no_text_is_the_identity(generator):
    block = Block(DIM, HEADS, 4.0, "gelu")
    x, modulation = normal(2, 5, DIM, generator=generator), normal(2, 6, DIM, generator=generator)
    modulation[:, [2, 5]] = -block.scale_shift_table[[2, 5]].detach()
    assert torch.equal(block(x, modulation), x)


def test_a_block_with_a_skip_connection_needs_it(generator):
    block = Block(DIM, HEADS, 4.0, "gelu", skip=True)
    with pytest.raises(ValueError, match="skip"):
        block(normal(1, 3, DIM, generator=generator), torch.zeros(1, 6, DIM))


def test_swiglu_is_gated_and_about_as_large_as_an_mlp(generator):
    swiglu, mlp = SwiGLU(48, 192), Mlp(48, 192)
    x = normal(2, 48, generator=generator)
    gate, up = swiglu.gate_up.weight.chunk(2)
    expected = (F.silu(x @ gate.t()) * (x @ up.t())) @ swiglu.down.weight.t()
    torch.testing.assert_close(swiglu(x), expected, atol=1e-6, rtol=1e-5)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in (swiglu, mlp)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.02


def test_the_final_layer_modulates_with_the_time(generator):
    final = FinalLayer(DIM, 5)
    x, time = normal(2, 4, DIM, generator=generator), normal(2, DIM, generator=generator)
    shift, scale = final.scale_shift_table[0] + time, final.scale_shift_table[1] + time
    expected = final.linear(F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None])
    torch.testing.assert_close(final(x, time), expected, atol=1e-6, rtol=1e-5)


# ---- conditions


def test_timesteps_may_be_integers_or_fractions(generator):
    embed = TimestepEmbedding(DIM)
    assert torch.equal(embed(torch.tensor([3, 999])), embed(torch.tensor([3.0, 999.0])))
    near = embed(torch.tensor([500.0, 500.001, 700.0]))
    assert (near[0] - near[1]).norm() < 0.01 * (near[0] - near[2]).norm()


@pytest.mark.parametrize("unknown", [False, True])
def test_levels_are_rows_and_fractions_lie_between(unknown, generator):
    embed = LevelEmbedding(5, DIM, unknown)
    assert embed.weight.shape == (5 + unknown, DIM)
    levels = torch.tensor([[1, 5], [3, 2]])
    assert torch.equal(embed(levels), embed.weight[levels - (0 if unknown else 1)])
    assert torch.equal(embed(levels.float()), embed(levels))
    between = embed(torch.tensor(2.25))
    torch.testing.assert_close(between, 0.75 * embed(torch.tensor(2)) + 0.25 * embed(torch.tensor(3)))


@pytest.mark.parametrize("zero", [torch.tensor([0, 3]), torch.tensor([0.0, 3.0])], ids=["whole", "float"])
def test_unknown_has_a_row_of_its_own(zero):
    embed = LevelEmbedding(5, DIM, unknown=True)
    assert torch.equal(embed(zero), embed.weight[[0, 3]])


def test_unknown_without_a_row_is_refused():
    with pytest.raises(ValueError, match="no row for unknown"):
        LevelEmbedding(5, DIM, unknown=False)(torch.tensor([0, 3]))


@pytest.mark.parametrize("level", [0.5, 5.5, -1.0, float("nan")])
@pytest.mark.parametrize("unknown", [False, True])
def test_levels_out_of_range_are_refused_on_the_cpu(level, unknown):
    embed = LevelEmbedding(5, DIM, unknown)
    with pytest.raises(ValueError, match="quality levels must be 1 to 5"):
        embed(torch.tensor([3.0, level]))


def test_where_levels_cannot_be_read_they_are_clamped(monkeypatch):
    monkeypatch.setattr(LevelEmbedding, "_check", lambda *_: None)  # as on a GPU
    levels = torch.tensor([-1.0, 0.0, 0.5, 7.0, float("nan")])
    with_unknown, without = LevelEmbedding(5, DIM, True), LevelEmbedding(5, DIM, False)
    assert torch.equal(with_unknown(levels), with_unknown.weight[[0, 0, 0, 5, 0]])
    assert torch.equal(without(levels), without.weight[[0, 0, 0, 4, 0]])


def test_the_gradient_of_a_fraction_goes_to_both_levels():
    embed = LevelEmbedding(5, DIM, unknown=True)
    embed(torch.tensor([2.25])).sum().backward()
    assert embed.weight.grad is not None
    torch.testing.assert_close(embed.weight.grad[:, 0], torch.tensor([0, 0, 0.75, 0.25, 0, 0]))
