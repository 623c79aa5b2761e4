"""AudioCraft's own look-ups know ours after `register()`, and what they knew before."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from audiocraft_qamdt.register import TABLE, register

import audiocraft.models.builders
import audiocraft.solvers
from audiocraft.models import CompressionModel
from audiocraft.models.encodec import EncodecModel
from audiocraft.solvers.compression import CompressionSolver


@pytest.fixture(autouse=True)
def _registered():
    register()


def conditioners(**sections):
    return OmegaConf.create({"device": "cpu", "dataset": {"segment_duration": 1}, "conditioners": sections})


def test_calling_it_twice_changes_nothing():
    before = [getattr(owner, name) for owner, name, _ in TABLE]
    register()
    assert all(getattr(owner, name) is function for (owner, name, _), function in zip(TABLE, before, strict=True))


def test_codecs_by_name():
    model = CompressionModel.get_pretrained("mdct")
    assert model.codec.__class__.__name__ == "MDCTCodec"
    assert model.sample_rate == 16000
    audio = 0.1 * torch.randn(2, 1, 4000)
    latents, scale = model.encode(audio)
    assert scale is None
    assert latents.shape[:2] == (2, 16)
    assert torch.allclose(model.decode(latents, scale)[..., :4000], audio, atol=1e-4)


def test_codecs_through_the_compression_solver():
    cfg = OmegaConf.create({"compression_model_n_q": None})
    model = CompressionSolver.wrapped_model_from_checkpoint(cfg, "//pretrained/mdct")
    assert model.codec.latent_channels == 16


def test_audiocrafts_codecs_as_before():
    assert isinstance(CompressionModel.get_pretrained("debug_compression_model"), EncodecModel)


def test_ours_and_audiocrafts_conditioners_side_by_side():
    provider = audiocraft.models.builders.get_conditioner_provider(
        12,
        conditioners(
            description={"model": "words", "words": {"n_bins": 32, "dim": 8}},
            quality_clip={"model": "quality", "quality": {"granularity": "clip"}},
            genre={"model": "lut", "lut": {"n_bins": 16, "dim": 8, "tokenizer": "noop"}},
        ),
    )
    assert {name: module.__class__.__name__ for name, module in provider.conditioners.items()} == {
        "description": "WordsConditioner",
        "quality_clip": "QualityConditioner",
        "genre": "LUTConditioner",
    }
    assert set(provider.text_conditions) == {"description", "quality_clip", "genre"}


def test_unknown_conditioner_is_audiocrafts_error():
    with pytest.raises(ValueError, match="Unrecognized conditioning model: telepathy"):
        audiocraft.models.builders.get_conditioner_provider(8, conditioners(x={"model": "telepathy", "telepathy": {}}))


def test_unknown_solver_is_named():
    with pytest.raises(ValueError, match="solver='fastmdt' is unknown.*qamdt"):
        audiocraft.solvers.get_solver(OmegaConf.create({"solver": "fastmdt"}))


def test_a_key_error_inside_a_solver_is_not_mistaken_for_an_unknown_one():
    with pytest.raises(Exception) as raised:
        audiocraft.solvers.get_solver(OmegaConf.create({"solver": "compression"}))
    assert "is unknown" not in str(raised.value)
