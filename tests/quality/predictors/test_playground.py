"""The playground's judge hears the true severity of faults, alone and together, in pieces that it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from audiocraft_qamdt.playground.dataset import make_track
from audiocraft_qamdt.quality.predictors.base import Predictor, load_predictor

RATE = 16000


@pytest.fixture(scope="module")
def judge() -> Predictor:
    return load_predictor("playground")


def test_it_ranks_tracks_with_several_faults_by_their_true_severity(judge):
    tracks = [make_track(21, index, 3.0, RATE) for index in range(80)]
    severities = [sidecar["playground"]["severity"] for _, sidecar in tracks]
    windows = torch.from_numpy(np.stack([audio for audio, _ in tracks])).float().div(32768).unflatten(1, (3, RATE))
    scores = judge.score(windows.flatten(0, 1), RATE).view(80, 3).mean(1)
    assert spearmanr(scores, severities).statistic < -0.9
    assert 1 <= scores.min() < 3
    assert 4 < scores.max() <= 5


def test_loudness_and_silence_do_not_matter(judge):
    audio = torch.from_numpy(make_track(21, 0, 1.0, RATE)[0]).float()[None] / 32768
    assert torch.allclose(judge.score(audio, RATE), judge.score(0.1 * audio, RATE), atol=1e-3)
    assert judge.score(torch.zeros(2, RATE), RATE).isfinite().all()
