"""Intervals of 95 % and tests by bootstrap: numbers on resampled clips; the draw depends on the clips' names alone."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor

from ..utils.randomness import keyed_seed

if tp.TYPE_CHECKING:
    from scipy.stats.distributions import rv_frozen

REPLICATES = 200
"""How often every number is measured again; the width of an interval is then known to about 5 %."""


def clip_seed(name: str) -> int:
    """Return the seed of a clip's draws, from its name alone."""
    return keyed_seed("bootstrap", name)


def seeded_weights(seed: int) -> Tensor:
    """Return how often a clip counts, [1 + REPLICATES] in float64: once in the number itself, then in each replicate.

    Draws are Poisson's with mean 1 (the Poisson bootstrap, Hanley and MacGibbon 2006). As they come from the clip's
    name alone, no order, batch or process changes them, and clips of one name in two folders are drawn together, as
    pairs are.

    Args:
        seed: `clip_seed` of the clip.
    """
    drawn = torch.poisson(torch.ones(REPLICATES), generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.ones(1), drawn]).double()


def half_width(replicates: Tensor, clips: int) -> float | None:
    """Return half of the 95 % interval around a number, by the deviation of its replicates.

    Percentiles are not used: distances of sets are biased, and more so on clips of which some are drawn twice.

    Args:
        replicates: [REPLICATES], those that could be measured are finite.
        clips: that were drawn from; fewer than two have no interval.
    """
    deviation = _deviation(replicates, clips)
    return None if deviation is None else _student(clips).ppf(0.975) * deviation


def p_value(difference: float, replicates: Tensor, clips: int) -> float | None:
    """Return the probability of a difference at least as large (two-sided) if there were none.

    Args:
        difference: of two numbers.
        replicates: [REPLICATES] of the same difference.
        clips: as in `half_width`.
    """
    deviation = _deviation(replicates, clips)
    if deviation is None:
        return None
    if not deviation:
        return 1.0 if not difference else 0.0
    return float(2 * _student(clips).sf(abs(difference) / deviation))


def _deviation(replicates: Tensor, clips: int) -> float | None:
    """Return the standard deviation: for a mean s / √n, with which `_student` gives the classical interval."""
    finite = replicates[replicates.isfinite()]
    if clips < 2 or len(finite) < 2:
        return None
    return finite.std().item() * (clips / (clips - 1)) ** 0.5


def _student(clips: int) -> rv_frozen:
    from scipy.stats import t

    return t(clips - 1)
