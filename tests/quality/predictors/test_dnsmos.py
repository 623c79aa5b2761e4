"""DNSMOS as speechmos has it, networks included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiocraft_qamdt.playground.degradation import degrade
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.annotate import cut_windows
from audiocraft_qamdt.quality.predictors.base import load_predictor

dnsmos = pytest.importorskip("speechmos.dnsmos")

RATE = 16000


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    """Music, and the same under noise."""
    music = render(compose(5, 1), 10.0, RATE)
    noisy = degrade(music, RATE, "noise", 1.0, np.random.default_rng(0))
    size = cut_windows(torch.from_numpy(music), RATE, 9.01, 5.0)[0].shape[0]
    return torch.stack([torch.from_numpy(audio[:size]) for audio in (music, noisy)])


@pytest.mark.parametrize("score, key", [("OVRL", "ovrl_mos"), ("BAK", "bak_mos"), ("P808", "p808_mos")])
def test_scores_are_the_packages_own(windows, score, key):
    predictor = load_predictor(f"dnsmos/{score}", "cpu")
    expected = [float(np.clip(dnsmos.run(window.numpy(), RATE)[key], 1, 5)) for window in windows]
    assert predictor.score(windows, RATE).tolist() == pytest.approx(expected, abs=1e-4)
    assert predictor.name == f"dnsmos/{score}"


def test_it_hears_noise(windows):
    clean, noisy = load_predictor("dnsmos/BAK", "cpu").score(windows, RATE).tolist()
    assert clean > noisy


def test_a_score_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="dnsmos/PQ: choose one of OVRL, SIG, BAK, P808"):
        load_predictor("dnsmos/PQ", "cpu")
