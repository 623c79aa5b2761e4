"""The acoustic predictor hears the playground's degradations, on seeds and kinds that fit none of its numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiocraft_qamdt.playground.dataset import degraded_examples, make_track, to_pcm16
from audiocraft_qamdt.playground.degradation import CALIBRATION_KINDS, HELD_OUT_KINDS, degrade
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.predictors.acoustic import CALIBRATIONS, KNOTS, MEASUREMENTS, Acoustic, calibrate

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


def test_rank_correlation_on_held_out_kinds():
    """Kinds that resemble what it measures (see `degradation`); on arbitrary kinds it is far lower."""
    rng = np.random.default_rng(99)
    scores, severities = [], []
    for index in range(40):
        audio = render(compose(8765, index), 3.0, RATE)
        for kind in HELD_OUT_KINDS:
            severities.append(rng.beta(1.8, 3.0))
            degraded = degrade(audio, RATE, kind, severities[-1], rng)
            scores.append(pmos(from_pcm16(to_pcm16(degraded))).mean())
    assert rank_correlation(scores, severities) < -0.8


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
    knots = calibrate(degraded_examples(seed=1), sample_rate=RATE)
    for name in KNOTS:
        # Libraries round differently in the last bits, which the spacing of quiet sample values feels most.
        assert np.array(knots[name]) == pytest.approx(np.array(KNOTS[name]), abs=0.1)
