"""Severity is what it says: none at 0, more the higher, and where along the track it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from audiocraft_qamdt.playground.degradation import CALIBRATION_KINDS, HELD_OUT_KINDS, KINDS, degrade
from audiocraft_qamdt.playground.synthesis import compose, render

RATE = 16000


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    return render(compose(0, 9), 2.0, RATE)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.dot(first, second) / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("kind", KINDS)
def test_severity_zero_changes_nothing(kind, music):
    assert np.array_equal(degrade(music, RATE, kind, 0.0, rng()), music)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"codec"}))  # even a mild codec drops what nobody hears
def test_the_smallest_severity_is_hardly_there(kind, music):
    assert likeness(degrade(music, RATE, kind, 1e-4, rng()), music) > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_more_severity_is_less_like_the_music(kind, music):
    alike = [likeness(degrade(music, RATE, kind, severity, rng()), music) for severity in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert alike == sorted(alike, reverse=True)
    assert len(set(alike)) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_severity_acts_where_it_is(kind, music):
    half = len(music) // 2
    curve = np.zeros(len(music))
    curve[half:] = 0.8
    degraded = degrade(music, RATE, kind, curve, rng())
    assert np.array_equal(degraded[:half], music[:half])
    assert likeness(degraded[half:], music[half:]) < 0.99


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("severity", [0.3, 1.0])
def test_degraded_audio_is_audio_and_repeats_with_the_generator(kind, severity, music):
    degraded = degrade(music, RATE, kind, severity, rng(1))
    assert degraded.dtype == np.float32
    assert degraded.shape == music.shape
    assert np.isfinite(degraded).all()
    assert np.abs(degraded).max() <= 1
    assert np.array_equal(degraded, degrade(music, RATE, kind, severity, rng(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_silence_stays_finite(kind):
    assert np.isfinite(degrade(np.zeros(4000, np.float32), RATE, kind, 0.5, rng())).all()


def test_noise_has_the_level_that_is_said(music):
    noise = degrade(music, RATE, "noise", 0.5, rng()) - music
    assert 20 * np.log10(noise.std() / np.sqrt(np.mean(music**2))) == pytest.approx(42 * 0.5 - 48, abs=0.3)


def test_bandlimit_cuts_where_it_is_said(music):
    limited = degrade(music, RATE, "bandlimit", 0.5, rng())
    power = np.abs(np.fft.rfft(limited * np.hanning(len(limited)))) ** 2
    frequencies = np.fft.rfftfreq(len(limited), 1 / RATE)
    cutoff = 8000 * (400 / 8000) ** 0.5
    assert power[frequencies > 1.1 * cutoff].max() < 1e-6 * power.max()
    assert power[(frequencies > 0.8 * cutoff) & (frequencies < cutoff)].max() > 1e-5 * power.max()


@pytest.mark.parametrize(
    "kind, severity, message",
    [
        ("reverb", 0.5, "unknown degradation 'reverb': choose one of noise, .*dropouts"),
        ("noise", 1.5, "between 0 and 1, got 1.5"),
        ("noise", -0.1, "between 0 and 1"),
        ("noise", np.nan, "between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused(kind, severity, message, music):
    with pytest.raises(ValueError, match=message):
        degrade(music, RATE, kind, severity, rng())


def test_what_calibrates_and_what_tests_do_not_overlap():
    assert not set(CALIBRATION_KINDS) & set(HELD_OUT_KINDS)
