from __future__ import annotations

import copy
import functools

import encodec.modules
import encodec.quantization
import pytest
import torch
import transformers
from torch import Tensor, nn

from audiocraft_qamdt.latents.encodec import EncodecCodec
from audiocraft_qamdt.utils import prepared

from audiocraft.models import builders
from audiocraft.models.encodec import (
    DAC,
    EncodecModel,
    HFEncodecCompressionModel,
    InterleaveStereoCompressionModel,
)
from audiocraft.modules import SEANetDecoder, SEANetEncoder
from audiocraft.quantization import DummyQuantizer


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@functools.cache
def debug_model() -> nn.Module:
    return builders.get_debug_compression_model(sample_rate=16000)  # k-means: seconds


def audiocraft_model() -> nn.Module:
    return copy.deepcopy(debug_model())


def transformers_model(**options) -> transformers.EncodecModel:
    model = transformers.EncodecModel(
        transformers.EncodecConfig(
            sampling_rate=16000,
            upsampling_ratios=[5, 4, 4],
            num_filters=4,
            hidden_size=16,
            codebook_size=64,
            target_bandwidths=[1.2, 2.4],
            **options,
        )
    ).eval()
    for layer in model.quantizer.layers:  # fresh codebooks are zero
        layer.codebook.embed.normal_(std=0.1)
    return model


def encodec_model(**options) -> encodec.EncodecModel:
    sizes = {"channels": 1, "dimension": 16, "n_filters": 4, "norm": "weight_norm", "causal": True}
    quantizer = encodec.quantization.ResidualVectorQuantizer(dimension=16, n_q=4, bins=64)
    for layer in quantizer.vq.layers:  # fresh codebooks are zero
        layer._codebook.embed.normal_(std=0.1)
    encoder, decoder = encodec.modules.SEANetEncoder(**sizes), encodec.modules.SEANetDecoder(**sizes)
    return encodec.EncodecModel(
        encoder, decoder, quantizer, target_bandwidths=[0.9, 1.8], sample_rate=24000, channels=1, **options
    ).eval()


def make_audio(sample_rate: int, seconds: float = 1.0) -> Tensor:
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    tones = torch.stack([torch.sin(2 * torch.pi * pitch * time) for pitch in (220.0, 330.0)])
    return 0.3 * tones[:, None] + 0.05 * torch.randn(2, 1, len(time))


def rebuilt_by_audiocraft(model, audio: Tensor) -> Tensor:
    return model.decode(*model.encode(audio))


MODELS = {
    "audiocraft": (audiocraft_model, rebuilt_by_audiocraft, 25, 32),
    "huggingface": (lambda: HFEncodecCompressionModel(transformers_model()), rebuilt_by_audiocraft, 200, 16),
    "transformers": (transformers_model, lambda model, audio: model(audio, bandwidth=2.4).audio_values, 200, 16),
    "encodec": (encodec_model, lambda model, audio: model(audio), 75, 16),
}


