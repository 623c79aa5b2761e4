"""What every codec promises, checked on all three, and the statistics on a codec simple enough to compute by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from audiocraft_qamdt.compat import prepare
from audiocraft_qamdt.latents.codec import STD_FLOOR, LatentCodec, LatentStatistics
from audiocraft_qamdt.latents.encodec import EncodecCodec
from audiocraft_qamdt.latents.mdct import MDCTCodec
from audiocraft_qamdt.latents.mel_vae import MelVAECodec


def make_mdct() -> LatentCodec:
    return MDCTCodec(sample_rate=8000, hop=32, channels=4)


def make_encodec() -> LatentCodec:
    prepare()
    from audiocraft.models.builders import get_debug_compression_model

    return EncodecCodec(get_debug_compression_model(sample_rate=16000), quantize=False)


def make_mel_vae() -> LatentCodec:
    vae = AutoencoderKL(1, 1, ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3, (8, 8, 8), norm_num_groups=4)
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=16,
            upsample_initial_channel=16,
            upsample_rates=(5, 4),
            upsample_kernel_sizes=(16, 8),
            normalize_before=False,
        )
    )
    return MelVAECodec(vae, vocoder, n_fft=64)


@pytest.fixture(scope="module", params=[make_mdct, make_encodec, make_mel_vae], ids=lambda make: make.__name__[5:])
def codec(request) -> LatentCodec:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return request.param()


@pytest.fixture(autouse=True)
def unset_statistics(request) -> None:
    if "codec" in request.fixturenames:
        request.getfixturevalue("codec").statistics.set(0.0, 1.0, 0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Halves(LatentCodec):
    """Raw latents are the audio itself: two channels by one bin per frame of two samples."""

    def __init__(self) -> None:
        super().__init__(sample_rate=100, hop_length=2, latent_channels=2, latent_bins=1)

    def _encode(self, audio: Tensor) -> Tensor:
        return audio.unflatten(-1, (-1, 2)).permute(0, 3, 2, 1)

    def _decode(self, latents: Tensor) -> Tensor:
        return latents.permute(0, 3, 2, 1).flatten(2)


def lengths(codec: LatentCodec) -> list[int]:
    hop = codec.hop_length
    return sorted({1, 2, 3, 7, hop - 1, hop, hop + 1, 2 * hop - 1, 2 * hop, 3 * hop + hop // 3, 5 * hop + 1})


def test_frames_agree_with_encode(codec):
    for samples in lengths(codec):
        latents = codec.encode(noise(1, 1, samples))
        assert latents.shape == (1, codec.latent_channels, codec.num_frames(samples), codec.latent_bins), samples
        assert latents.isfinite().all(), samples


def test_decode_gives_exactly_the_samples_asked_for(codec):
    for samples in lengths(codec):
        latents = codec.encode(noise(1, 1, samples))
        everything = codec.decode(latents)
        assert everything.shape == (1, 1, codec.num_frames(samples) * codec.hop_length)
        assert torch.equal(codec.decode(latents, samples), everything[..., :samples])
        longer = codec.decode(latents, everything.shape[-1] + 5 * codec.hop_length)
        assert longer.shape[-1] == everything.shape[-1] + 5 * codec.hop_length
        assert longer[..., -codec.hop_length :].abs().max() == 0
    assert codec.decode(latents, 0).shape == (1, 1, 0)


def test_batch_of_two_is_two_of_one(codec):
    audio = torch.cat([noise(1, 1, 2000), 0.01 * noise(1, 1, 2000, seed=1)])
    latents = codec.encode(audio)
    decoded = codec.decode(latents, 1900)
    for item in range(2):
        alone = codec.encode(audio[item : item + 1])
        assert torch.allclose(latents[item : item + 1], alone, atol=1e-5)
        assert torch.allclose(decoded[item : item + 1], codec.decode(alone, 1900), atol=1e-5)


def test_latents_have_unit_variance(codec):
    batches = [noise(2, 1, 20 * codec.hop_length, seed=seed) for seed in range(3)]
    before = codec.decode(codec.encode(batches[0]))
    codec.estimate_statistics(iter(batches))
    latents = torch.cat([codec.encode(audio) for audio in batches]).double()
    assert codec.statistics.count == 3 * 2 * 20
    assert torch.allclose(latents.mean(dim=(0, 2)), torch.zeros(()).double(), atol=1e-3)
    assert torch.allclose(latents.std(dim=(0, 2), correction=0), torch.ones(()).double(), atol=1e-3)
    assert torch.allclose(codec.decode(codec.encode(batches[0])), before, atol=1e-4)


def test_a_codec_is_frozen(codec):
    torch.nn.ModuleList([codec]).train()
    assert not any(module.training for module in codec.modules())
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    latents = codec.encode(noise(1, 1, 500).requires_grad_())
    assert not latents.requires_grad
    assert not codec.decode(latents.requires_grad_()).requires_grad


def test_autocast_around_a_codec_changes_nothing(codec):
    audio = noise(1, 1, 1000)
    latents = codec.encode(audio)
    decoded = codec.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(audio), latents)
        assert torch.equal(codec.decode(latents), decoded)


@pytest.mark.parametrize(
    "audio",
    [
        noise(1000),
        noise(1, 1000),
        noise(1, 2, 1000),
        noise(1, 1, 0),
        noise(0, 1, 10),
        torch.zeros(1, 1, 1000, dtype=torch.int16),
    ],
    ids=lambda audio: str(audio.shape),
)
def test_wrong_audio_is_refused_by_name(codec, audio):
    with pytest.raises(ValueError, match=rf"{type(codec).__name__}.*\[B, 1, S\] at {codec.sample_rate} Hz"):
        codec.encode(audio)


def test_wrong_latents_are_refused_by_name(codec):
    channels, bins = codec.latent_channels, codec.latent_bins
    for shape in [(1, channels, 4), (1, channels + 1, 4, bins), (1, channels, 4, bins + 1), (1, channels, 0, bins)]:
        with pytest.raises(ValueError, match=rf"\[B, {channels}, T, {bins}\]"):
            codec.decode(torch.zeros(shape))
    with pytest.raises(ValueError, match="samples=-1"):
        codec.decode(torch.zeros(1, channels, 4, bins), -1)


def test_statistics_are_saved_with_the_codec(codec):
    audio = noise(1, 1, 20 * codec.hop_length)
    codec.estimate_statistics([audio])
    expected, state = codec.encode(audio), {key: value.clone() for key, value in codec.state_dict().items()}
    codec.statistics.set(5.0, 2.0, 1)
    codec.load_state_dict(state)
    assert torch.equal(codec.encode(audio), expected)
    assert codec.statistics.count == 20
    assert {key for key in state if key.startswith("statistics.")} == {
        f"statistics.{name}" for name in ("mean", "std", "count")
    }


def test_streamed_statistics_are_those_of_the_whole():
    audio = 1000 + torch.cat([noise(1, 1, 600), 3 * noise(1, 1, 400, seed=1)], dim=-1)
    codec = Halves()
    codec.estimate_statistics(audio.split([2, 598, 100, 300], dim=-1))
    frames = audio.view(-1, 2).double()
    assert torch.allclose(codec.statistics.mean[:, 0].double(), frames.mean(0), rtol=1e-7)
    assert torch.allclose(codec.statistics.std[:, 0].double(), frames.std(0, correction=0), rtol=1e-6)


def test_a_silent_bin_is_not_blown_up():
    audio = noise(1, 1, 1000)
    audio[..., 1::2] *= 1e-9
    codec = Halves()
    codec.estimate_statistics([audio])
    loud, silent = codec.encode(audio).std(dim=(0, 2))[:, 0]
    assert loud == pytest.approx(1, rel=1e-2)
    assert silent < 1e-5
    assert codec.statistics.std[1, 0] == pytest.approx(STD_FLOOR * audio.std().item(), rel=1e-2)


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "no audio"),
        ([torch.zeros(1, 1, 10)], "silent"),
        ([noise(1, 1, 10), torch.full((1, 1, 10), torch.nan)], "batch 1 .* not finite"),
        ([noise(1, 2, 10)], r"\[B, 1, S\]"),
    ],
    ids=["none", "silence", "nan", "stereo"],
)
def test_statistics_refuse_what_they_cannot_come_from(batches, message):
    codec = Halves()
    with pytest.raises(ValueError, match=message):
        codec.estimate_statistics(batches)
    assert codec.statistics.count == 0
    assert torch.equal(codec.statistics.std, torch.ones(2, 1))


@pytest.mark.parametrize("mean, std", [(0.0, 0.0), (0.0, -1.0), (torch.nan, 1.0), (0.0, torch.inf)])
def test_statistics_refuse_impossible_values(mean, std):
    with pytest.raises(ValueError, match="finite"):
        LatentStatistics(2, 3).set(mean, std, 1)


def test_statistics_normalise_per_channel_and_bin():
    statistics = LatentStatistics(2, 3)
    statistics.set(torch.arange(6.0).view(2, 3), torch.arange(1.0, 7).view(2, 3), 1)
    latents = noise(2, 2, 5, 3)
    normalized = statistics.normalize(latents)
    assert torch.allclose(normalized[:, 1, :, 2], (latents[:, 1, :, 2] - 5) / 6)
    assert torch.allclose(statistics.denormalize(normalized), latents, atol=1e-5)
