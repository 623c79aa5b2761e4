"""The playground's classifier: it can be trained, and the committed one knows the playground and hears its faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiocraft_qamdt.metrics.frechet import Moments, frechet_distance
from audiocraft_qamdt.playground.classifier import (
    CLASSES,
    HELD_OUT_SEED,
    SAMPLE_RATE,
    TRAIN_SEED,
    WEIGHTS,
    cut,
    evaluate_classifier,
    load_classifier,
    save_classifier,
    train_classifier,
)
from audiocraft_qamdt.playground.degradation import CALIBRATION_KINDS, degrade
from audiocraft_qamdt.playground.synthesis import compose, render


@pytest.fixture(scope="module")
def committed():
    return load_classifier()


@pytest.fixture(scope="module")
def pieces():
    return [render(compose(HELD_OUT_SEED, index), 3.0, SAMPLE_RATE) for index in range(20)]


def test_a_short_training_learns_and_repeats(tmp_path):
    classifier, losses = train_classifier(pieces=16, epochs=3, batch_size=16)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    again, repeated = train_classifier(pieces=16, epochs=3, batch_size=16)
    assert repeated == losses
    save_classifier(classifier, tmp_path / "classifier.safetensors")
    loaded = load_classifier(tmp_path / "classifier.safetensors").state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in again.state_dict().items())


def test_the_committed_one_knows_pieces_it_never_saw(committed):
    assert HELD_OUT_SEED != TRAIN_SEED
    measured = evaluate_classifier(committed, pieces=40)
    assert measured["clean accuracy"] > 0.95
    assert measured["degraded accuracy"] > 0.85
    assert measured["severity correlation"] > 0.8
    assert WEIGHTS.stat().st_size < 300_000
    assert len(CLASSES) == 14


def moments(classifier, clips) -> Moments:
    found = Moments.empty(64)
    for clip in clips:
        found.add(classifier.classify(torch.from_numpy(clip), SAMPLE_RATE).embedding)
    return found


@pytest.fixture(scope="module")
def clean(committed):
    """Statistics of other clean pieces, the reference that clips are judged by."""
    return moments(committed, (render(compose(HELD_OUT_SEED + 1, index), 3.0, SAMPLE_RATE) for index in range(30)))


@pytest.mark.parametrize("kind", CALIBRATION_KINDS)
def test_the_distance_to_clean_music_grows_with_every_fault(committed, pieces, clean, kind):
    distances = []
    for severity in (0.0, 0.5, 1.0):
        degraded = (degrade(clip, SAMPLE_RATE, kind, severity, np.random.default_rng(0)) for clip in pieces)
        distances.append(frechet_distance(moments(committed, degraded), clean))
    assert distances == sorted(distances)
    assert distances[-1] > 1.5 * distances[0]


def test_the_level_does_not_count_and_short_clips_are_repeated(committed, pieces):
    clip = torch.from_numpy(pieces[0])
    loud, quiet = (committed.classify(clip * gain, SAMPLE_RATE).embedding for gain in (1.0, 0.01))
    assert loud.shape == (5, 64)
    assert torch.allclose(loud, quiet, atol=1e-3)
    assert cut(clip[:4000], SAMPLE_RATE).shape == (1, SAMPLE_RATE)
    assert committed.classify(torch.zeros(SAMPLE_RATE), SAMPLE_RATE).embedding.isfinite().all()


def test_missing_weights_name_the_command():
    with pytest.raises(FileNotFoundError, match="qamdt playground-classifier --out /nowhere/a.safetensors"):
        load_classifier("/nowhere/a.safetensors")
