"""Sampling weights from p-MOS, and what the published loader does with them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

STEEPNESS = 5.0
"""k of exp(k · p-MOS): the published code's."""

PUBLISHED_FULL = math.log(623787092.84794) / STEEPNESS
"""p-MOS from which a track is always taken, 4.0503: `val` in hhhh.py, line 200."""

KINDS = ("exponential", "published")


def acceptance(pmos: float) -> float:
    """Return the probability with which the published loader takes a p-MOS: min(1, exp(5 (s − 4.05)))."""
    return math.exp(min(0.0, STEEPNESS * (pmos - PUBLISHED_FULL)))


def sampling_weights(pmos: Sequence[float], kind: str = "exponential", steepness: float = STEEPNESS) -> list[float]:
    """Return the sampling weight of each track.

    Args:
        kind: `exponential` = exp(steepness · p-MOS), divided by the largest (the published code's, without its upper
            limit); `published` = `acceptance`.
    Raises:
        ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"weights={kind!r} is unknown: choose one of {', '.join(KINDS)}")
    if kind == "published":
        return [acceptance(score) for score in pmos]
    best = max(pmos)
    return [math.exp(steepness * (score - best)) for score in pmos]


def share_of_other_labels(mean: float, std: float) -> float:
    """Return the share of clips to which the published loader gives another track's quality, for normal p-MOS.

    It redraws the index, and the p-MOS with it, until one is taken, after the waveform was loaded (hhhh.py, lines 201
    to 220 after 175 to 195): a clip keeps its own quality if that is taken at the first draw.
    """
    normal = statistics.NormalDist()
    distance = (PUBLISHED_FULL - mean) / std  # E[min(1, exp(k (s − c)))], in closed form
    below = math.exp(STEEPNESS * (mean - PUBLISHED_FULL) + (STEEPNESS * std) ** 2 / 2)
    return 1 - (normal.cdf(-distance) + below * normal.cdf(distance - STEEPNESS * std))
