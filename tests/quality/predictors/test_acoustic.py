"""The acoustic predictor hears the playground's degradations, on seeds and kinds that fit none of its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiocraft_qamdt.playground.dataset import make_track, to_pcm16
from audiocraft_qamdt.playground.degradation import CALIBRATION_KINDS, HELD_OUT_KINDS, degrade
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.predictors.acoustic import (
    CALIBRATIONS,
    KNOTS,
    MEASUREMENTS,
    Acoustic,
    calibrate,
    calibration_examples,
)

RATE = 16000


def rank_correlation(first, second) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def pmos(audio: np.ndarray, sample_rate: int = RATE) -> np.ndarray:
    windows = torch.from_numpy(np.asarray(audio, np.float32)).unfold(0, sample_rate, sample_rate)
    return Acoustic().score(windows, sample_rate).numpy()


def from_pcm16(samples: np.ndarray) -> np.ndarray:
    return samples / np.float32(32768)


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    return render(compose(77, 3), 2.0, RATE)


def test_rank_correlation_on_held_out_seeds():
    """Whole tracks of another seed, as the data set has them: all kinds mixed, some changing along time."""
    scores, severities = [], []
    for index in range(60):
        samples, sidecar = make_track(4321, index, 4.0, RATE)
        scores.append(pmos(from_pcm16(samples)).mean())
        severities.append(sidecar["playground"]["severity"])
    assert rank_correlation(scores, severities) < -0.9


@pytest.fixture(scope="module")
def held_out() -> dict[str, list[tuple[float, float]]]:
    """Kind → (score, severity) of tracks of another seed."""
    rng = np.random.default_rng(99)
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in HELD_OUT_KINDS}
    for index in range(24):
        audio = render(compose(8765, index), 3.0, RATE)
        for kind, pairs in found.items():
            severity = rng.beta(1.8, 3.0)
            degraded = from_pcm16(to_pcm16(degrade(audio, RATE, kind, severity, rng)))
            pairs.append((pmos(degraded).mean(), severity))
    return found


def test_rank_correlation_on_held_out_kinds(held_out):
    """The kinds that were held out from the start, together."""
    pairs = [pair for kind in ("codec", "dropouts", "overdrive") for pair in held_out[kind]]
    assert rank_correlation(*zip(*pairs, strict=True)) < -0.8


@pytest.mark.parametrize(
    "kind, at_most",
    [("codec", -0.5), ("dropouts", -0.9), ("overdrive", -0.8), ("pink_noise", -0.6), ("telephone", -0.9)],
)
def test_rank_correlation_on_each_held_out_kind_that_it_hears(held_out, kind, at_most):
    assert rank_correlation(*zip(*held_out[kind], strict=True)) < at_most


def test_what_it_does_not_hear_is_known(held_out):
    """Gating and crossover distortion, divided off by the same rule, are hardly heard: all seven kinds give 0.5."""
    pairs = [pair for kind in HELD_OUT_KINDS for pair in held_out[kind]]
    assert -0.7 < rank_correlation(*zip(*pairs, strict=True)) < -0.4
    assert all(rank_correlation(*zip(*held_out[kind], strict=True)) > -0.5 for kind in ("gating", "crossover"))


@pytest.mark.parametrize("sample_rate", [16000, 44100])
@pytest.mark.parametrize("kind", CALIBRATION_KINDS)
def test_every_step_of_degradation_lowers_the_score(kind, sample_rate):
    for index in range(2):
        audio = render(compose(555, index), 3.0, sample_rate)
        scores = [
            pmos(degrade(audio, sample_rate, kind, severity, np.random.default_rng(0)), sample_rate).mean()
            for severity in (0, 0.25, 0.5, 0.75, 1)
        ]
        assert np.all(np.diff(scores) < 0), scores


def test_frames_follow_a_severity_that_rises(music):
    audio = render(compose(77, 8), 8.0, RATE)
    for kind in CALIBRATION_KINDS:
        rising = degrade(audio, RATE, kind, np.linspace(0, 1, len(audio)), np.random.default_rng(0))
        assert rank_correlation(pmos(rising), np.arange(8)) < -0.9, kind


def test_good_music_is_good_and_silence_is_not(music):
    assert pmos(music).min() > 4
    assert pmos(np.zeros(2 * RATE)).tolist() == [1, 1]


def test_music_without_bass_and_held_samples_are_heard(music):
    spectrum = np.fft.rfft(music)
    spectrum[np.fft.rfftfreq(len(music), 1 / RATE) < 250] = 0
    assert pmos(np.fft.irfft(spectrum)).mean() < pmos(music).mean() - 0.5
    held = np.repeat(music[::4], 4)
    assert pmos(held).mean() < pmos(music).mean() - 1.5


def test_loudness_is_not_quality(music):
    assert pmos(0.05 * music) == pytest.approx(pmos(music), abs=0.01)


def test_windows_of_a_batch_do_not_touch(music):
    windows = torch.from_numpy(music).view(2, RATE)
    together = Acoustic().score(windows, RATE)
    alone = torch.cat([Acoustic().score(window[None], RATE) for window in windows])
    assert together.tolist() == pytest.approx(alone.tolist(), abs=1e-4)


@pytest.mark.parametrize("signal", ["noise", "sine", "square", "click", "constant"])
def test_any_signal_has_a_score_on_the_scale(signal):
    time = np.arange(RATE) / RATE
    signals = {
        "noise": np.random.default_rng(0).standard_normal(RATE),
        "sine": np.sin(2 * np.pi * 440 * time),
        "square": np.sign(np.sin(2 * np.pi * 50 * time)),
        "click": (time == 0.5) * 1.0,
        "constant": np.ones(RATE),
    }
    assert 1 <= pmos(signals[signal])[0] <= 5


def test_every_measurement_is_calibrated_and_its_knots_rise():
    assert list(MEASUREMENTS) == list(CALIBRATIONS) == list(KNOTS)
    for knots in KNOTS.values():
        assert np.all(np.diff(knots, axis=0) >= 0)
        assert (knots[0][1], knots[-1][1]) == (0, 1)


def test_calibration_gives_the_knots_in_the_file():
    knots = calibrate(calibration_examples(), sample_rate=RATE)
    for name in KNOTS:
        # Libraries round differently in the last bits, which the spacing of quiet sample values feels most.
        assert np.array(knots[name]) == pytest.approx(np.array(KNOTS[name]), abs=0.1)
