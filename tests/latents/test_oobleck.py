"""Stable Audio's autoencoder as a codec: stereo stays stereo, lengths are exact, files are what diffusers writes."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderOobleck
from omegaconf import OmegaConf
from torch import Tensor

from audiocraft_qamdt import builders
from audiocraft_qamdt.latents.chunks import decode_long, encode_long
from audiocraft_qamdt.latents.oobleck import OobleckCodec

from ..helpers.oobleck import CHANNELS, HOP, exact_oobleck, save_oobleck, small_oobleck

RATE = 44100


def tone(frequency: float, samples: int = 1600) -> Tensor:
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(samples) / RATE)


@pytest.fixture
def codec() -> OobleckCodec:
    return OobleckCodec(exact_oobleck())


@pytest.fixture
def mixing() -> OobleckCodec:
    torch.manual_seed(0)
    return OobleckCodec(small_oobleck())


def test_the_published_shape_is_64_channels_at_21_hz_for_both_channels():
    with torch.device("meta"):
        codec = OobleckCodec(AutoencoderOobleck())
    assert (codec.sample_rate, codec.channels, codec.hop_length) == (RATE, 2, 2048)
    assert (codec.latent_channels, codec.num_frames(20 * RATE), codec.latent_bins) == (64, 431, 1)


def test_latents_are_the_mean_of_diffusers_posterior(mixing):
    audio = torch.stack([tone(440), tone(300)])[None]
    with torch.no_grad():
        mean = mixing.vae.encode(audio).latent_dist.mean
        decoded = mixing.vae.decode(mean).sample
    latents = mixing.encode(audio)
    assert latents.shape == (1, CHANNELS, 200, 1)
    assert torch.equal(latents[..., 0], mean)
    assert torch.equal(mixing.decode(latents), decoded)


@pytest.mark.parametrize("right", [torch.zeros(1600), tone(300)], ids=["silence", "another tone"])
def test_left_and_right_come_back_where_they_were(codec, right):
    audio = torch.stack([tone(440), right])[None]
    decoded = codec.decode(codec.encode(audio), 1600)
    assert torch.allclose(decoded, audio, atol=1e-5)
    swapped = codec.decode(codec.encode(audio.flip(1)), 1600)
    assert torch.allclose(swapped, audio.flip(1), atol=1e-5)


def test_a_batch_of_two_is_two_batches_of_one(mixing):
    audio = torch.stack([torch.stack([tone(440), tone(300)]), torch.stack([tone(100), torch.zeros(1600)])])
    latents = mixing.encode(audio)
    for index in range(2):
        assert torch.allclose(latents[index], mixing.encode(audio[index : index + 1])[0], atol=1e-5)
        assert torch.allclose(mixing.decode(latents)[index], mixing.decode(latents[index : index + 1])[0], atol=1e-5)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 1234])
def test_lengths_are_exact(codec, samples):
    audio = torch.stack([tone(440, samples), tone(300, samples)])[None]
    latents = codec.encode(audio)
    assert latents.shape[2] == codec.num_frames(samples)
    assert torch.allclose(codec.decode(latents, samples), audio, atol=1e-5)


def test_statistics_give_unit_variance_and_the_same_audio(codec):
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(4, 2, 8000, generator=generator) * torch.tensor([1.0, 0.2])[:, None]
    plain = codec.decode(codec.encode(audio))
    codec.estimate_statistics(iter([audio]))
    latents = codec.encode(audio)
    assert torch.allclose(latents.std(dim=(0, 2)), torch.ones(CHANNELS, 1), atol=1e-2)
    assert torch.allclose(codec.decode(latents), plain, atol=1e-4)


def test_long_clips_are_decoded_in_chunks_with_left_and_right_apart(codec):
    audio = torch.stack([tone(440, 8000), torch.zeros(8000)])[None]
    decoded = decode_long(codec, codec.encode(audio), 7990, window=200, overlap=64)
    assert torch.allclose(decoded, audio[..., :7990], atol=1e-5)


@pytest.mark.parametrize("samples", [1000, 8000, 8001])
def test_long_clips_are_encoded_in_chunks(mixing, samples):
    audio = torch.stack([tone(440, samples), tone(300, samples)])[None]
    whole = mixing.encode(audio)
    assert torch.allclose(encode_long(mixing, audio, window=200, overlap=64), whole, atol=1e-5)


def test_mono_audio_is_refused_with_the_shape_that_is_wanted(codec):
    with pytest.raises(ValueError, match=r"OobleckCodec takes floating point audio \[B, 2, S\] at 44100 Hz"):
        codec.encode(torch.zeros(1, 1, 100))


def test_half_precision_audio_and_weights_are_computed_in_float32(tmp_path):
    codec = OobleckCodec.from_pretrained(save_oobleck(tmp_path, dtype=torch.float16))
    audio = torch.stack([tone(440), torch.zeros(1600)])[None]
    with torch.autocast("cpu", torch.bfloat16):
        decoded = codec.decode(codec.encode(audio.half()).bfloat16(), 1600)
    assert decoded.dtype == torch.float32
    assert torch.allclose(decoded, audio, atol=5e-3)
    assert decoded[:, 1].abs().max() < 1e-5


@pytest.mark.parametrize("alone", [False, True], ids=["pipeline", "autoencoder alone"])
def test_local_folders_are_loaded_by_name(tmp_path, alone):
    folder = save_oobleck(tmp_path) / ("vae" if alone else "")
    cfg = {"sample_rate": RATE, "channels": 2, "latents": {"codec": "oobleck", "oobleck": {"checkpoint": str(folder)}}}
    codec = builders.get_codec(OmegaConf.create(cfg).latents)
    builders.check_codec(OmegaConf.create(cfg), codec)
    assert torch.equal(codec.probe, OobleckCodec(exact_oobleck()).probe)
    with pytest.raises(ValueError, match="channels=1, but latents.codec=oobleck works at 2: set channels=2"):
        builders.check_codec(OmegaConf.create({**cfg, "channels": 1}), codec)


@pytest.mark.parametrize("folder", ["vae/", ""], ids=["pipeline", "autoencoder alone"])
def test_hub_ids_are_loaded_by_name(hub_server, tmp_path, folder):
    files = (save_oobleck(tmp_path) / "vae").iterdir()
    hub_server.models["owner/stereo"] = {f"{folder}{path.name}": path.read_bytes() for path in files}
    codec = OobleckCodec.from_pretrained("owner/stereo")
    assert torch.equal(codec.probe, OobleckCodec(exact_oobleck()).probe)


def test_pickled_weights_are_refused(tmp_path):
    vae = exact_oobleck()
    vae.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(builders.MissingWeights, match="could not be loaded.*safetensors"):
        builders.get_codec(OmegaConf.create({"codec": "oobleck", "oobleck": {"checkpoint": str(tmp_path)}}))


@pytest.mark.parametrize(
    "checkpoint, error, message",
    [
        (None, ValueError, "latents.oobleck: set checkpoint, for example .*stabilityai/stable-audio-open-1.0"),
        ("/nowhere", builders.MissingWeights, "'/nowhere' could not be loaded.*\n.*latents.oobleck.checkpoint"),
    ],
    ids=["none", "not there"],
)
def test_a_checkpoint_that_is_missing_is_named(checkpoint, error, message):
    with pytest.raises(error, match=message):
        builders.get_codec(OmegaConf.create({"codec": "oobleck", "oobleck": {"checkpoint": checkpoint}}))


def test_an_encoder_that_does_not_fit_the_decoder_is_refused():
    with pytest.raises(ValueError, match="encoder_hidden_size=8 must be twice decoder_input_channels=8"):
        OobleckCodec(
            AutoencoderOobleck(
                8, downsampling_ratios=[2], channel_multiples=[1], decoder_channels=8, decoder_input_channels=8
            )
        )
