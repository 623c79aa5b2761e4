from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.latents.compression import LatentCompressionModel
from audiocraft_qamdt.latents.mdct import MDCTCodec
from audiocraft_qamdt.utils import prepared

from audiocraft.models.encodec import CompressionModel


@pytest.fixture
def model() -> LatentCompressionModel:
    codec = MDCTCodec()
    codec.estimate_statistics([audio(seed=1)])
    return LatentCompressionModel(codec)


def audio(samples: int = 16100, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(seed))


def test_it_round_trips_audio_as_audiocraft_does(model):
    latents, scale = model.encode(audio())
    assert scale is None and torch.equal(latents, model.codec.encode(audio()))
    assert torch.allclose(model.decode(latents, scale)[..., :16100], audio(), atol=1e-5)
    assert torch.equal(model.decode_latent(latents), latents)
    with pytest.raises(ValueError, match="no scale"):
        model.decode(latents, torch.ones(2, 1))


def test_forward_gives_audio_of_the_same_length(model):
    result = model(audio())
    assert torch.allclose(result.x, audio(), atol=1e-5)
    assert torch.equal(result.codes, model.codec.encode(audio()))
    assert result.bandwidth == 16000 * 32 / 1000 and result.penalty is None


def test_it_describes_the_codec(model):
    assert isinstance(model, CompressionModel)
    assert (model.sample_rate, model.channels, model.frame_rate) == (16000, 1, 62.5)
    assert model.num_codebooks == model.total_codebooks == 0


def test_codebooks_are_refused(model):
    with pytest.raises(NotImplementedError, match="cardinality"):
        _ = model.cardinality
    with pytest.raises(NotImplementedError, match="compression_model_n_q"):
        model.set_num_codebooks(4)


def test_statistics_are_saved_with_it(model):
    fresh = LatentCompressionModel(MDCTCodec())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.encode(audio())[0], model.encode(audio())[0])
