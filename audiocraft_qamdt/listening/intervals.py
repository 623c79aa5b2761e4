"""Means and win rates with intervals of 95 %, of judgements that share raters and clips."""

from __future__ import annotations

import typing as tp
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class Judgement(tp.NamedTuple):
    """One rater's value for one clip.

    Args:
        rater: who gave it.
        clip: name of the clip, the same for all systems.
        value: the rating; of two systems 1 = the first wins, 0.5 = a tie, 0 = the second wins.
    """

    rater: str
    clip: str
    value: float


@dataclass(frozen=True)
class Estimate:
    """A mean.

    Args:
        mean: of the judgements.
        low, high: 95 % interval; None = a single judgement has none.
        judgements, raters, clips: how many there are.
    """

    mean: float
    low: float | None
    high: float | None
    judgements: int
    raters: int
    clips: int


def mean_of(judgements: Sequence[Judgement]) -> Estimate:
    """Return the mean and its interval, by Student's t over raters or clips, whichever are fewer."""
    spread = _Spread.of(judgements)
    if spread.error is None:
        return spread.estimate(None, None)
    half = spread.student() * spread.error
    return spread.estimate(spread.mean - half, spread.mean + half)


def rate_of(judgements: Sequence[Judgement]) -> Estimate:
    """Return a win rate and its interval: Wilson's, of as many independent judgements as the error is worth.

    Where all judgements are the same, they are worth one for each rater or clip, whichever are fewer.
    """
    spread = _Spread.of(judgements)
    if spread.error is None:
        return spread.estimate(None, None)
    worth = float(spread.fewest)
    if spread.error > 0:
        worth = len(judgements) * (spread.independent_error / spread.error) ** 2
    square = spread.student() ** 2
    middle = (spread.mean + square / (2 * worth)) / (1 + square / worth)
    variance = spread.mean * (1 - spread.mean) / worth + square / (4 * worth**2)
    half = (square * variance) ** 0.5 / (1 + square / worth)
    return spread.estimate(max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True)
class _Spread:
    """A mean and its standard error, were the judgements independent, and as they share raters and clips."""

    mean: float
    independent_error: float
    error: float | None
    judgements: int
    raters: int
    clips: int

    @classmethod
    def of(cls, judgements: Sequence[Judgement]) -> _Spread:
        """Add what raters share to what clips share, less what both hold (Cameron, Gelbach and Miller 2011).

        The error is never below that of raters, of clips or of independent judgements alone.
        """
        values = np.array([one.value for one in judgements], dtype=float)
        residuals = values - values.mean()
        each = _variance(residuals, range(len(values))) or 0.0
        shared = [_variance(residuals, [one[key] for one in judgements]) for key in (0, 1)]
        known = [variance for variance in shared if variance is not None]
        both = sum(known) - each if len(known) == 2 else sum(known)
        counts = [len({one[key] for one in judgements}) for key in (0, 1)]
        error = max(both, each, *known) ** 0.5 if known else None
        return cls(float(values.mean()), each**0.5, error, len(values), *counts)

    @property
    def fewest(self) -> int:
        """Of raters and clips, as many as there are more than one of."""
        return min(count for count in (self.raters, self.clips) if count > 1)

    def student(self) -> float:
        """Return the half width in standard errors."""
        from scipy.stats import t

        return float(t(self.fewest - 1).ppf(0.975))

    def estimate(self, low: float | None, high: float | None) -> Estimate:
        """Return the result with an interval."""
        return Estimate(self.mean, low, high, self.judgements, self.raters, self.clips)


def _variance(residuals: np.ndarray, groups: Sequence[tp.Hashable]) -> float | None:
    """Return the variance of the mean, with residuals summed by group; None = there is one group only."""
    sums: dict[tp.Hashable, float] = {}
    for residual, name in zip(residuals, groups, strict=True):
        sums[name] = sums.get(name, 0.0) + float(residual)
    count = len(sums)
    if count < 2:
        return None
    return count / (count - 1) * sum(value**2 for value in sums.values()) / len(residuals) ** 2
