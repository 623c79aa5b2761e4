from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from audiocraft_qamdt.latents.mdct import MDCTCodec, compress, dct_iv, expand, overlap


def music(samples: int, sample_rate: int = 16000, level: float = 0.5, seed: int = 0) -> Tensor:
    """Plucked chords over hiss, [1, 1, samples]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / sample_rate
    audio = 0.01 * torch.randn(samples, generator=generator)
    for note in range(4):
        decay = torch.exp(-6 * ((time + 0.1 * note) % 0.5))
        for harmonic in range(1, 8):
            pitch = 110 * 2 ** (note * 4 / 12) * harmonic
            audio = audio + decay / harmonic * torch.sin(2 * math.pi * pitch * time)
    return (level * audio / audio.abs().max())[None, None]


def snr(audio: Tensor, decoded: Tensor) -> float:
    error = (audio.double() - decoded.double()).square().sum()
    return (10 * torch.log10(audio.double().square().sum() / error)).item()


def direct_mdct(audio: Tensor, hop: int, frame: int) -> Tensor:
    """The textbook sum for one inner frame, whose 2 * hop samples are centred on its block."""
    start = frame * hop - hop // 2
    n = torch.arange(2 * hop, dtype=torch.float64)
    window = torch.sin(math.pi / (2 * hop) * (n + 0.5))
    k = torch.arange(hop, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / hop * (n - hop / 2 + 0.5) * (k + 0.5))
    return math.sqrt(2 / hop) * basis @ (window * audio[start : start + 2 * hop].double())


def test_inner_frames_are_the_mdct():
    hop, audio = 32, music(32 * 6)[0, 0]
    coefficients = dct_iv(overlap(audio.view(6, hop)))
    for frame in range(1, 5):
        assert torch.allclose(coefficients[frame].double(), direct_mdct(audio, hop, frame), atol=1e-5)


def test_the_transform_is_orthonormal():
    blocks = music(256 * 9).view(1, 9, 256)
    coefficients = dct_iv(overlap(blocks))
    assert coefficients.square().sum().item() == pytest.approx(blocks.square().sum().item(), rel=1e-5)
    assert torch.allclose(overlap(dct_iv(coefficients), inverse=True), blocks, atol=1e-6)


@pytest.mark.parametrize("level, least", [(0.9, 100), (1e-2, 100), (1e-4, 100), (1e-6, 60)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sample_rate": 32000, "hop": 512, "channels": 8},
        {"compand": 1.0},
        {"compand": 0.2},
        {"compand": 0.05, "split": True},
    ],
    ids=["default", "32khz", "linear", "strong", "split"],
)
def test_round_trip_at_any_level(options, level, least):
    codec = MDCTCodec(**options)
    audio = music(3 * codec.sample_rate, codec.sample_rate, level)
    codec.estimate_statistics([music(3 * codec.sample_rate, codec.sample_rate, seed=1)])
    assert snr(audio, codec.decode(codec.encode(audio), audio.shape[-1])) > least


@pytest.mark.parametrize("samples", [1, 2, 255, 256, 257, 4097, 16001])
def test_round_trip_at_any_length(samples):
    codec, audio = MDCTCodec(), music(16001)[..., -samples:]
    latents = codec.encode(audio)
    assert latents.shape == (1, 16, math.ceil(samples / 256), 16)
    assert snr(audio, codec.decode(latents, samples)) > 100


@pytest.mark.parametrize("split", [False, True])
def test_silence_stays_silence(split):
    codec = MDCTCodec(split=split)
    codec.estimate_statistics([music(16000)])
    assert codec.decode(codec.encode(torch.zeros(1, 1, 1000))).abs().max() < 1e-7


@pytest.mark.parametrize("bin_", [0, 3, 9, 15])
def test_bins_ascend_in_frequency(bin_):
    codec = MDCTCodec(sample_rate=16000, hop=256, channels=16)
    time = torch.arange(16000) / 16000
    frequency = (bin_ + 0.5) * 8000 / 16
    latents = codec.encode(torch.sin(2 * math.pi * frequency * time)[None, None])
    assert latents.square().sum(dim=(0, 1, 2)).argmax() == bin_


def test_channels_are_the_adjacent_coefficients_of_a_bin():
    codec, spectrum = MDCTCodec(hop=8, channels=4, compand=1.0), torch.zeros(1, 1, 8)
    spectrum[..., 5] = 1.0
    latents = codec.encode(dct_iv(spectrum))
    assert latents[0, 1, 0, 1] == pytest.approx(1, abs=1e-5)
    assert latents.abs().sum() == pytest.approx(1, abs=1e-4)


def test_split_latents_are_magnitudes_then_signs():
    plain, split, audio = MDCTCodec(), MDCTCodec(split=True), music(4096)
    latents = split.encode(audio)
    assert latents.shape[1] == split.latent_channels == 2 * plain.latent_channels
    magnitudes, signs = latents.chunk(2, dim=1)
    assert (signs.abs() > 0.01).all()
    assert (magnitudes >= 0).all()
    assert torch.equal(magnitudes * signs.sign(), plain.encode(audio))
    louder = torch.cat([magnitudes, 0.1 * signs], dim=1)  # a sampler's signs are not exactly one
    assert torch.equal(split.decode(louder), split.decode(latents))
    assert not split.decode(torch.cat([-magnitudes, signs], dim=1)).any()


def test_random_signs_are_normally_distributed_latents():
    noise = torch.randn(1, 1, 256 * 512, generator=torch.Generator().manual_seed(0))
    signs = MDCTCodec(split=True).encode(noise).chunk(2, dim=1)[1].flatten()
    normal = torch.special.ndtr(signs.sort().values)
    assert (normal - torch.linspace(0, 1, len(normal))).abs().max() < 0.01  # Kolmogorov and Smirnov's distance


def test_companding_tames_the_tails_and_levels_the_bins():
    def kurtosis(latents: Tensor) -> float:
        centred = latents - latents.mean(dim=(0, 2), keepdim=True)
        return (centred.pow(4).mean(dim=(0, 2)) / centred.square().mean(dim=(0, 2)).square()).median().item()

    audio = music(64000)
    linear, companded = (MDCTCodec(compand=power).encode(audio) for power in (1.0, 0.4))
    assert kurtosis(companded) < 0.7 * kurtosis(linear)
    spread = [latents.std(dim=(0, 1, 2)).max() / latents.std(dim=(0, 1, 2)).min() for latents in (linear, companded)]
    assert spread[1] < spread[0] / 3


def test_companding_is_odd_monotonous_smooth_and_invertible():
    x = torch.cat([torch.zeros(1), torch.logspace(-9, 1, 200)])
    y = compress(x, 0.4)
    assert torch.equal(compress(-x, 0.4), -y)
    assert y[0] == 0
    assert (y.diff() > 0).all()
    assert torch.allclose(expand(y, 0.4), x, rtol=1e-5, atol=0)
    near_zero = y[1:20] / x[1:20]
    assert near_zero.max() / near_zero.min() < 1.001


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hop": 255, "channels": 5}, "hop=255"),
        ({"hop": 256, "channels": 10}, "channels=10"),
        ({"hop": 0}, "hop=0"),
        ({"compand": 0.0}, "compand=0.0"),
        ({"compand": 1.5}, "compand=1.5"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MDCTCodec(**options)
