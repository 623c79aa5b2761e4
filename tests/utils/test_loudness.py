"""Loudness in parts: equal to torchaudio's and AudioCraft's, at any rate, length and number of channels."""

from __future__ import annotations

import math

import pytest
import torch
from torchaudio import functional

from audiocraft_qamdt.utils import loudness, prepared  # noqa: F401
from audiocraft_qamdt.utils.loudness import measure_loudness, normalize_loudness

from audiocraft.data import audio_utils


def bursts(channels: int, samples: int, sample_rate: int, seed: int = 0) -> torch.Tensor:
    """Noise whose level moves by 40 dB, so that both gates have something to leave out."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, samples, generator=generator)
    return noise * 0.2 * 10 ** (torch.sin(torch.arange(samples) / sample_rate) - 1)


@pytest.mark.parametrize("sample_rate", [11025, 16000, 44100])
@pytest.mark.parametrize("seconds", [0.41, 1.0, 10.33, 37.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_it_is_what_torchaudio_measures_of_the_whole(sample_rate, seconds, channels):
    audio = bursts(channels, round(seconds * sample_rate), sample_rate)
    assert measure_loudness(audio, sample_rate) == pytest.approx(
        functional.loudness(audio, sample_rate).item(), abs=1e-3
    )


def test_a_part_is_measured_like_the_same_sound_at_the_beginning(monkeypatch):
    audio = bursts(1, 160000, 16000)
    whole = measure_loudness(audio, 16000)
    monkeypatch.setattr(loudness, "_PART", 0.5)
    assert measure_loudness(audio, 16000) == pytest.approx(whole, abs=1e-3)


def test_normalised_audio_is_audiocrafts():
    audio = bursts(1, 320000, 16000)
    expected = audio_utils.normalize_loudness(audio, 16000, loudness_compressor=True)
    assert torch.allclose(normalize_loudness(audio, 16000), expected, atol=1e-5)
    assert measure_loudness(expected, 16000) == pytest.approx(-14, abs=0.7), "the limiter takes a little"


def test_silence_stays_and_has_no_loudness():
    silence = torch.zeros(1, 16000)
    assert torch.equal(normalize_loudness(silence, 16000), silence)
    assert math.isnan(measure_loudness(silence, 16000))


def test_sound_after_the_last_whole_block_stays_as_it_is():
    audio = torch.zeros(1, 8800)
    audio[:, 8200:] = 0.5
    assert torch.equal(normalize_loudness(audio, 16000), audio)


@pytest.mark.parametrize("shape", [(1, 6000), (6, 16000)])
def test_what_has_no_loudness_is_named(shape):
    with pytest.raises(ValueError, match="at most five channels and 0.4 s"):
        measure_loudness(torch.zeros(shape), 16000)