@pytest.mark.parametrize("kind", MODELS)
def test_quantised_round_trip_is_the_models_own(kind):
    make, rebuild, frame_rate, dimension = MODELS[kind]
    model = make()
    codec = EncodecCodec(model, quantize=True)
    audio = make_audio(codec.sample_rate)[..., :-100]
    samples = audio.shape[-1]
    assert (codec.frame_rate, codec.latent_channels, codec.latent_bins) == (frame_rate, dimension, 1)
    expected = rebuild(model, audio)[..., :samples].detach()
    assert expected.std() > 1e-4
    assert torch.allclose(codec.decode(codec.encode(audio), samples), expected, atol=1e-6)
    codec.estimate_statistics([audio])
    assert torch.allclose(codec.decode(codec.encode(audio), samples), expected, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_without_the_quantiser_the_decoder_gets_the_encoders_output(kind):
    codec = EncodecCodec(MODELS[kind][0](), quantize=False)
    audio = make_audio(codec.sample_rate)
    expected = codec.model.decoder(codec.model.encoder(audio))[..., : audio.shape[-1]]
    decoded = codec.decode(codec.encode(audio), audio.shape[-1])
    assert torch.allclose(decoded, expected, atol=1e-6)
    codec.quantize = True
    assert not torch.allclose(codec.decode(codec.encode(audio), audio.shape[-1]), expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind, limit",
    [
        ("audiocraft", lambda model: model.set_num_codebooks(1)),
        ("huggingface", lambda model: model.set_num_codebooks(1)),
        ("encodec", lambda model: model.set_target_bandwidth(0.9)),
    ],
)
def test_quantiser_uses_the_codebooks_that_are_active(kind, limit):
    make, rebuild, _, _ = MODELS[kind]
    model = make()
    audio = make_audio(16000)
    full = rebuild(model, audio)
    limit(model)
    expected = rebuild(model, audio)
    codec = EncodecCodec(model)
    assert not torch.allclose(expected, full, atol=1e-5)
    assert torch.allclose(codec.decode(codec.encode(audio), 16000), expected[..., :16000], atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_a_copy_decodes_by_itself(kind):
    codec = EncodecCodec(MODELS[kind][0]())
    audio = make_audio(codec.sample_rate, 0.2)
    expected = codec.decode(codec.encode(audio))  # before the copy: weight norm is not copied until it has run frozen
    clone = copy.deepcopy(codec)
    for tensor in [*codec.parameters(), *codec.buffers()]:
        tensor.zero_()
    assert torch.equal(clone.decode(clone.encode(audio)), expected)


@pytest.mark.parametrize("kind", MODELS)
def test_frames_agree_with_encode(kind):
    codec = EncodecCodec(MODELS[kind][0]())
    hop = codec.hop_length
    for samples in [1, 2, 5, 33, hop - 1, hop, hop + 1, 2 * hop + 7, 10 * hop - 1, 10 * hop + 1]:
        latents = codec.encode(make_audio(16000)[..., :samples])
        assert latents.shape[2] == codec.num_frames(samples), samples
        assert codec.decode(latents, samples).shape == (2, 1, samples)


def test_stereo_models_without_quantiser_are_supported():
    sizes = {"channels": 2, "dimension": 8, "n_filters": 2, "ratios": [4, 4]}
    model = EncodecModel(
        SEANetEncoder(**sizes), SEANetDecoder(**sizes), DummyQuantizer(), frame_rate=1000, sample_rate=16000, channels=2
    ).eval()
    codec, audio = EncodecCodec(model), make_audio(16000).reshape(1, 2, 16000)
    assert torch.allclose(codec.decode(codec.encode(audio), 16000), model(audio).x, atol=1e-6)
    with pytest.raises(ValueError, match=r"\[B, 2, S\]"):
        codec.encode(audio[:, :1])


def renormalizing() -> nn.Module:
    model = audiocraft_model()
    model.renormalize = True
    return model


@pytest.mark.parametrize(
    "make",
    [
        renormalizing,
        lambda: encodec_model(normalize=True, segment=1.0),
        lambda: HFEncodecCompressionModel(transformers_model(normalize=True)),
        lambda: transformers_model(chunk_length_s=1.0, overlap=0.01),
    ],
    ids=["audiocraft", "encodec", "huggingface", "transformers"],
)
def test_models_with_a_scale_beside_the_latents_are_refused(make):
    with pytest.raises(ValueError, match="use encodec_24khz, facebook/encodec_32khz"):
        EncodecCodec(make())


@pytest.mark.parametrize(
    "make",
    [lambda: InterleaveStereoCompressionModel(audiocraft_model()), lambda: DAC.__new__(DAC), lambda: nn.Linear(1, 1)],
    ids=["interleaved stereo", "DAC", "no codec"],
)
def test_other_models_are_refused_by_name(make):
    model = make()
    with pytest.raises(TypeError, match=f"{type(model).__name__}.*DAC is not supported"):
        EncodecCodec(model)


def test_from_audiocraft_takes_its_pretrained_names():
    codec = EncodecCodec.from_audiocraft("//pretrained/debug_compression_model")
    assert (codec.sample_rate, codec.frame_rate) == (32000, 25)


def test_from_encodec_package_loads_plain_tensors_only(monkeypatch):
    asked = {}

    def load(url: str, **options) -> dict:
        asked.update(options, url=url)
        return {
            key: torch.full_like(value, 0.01)
            for key, value in encodec.EncodecModel.encodec_model_24khz(pretrained=False).state_dict().items()
        }

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    codec = EncodecCodec.from_encodec_package("encodec_24khz", quantize=False)
    assert (codec.sample_rate, codec.frame_rate, codec.latent_channels) == (24000, 75, 128)
    assert next(codec.parameters()).eq(0.01).all()
    assert asked["weights_only"] is True
    assert asked["check_hash"] is True
    assert asked["url"].endswith("d7cc33bc.th")
    with pytest.raises(ValueError, match="encodec_48khz.*use 'encodec_24khz'"):
        EncodecCodec.from_encodec_package("encodec_48khz")
