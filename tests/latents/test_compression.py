from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.latents.compression import LatentCompressionModel, SpectralVAECompressionModel
from audiocraft_qamdt.latents.mdct import MDCTCodec
from audiocraft_qamdt.latents.spectral_vae import SpectralVAE, SpectralVAECodec, SpectralVAESizes
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


def spectral(**options) -> SpectralVAECompressionModel:
    torch.manual_seed(0)
    sizes = SpectralVAESizes(latent_channels=8, width=16, expansion=2, encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    return SpectralVAECompressionModel(SpectralVAECodec(SpectralVAE(sizes)), kl_weight=1e-3, **options)


def test_losses_of_the_audio_reach_all_weights_with_finite_gradients():
    model = spectral(audio_gradient=True).train()
    model(audio()).x.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_weights_that_diverged_end_the_training():
    model = spectral().train()
    torch.nn.init.constant_(model.codec.vae.decoder.head.bias, float("nan"))
    with pytest.raises(RuntimeError, match="the loss is nan at step 1: start again.*lower optim.lr"):
        model(audio())
