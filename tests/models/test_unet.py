"""The U-Net behind the transformer's interface: shapes, text, quality, and a run of the solver with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.models.backbone import GRANULARITIES
from audiocraft_qamdt.models.masking import mask_from_noise
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer
from audiocraft_qamdt.models.unet import UNet

from ..helpers.audio_folder import make_folder
from ..helpers.runs import TINY, history, solver_in

SMALL: dict[str, Any] = {
    "latent_channels": 3,
    "latent_bins": 4,
    "latent_frames": 16,
    "channels": (32, 64),
    "layers": 1,
    "head_dim": 32,
    "context_dim": 12,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**arguments: Any) -> UNet:
    """A small model without any zero left by the initialisation."""
    torch.manual_seed(0)
    model = UNet(**{**SMALL, **arguments})
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if not parameter.any():
                parameter.copy_(0.2 * normal(*parameter.shape, seed=number))
    return model.eval()


def inputs(batch: int = 2, frames: int = 16, bins: int = 4) -> dict[str, Any]:
    return {
        "x": normal(batch, 3, frames, bins, seed=1),
        "t": torch.tensor([10, 900])[:batch],
        "context": normal(batch, 6, 12, seed=2),
        "context_mask": torch.ones(batch, 6),
        "quality": torch.arange(batch) % 5 + 1,
    }


@pytest.mark.parametrize("frames, bins", [(16, 4), (13, 4), (16, 1), (21, 3)])
def test_latents_of_any_size_keep_their_shape(frames, bins):
    model = small(latent_bins=bins)
    assert model(**inputs(frames=frames, bins=bins)).shape == (2, 3, frames, bins)


@torch.no_grad()
def test_a_batch_of_two_is_two_batches_of_one():
    model, given = small(quality=GRANULARITIES, pooled_text=True), inputs()
    alone = torch.cat([model(**{key: value[i : i + 1] for key, value in given.items()}) for i in range(2)])
    torch.testing.assert_close(model(**given), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
@torch.no_grad()
def test_padding_of_the_text_changes_nothing_and_all_padding_is_no_text(pooled):
    model, given = small(pooled_text=pooled), inputs()
    longer = {
        **given,
        "context": torch.cat([given["context"], normal(2, 3, 12, seed=7)], dim=1),
        "context_mask": torch.nn.functional.pad(given["context_mask"], (0, 3)),
    }
    torch.testing.assert_close(model(**longer), model(**given), rtol=1e-4, atol=1e-5)
    without = {**given, "context": None, "context_mask": None}
    padding = {**given, "context_mask": torch.zeros(2, 6)}
    torch.testing.assert_close(model(**padding), model(**without), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(**given), model(**without), atol=1e-3)


@torch.no_grad()
def test_a_projected_context_is_the_context():
    model, given = small(pooled_text=True), inputs()
    projected = model.project_context(given["context"], given["context_mask"])
    assert torch.equal(model(**{**given, "context": projected, "context_mask": None}), model(**given))


@pytest.mark.parametrize("name", GRANULARITIES)
@torch.no_grad()
def test_every_granularity_listens_to_its_levels(name):
    model, given = small(quality=(name,)), inputs()
    outputs = [model(**{**given, "quality": torch.full((2,), level)}) for level in (0, 1, 5)]
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in zip(outputs, outputs[1:], strict=False))
    assert torch.equal(model(**{**given, "quality": None}), outputs[0])


def test_every_parameter_gets_a_gradient():
    model = small(quality=GRANULARITIES, pooled_text=True).train()
    model(**inputs()).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_an_untrained_model_predicts_zero():
    assert not UNet(**SMALL)(**inputs()).any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(2, 3, 16, 5)}, "latents of shape"),
        ({"context": torch.zeros(2, 6, 11)}, "context_dim=12"),
        ({"quality": {"frame": torch.ones(2)}}, "quality for frame"),
        ({"mask": mask_from_noise(torch.rand(2, 64), 0.5)}, "no tokens to hide"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_the_reason(change, message):
    with pytest.raises(ValueError, match=message):
        small()(**{**inputs(), **change})


def test_channels_that_cannot_be_grouped_are_refused():
    with pytest.raises(ValueError, match=r"unet.channels=\[48\] must be multiples of 32"):
        UNet(**{**SMALL, "channels": (32, 48)})


def test_it_is_as_large_as_the_published_transformer():
    unet = OmegaConf.load(CONFIG_ROOT / "model/qamdt/default.yaml").unet
    shape: dict[str, Any] = {"latent_channels": 8, "latent_bins": 16, "latent_frames": 256}
    with torch.device("meta"):
        both = UNet(**shape, **OmegaConf.to_container(unet)), MaskedDiffusionTransformer(**shape)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in both]
    assert math.isclose(*sizes, rel_tol=0.02)


def test_it_trains_saves_and_generates_as_the_transformer_does(tmp_path):
    folder = make_folder(tmp_path / "audio", tracks=4)
    settings = ["model=qamdt/unet", "unet.channels=[32,64]", "unet.layers=1", "unet.head_dim=32"]
    argv = [
        *TINY,
        *settings,
        "conditioner=qamdt/all",
        f"folder={folder}",
        "optim.epochs=2",
        "optim.updates_per_epoch=8",
        "generate.every=null",
        "evaluate.every=null",
    ]
    with solver_in(tmp_path / "outputs", *argv) as solver:
        solver.restore()
        solver.run()
        losses = [epoch["train"]["loss"] for epoch in history(solver.folder)]
        assert losses[1] < losses[0]
    model = QAMDT.get_pretrained(str(solver.folder), "cpu")
    audio = model.generate(["a track"], quality=5)
    assert type(model.model.backbone) is UNet
    assert audio.isfinite().all()
    assert audio.std() > 0
