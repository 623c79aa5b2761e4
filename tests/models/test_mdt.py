from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audiocraft_qamdt.models.backbone import GRANULARITIES, resample_levels
from audiocraft_qamdt.models.layers import take
from audiocraft_qamdt.models.masking import TokenMask, draw_mask, mask_from_noise
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer

TINY: dict[str, Any] = {
    "latent_channels": 3,
    "latent_bins": 4,
    "latent_frames": 16,
    "dim": 32,
    "depth": 5,
    "decoder_depth": 1,
    "num_heads": 2,
    "context_dim": 12,
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"positions": "rope"},
    {"ffn": "swiglu", "quality": GRANULARITIES},
    {"positions": "rope", "quality": ()},
    {"patch": (4, 3), "overlap": (1, 2), "quality": ("clip", "adaln")},
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(**arguments: Any) -> MaskedDiffusionTransformer:
    """A small model without any zero left by the initialisation."""
    model = MaskedDiffusionTransformer(**{**TINY, **arguments})
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if not parameter.any():
                parameter.copy_(0.2 * normal(*parameter.shape, seed=number))
    return model.eval()


def inputs(model: MaskedDiffusionTransformer, batch: int = 2, frames: int = 16) -> dict[str, Any]:
    return {
        "x": normal(batch, model.latent_channels, frames, model.latent_bins, seed=1),
        "t": torch.arange(1, 1000, 998 // max(batch - 1, 1))[:batch],
        "context": normal(batch, 6, 12, seed=2),
        "context_mask": torch.ones(batch, 6),
        "quality": torch.arange(batch) % 5 + 1,
    }


def half_mask(model: MaskedDiffusionTransformer, batch: int = 2, frames: int = 16, ratio: float = 0.5) -> TokenMask:
    generator = torch.Generator().manual_seed(3)
    return mask_from_noise(torch.rand(batch, model.num_tokens(frames), generator=generator), ratio)


def item(conditions: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: value[index : index + 1] for name, value in conditions.items()}


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


class Unchanged(nn.Module):
    """A side interpolator that returns what it is given."""

    def forward(self, x: Tensor, *args: Any, rows: Tensor, **options: Any) -> Tensor:
        return take(x, rows)


# ---- forward


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_a_batch_of_two_is_two_batches_of_one(variant, masked):
    model = tiny(**variant)
    conditions = inputs(model)
    mask = half_mask(model) if masked else None
    out = model(**conditions, mask=mask)
    assert out.shape == conditions["x"].shape
    for i in range(2):
        one = None if mask is None else TokenMask(mask.hidden[i : i + 1], mask.visible[i : i + 1])
        close(model(**item(conditions, i), mask=one), out[i : i + 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient_in_a_masked_step(variant):
    model = tiny(**variant).train()
    model(**inputs(model), mask=half_mask(model)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_an_untrained_model_predicts_zero(variant):
    model = MaskedDiffusionTransformer(**{**TINY, **variant})
    assert not model(**inputs(model)).any()


def test_initialisation_is_the_published_one_but_for_levels_in_order():
    model = MaskedDiffusionTransformer(**{**TINY, "dim": 128, "quality": GRANULARITIES})
    bound = (6 / (128 + 512)) ** 0.5
    zero = {"mask_token", "decoder_pos_embed", "final_layer.linear.weight"}
    zero |= {f"quality_embed.{name}.weight" for name in ("global", "frame", "adaln")}
    for name, parameter in model.named_parameters():
        if name in zero or name.endswith(("cross_attn.proj.weight", "qkv.bias", "fc1.bias")):
            assert not parameter.any(), name
        elif name.endswith("fc1.weight"):
            assert 0.95 * bound < parameter.abs().max() <= bound
    assert abs(model.get_parameter("modulation.1.weight").std().item() - 0.02) < 0.001
    rows = model.get_parameter("quality_embed.clip.weight")  # unknown, and levels in order on a line around it
    steps = rows[1:].diff(dim=0)
    assert torch.allclose(rows[0], rows[1:].mean(0), atol=1e-5)
    assert torch.allclose(steps, steps[:1], atol=1e-5)
    assert abs((rows[-1] - rows[0]).std().item() - 1) < 0.15


@torch.no_grad()
def test_masking_depends_on_the_mask_alone_not_on_the_mode():
    model = tiny()
    conditions, mask = inputs(model), half_mask(model)
    assert torch.equal(model.train()(**conditions), model.eval()(**conditions))
    assert torch.equal(model.train()(**conditions, mask=mask), model.eval()(**conditions, mask=mask))


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("quality", [(), ("clip",)])
@torch.no_grad()
def test_a_mask_that_hides_nothing_changes_nothing(positions, quality):
    # The decoder gets in training what it gets in generation.
    model = tiny(quality=quality, positions=positions)
    conditions = {**inputs(model), "quality": torch.tensor([1, 5]) if quality else None}
    close(model(**conditions, mask=half_mask(model, ratio=0.0)), model(**conditions))


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@torch.no_grad()
def test_as_published_a_mask_that_hides_nothing_changes_the_quality_token(positions):
    model = tiny(positions=positions, side_prefix=True)
    conditions, mask = inputs(model), half_mask(model, ratio=0.0)
    plain = model(**conditions)
    assert not torch.allclose(model(**conditions, mask=mask), plain)
    model.side_blocks = nn.ModuleList([Unchanged()])
    close(model(**conditions, mask=mask), plain)


@torch.no_grad()
def test_the_encoder_does_not_see_hidden_tokens():
    model = tiny()
    conditions, mask = inputs(model), half_mask(model)
    seen: list[Tensor] = []
    model.out_blocks[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    model(**conditions, mask=mask)
    changed = conditions["x"].clone().view(2, 3, 4, 4, 4)  # [B, C, rows, frames in patch, columns]
    changed.add_(100 * mask.hidden.view(2, 1, 4, 1, 4))
    model(**{**conditions, "x": changed.view(2, 3, 16, 4)}, mask=mask)
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape[1] == 1 + mask.visible.shape[1]


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("side_prefix", [False, True])
@torch.no_grad()
def test_the_side_interpolator_gives_what_it_gives_when_run_on_all_tokens(positions, prefix, side_prefix):
    model = tiny(positions=positions, quality=("clip",) * prefix, side_prefix=side_prefix)
    conditions, mask = inputs(model), half_mask(model)
    if not prefix:
        conditions["quality"] = torch.zeros(2)
    before: list[Tensor] = []
    after: list[Tensor] = []
    model.side_blocks[0].register_forward_pre_hook(lambda module, args: before.append(args[0]))
    model.decoder_blocks[0].register_forward_pre_hook(lambda module, args: after.append(args[0]))
    model(**conditions, mask=mask)
    modulation = model.modulation(model.time_embed(conditions["t"])).unflatten(1, (6, -1))
    text = model._texts(conditions["context"], conditions["context_mask"]).side_blocks[0]
    grid = model.patch_embed.grid(16, 4)
    everywhere = model.side_blocks[0](before[0], modulation, text, rotary=model._rotary(grid, torch.device("cpu")))
    replaced = torch.full((2, prefix), side_prefix)
    hidden = torch.cat([replaced, mask.hidden], dim=1).unsqueeze(-1)
    close(after[0], torch.where(hidden, everywhere, before[0]))


def test_checkpointing_changes_no_gradient():
    model = tiny(quality=GRANULARITIES)
    gradients = []
    for model.checkpointing in (False, True):
        loss = model(**inputs(model), mask=half_mask(model)).square().mean()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_checkpointing_keeps_less():
    def kept(checkpointing: bool) -> int:
        model = tiny()
        model.checkpointing = checkpointing
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**inputs(model))
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_in_forward_reads_a_tensor_on_the_host(variant):
    # The meta device has no values: whatever makes the host wait on a GPU is an error there.
    model = tiny(**variant).to("meta")
    conditions = {name: value.to("meta") for name, value in inputs(model).items()}
    mask = TokenMask(*(value.to("meta") for value in half_mask(model)))
    assert model(**conditions).shape == conditions["x"].shape
    assert model(**conditions, mask=mask).shape == conditions["x"].shape
    assert model(**{**conditions, "context_mask": None, "context": None}, mask=mask).shape == conditions["x"].shape


@pytest.mark.parametrize("variant", [VARIANTS[2], VARIANTS[1]])
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_it_compiles_without_graph_breaks(variant, backend):
    torch._dynamo.reset()
    model = tiny(**variant)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    conditions = inputs(model)
    projected = {**conditions, "context": model.project_context(conditions["context"]), "context_mask": None}
    for arguments in (conditions, {**conditions, "mask": half_mask(model)}, projected):
        close(compiled(**arguments), model(**arguments))
    compiled(**conditions, mask=half_mask(model)).square().mean().backward()
    torch._dynamo.reset()


@torch.no_grad()
def test_low_precision_is_near():
    model = tiny(quality=GRANULARITIES)
    conditions, mask = inputs(model), half_mask(model)
    expected = model(**conditions, mask=mask)
    with torch.autocast("cpu", torch.bfloat16):
        automatic = model(**conditions, mask=mask)
    weights = model.bfloat16()
    conditions = {name: v.bfloat16() if name in ("x", "context") else v for name, v in conditions.items()}
    for actual in (automatic, weights(**conditions, mask=mask)):
        assert (actual.float() - expected).norm() < 0.05 * expected.norm()


# ---- text


@torch.no_grad()
def test_padding_of_the_text_never_changes_the_output():
    model = tiny()
    conditions = inputs(model)
    conditions["context_mask"][0, 4:] = 0
    conditions["context_mask"][1, 1:] = 0
    expected = model(**conditions)
    other = conditions["context"].masked_fill(conditions["context_mask"].unsqueeze(-1) == 0, 1e3)
    assert torch.equal(model(**{**conditions, "context": other}), expected)
    longer = torch.cat([conditions["context"], normal(2, 9, 12)], dim=1)
    mask = torch.nn.functional.pad(conditions["context_mask"], (0, 9))
    close(model(**{**conditions, "context": longer, "context_mask": mask}), expected)


@pytest.mark.parametrize("words", [3, 40])
def test_a_text_that_is_all_padding_is_no_text(words):
    model = tiny()
    conditions = {**inputs(model), "context": normal(2, words, 12), "context_mask": torch.zeros(2, words)}
    nothing = model(**{**conditions, "context": None, "context_mask": None})
    out = model(**conditions)
    assert torch.equal(out, nothing)
    out.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("words", [6, 40])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_a_projected_context_is_the_context(words, masked):
    model = tiny()
    conditions = {**inputs(model), "context": normal(2, words, 12), "context_mask": torch.ones(2, words)}
    conditions["context_mask"][0, 2:] = 0
    projected = model.project_context(conditions["context"], conditions["context_mask"])
    mask = half_mask(model) if masked else None
    expected = model(**conditions, mask=mask)
    close(model(**{**conditions, "context": projected, "context_mask": None}, mask=mask), expected, 1e-6)
    with pytest.raises(ValueError, match="context_mask is part of a projected context"):
        model(**{**conditions, "context": projected})


@torch.no_grad()
def test_the_text_is_projected_once_for_all_steps():
    model = tiny()
    conditions = inputs(model)
    calls: list[int] = []
    for name in ("context_embed", *(f"in_blocks.{i}.cross_attn.kv_linear" for i in range(2))):
        model.get_submodule(name).register_forward_hook(lambda *_: calls.append(1))
    projected = model.project_context(conditions["context"])
    once = len(calls)
    for _ in range(3):
        model(**{**conditions, "context": projected, "context_mask": None})
    assert len(calls) == once == 3


# ---- quality


@pytest.mark.parametrize("names", [c for n in range(5) for c in itertools.combinations(GRANULARITIES, n)])
@torch.no_grad()
def test_every_subset_of_granularities_listens_to_its_levels(names):
    model = tiny(quality=names)
    conditions = {**inputs(model), "quality": None}
    unknown = model(**conditions)
    for name in names:
        levels = {name: torch.tensor([2, 4])}
        assert not torch.allclose(model(**{**conditions, "quality": levels}), unknown)
    together = model(**{**conditions, "quality": {name: torch.tensor([2, 4]) for name in names}})
    assert torch.equal(model(**{**conditions, "quality": torch.tensor([2, 4])}), together)


@torch.no_grad()
@pytest.mark.parametrize("nothing", [None, {}, {"clip": None}], ids=["none", "empty", "none for clip"])
def test_missing_levels_are_unknown(nothing):
    conditions = inputs(tiny())
    model = tiny()
    expected = model(**{**conditions, "quality": torch.zeros(2)})
    assert torch.equal(model(**{**conditions, "quality": nothing}), expected)


@torch.no_grad()
def test_missing_levels_of_a_model_without_unknown_are_an_error():
    conditions = inputs(tiny())
    with pytest.raises(ValueError, match="'clip' is missing"):
        tiny(unknown_level=False)(**{**conditions, "quality": None})


@torch.no_grad()
def test_a_constant_curve_is_a_level_and_a_curve_acts_where_it_is():
    model = tiny(quality=("frame",), depth=1, decoder_depth=1)
    conditions = {**inputs(model), "quality": None}

    def run(curve: Tensor) -> Tensor:
        return model(**{**conditions, "quality": {"frame": curve}})

    close(run(torch.full((2, 7), 3.0)), run(torch.tensor([3, 3])))
    early, late = torch.tensor([[5.0, 5, 2, 2]]).repeat(2, 1), torch.tensor([[2.0, 2, 5, 5]]).repeat(2, 1)
    difference = [(run(curve) - run(torch.full((2, 4), 2.0))).abs().mean(dim=(0, 1, 3)) for curve in (early, late)]
    assert difference[0][:8].mean() > 2 * difference[0][8:].mean()
    assert difference[1][8:].mean() > 2 * difference[1][:8].mean()


def test_curves_are_resampled_linearly_and_unknown_stays_out_of_the_mean():
    curve = torch.tensor([[1.0, 2, 3, 4], [0, 0, 4, 4], [0, 0, 0, 0]])
    assert torch.equal(resample_levels(curve, 4), curve)
    close(resample_levels(curve[:1], 2), torch.tensor([[1.5, 3.5]]))
    close(resample_levels(curve[:1], 8)[0, 1:-1], torch.arange(6) * 0.5 + 1.25)
    assert set(resample_levels(curve[1:2], 7).flatten().tolist()) == {0.0, 4.0}  # never a level between unknown and 4
    assert not resample_levels(curve[2:], 5).any()


@torch.no_grad()
def test_quality_that_does_not_fit_is_refused():
    model = tiny(quality=("clip", "frame"))
    conditions = inputs(model)
    with pytest.raises(ValueError, match="quality for global"):
        model(**{**conditions, "quality": {"global": torch.ones(2)}})
    with pytest.raises(ValueError, match=r"'clip' has shape \(2, 3\)"):
        model(**{**conditions, "quality": {"clip": torch.ones(2, 3)}})
    with pytest.raises(ValueError, match=r"'frame' has shape \(3, 4\)"):
        model(**{**conditions, "quality": {"frame": torch.ones(3, 4)}})
    with pytest.raises(ValueError, match="quality levels must be 1 to 5"):
        model(**{**conditions, "quality": torch.tensor([3, 6])})


# ---- lengths and shapes


@torch.no_grad()
@pytest.mark.parametrize("frames", [4, 16, 17, 40])
def test_rope_takes_any_length(frames):
    rope = tiny(positions="rope")
    conditions = inputs(rope, frames=frames)
    mask = half_mask(rope, frames=frames)
    assert rope(**conditions, mask=mask).shape == rope(**conditions).shape == conditions["x"].shape


@torch.no_grad()
def test_sincos_takes_its_own_length_only():
    rope, sincos = tiny(positions="rope"), tiny()
    with pytest.raises(ValueError, match="20 frames .*latent_frames=16.*rope"):
        sincos(**inputs(sincos, frames=20))
    assert not any("pos_embed" in name for name in rope.state_dict())


@pytest.mark.parametrize("patch, overlap", [((4, 1), (0, 0)), ((4, 3), (1, 2)), ((5, 2), (3, 0)), ((16, 4), (0, 0))])
@torch.no_grad()
def test_any_patches_give_latents_of_the_same_shape(patch, overlap):
    model = tiny(patch=patch, overlap=overlap)
    conditions = inputs(model)
    mask = half_mask(model, ratio=0.3) if model.num_tokens(16) > 1 else None
    assert model(**conditions, mask=mask).shape == conditions["x"].shape
    rows, columns = model.grid(16)
    assert rows * columns == model.num_tokens(16) == model.get_buffer("pos_embed").shape[1]


@torch.no_grad()
def test_one_bin_works_as_encodec_latents_need():
    model = tiny(latent_bins=1, latent_channels=16, patch=(2, 1))
    conditions = inputs(model)
    mask = draw_mask("time_frequency", 2, model.grid(16), 0.5, torch.Generator().manual_seed(0))
    assert model(**conditions, mask=mask).shape == (2, 16, 16, 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(2, 4, 16, 4)}, "latent_channels=3"),
        ({"x": torch.zeros(2, 3, 16, 5)}, "latent_bins=4"),
        ({"context": torch.zeros(2, 6, 13)}, "context_dim=12"),
        ({"context_mask": torch.zeros(2, 5)}, "context_mask of shape"),
        ({"mask": TokenMask(torch.zeros(2, 9).bool(), torch.arange(9).repeat(2, 1))}, "mask of shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_the_reason(change, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        model(**{**inputs(model), **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dim": 30, "num_heads": 4}, "dim=30 is not a multiple of num_heads=4"),
        ({"dim": 36, "num_heads": 6, "positions": "rope"}, "multiple of 24"),
        ({"depth": 6}, "depth=6 minus decoder_depth=1 is odd"),
        ({"decoder_depth": 7}, "decoder_depth=7 is not between"),
        ({"ffn": "relu"}, "ffn='relu' is not one of gelu, swiglu"),
        ({"positions": "learned"}, "positions='learned' is not one of sincos, rope"),
        ({"quality": ("clip", "prefix")}, "must name some of global, clip, frame, adaln"),
        ({"overlap": (4, 0)}, "overlap"),
        ({"latent_frames": 3}, "latent shape that does not fit the patches"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        MaskedDiffusionTransformer(**{**TINY, **change})


def test_the_model_imports_no_audiocraft():
    import subprocess
    import sys

    code = "import sys; import audiocraft_qamdt.models.official; sys.exit('audiocraft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
