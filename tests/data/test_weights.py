"""Weights from p-MOS, and the share of clips that the published loader mislabels."""

from __future__ import annotations

import math
import random

import pytest

from audiocraft_qamdt.data.weights import acceptance, sampling_weights, share_of_other_labels


@pytest.mark.parametrize("pmos, share", [(3.05, math.exp(-5)), (3.85, math.exp(-1)), (4.05, 1), (5.0, 1)])
def test_published_acceptance_is_that_of_its_constant(pmos, share):
    assert acceptance(pmos) == pytest.approx(share, rel=2e-3)
    assert acceptance(pmos) == pytest.approx(min(1, math.exp(5 * pmos) / 623787092.84794), rel=1e-6)
    assert sampling_weights([pmos], "published") == [acceptance(pmos)]


def test_unknown_weights_are_named():
    with pytest.raises(ValueError, match="weights='steep' is unknown: choose one of exponential, published"):
        sampling_weights([3.0], "steep")


def test_most_clips_of_the_published_training_have_another_tracks_quality():
    """The loader's loop, played with its own numbers (mean 3.80, standard deviation 0.20), against the closed form."""
    rng = random.Random(0)
    pmos = [rng.gauss(3.80, 0.20) for _ in range(20000)]
    others = 0
    for own in range(len(pmos)):
        index = own
        while rng.random() >= math.exp(5 * pmos[index]) / 623787092.84794:
            index = rng.randrange(len(pmos))
        others += index != own
    assert others / len(pmos) == pytest.approx(share_of_other_labels(3.80, 0.20), abs=0.01)
    assert share_of_other_labels(3.80, 0.20) == pytest.approx(0.612, abs=0.0005)
