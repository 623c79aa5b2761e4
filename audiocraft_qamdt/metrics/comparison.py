"""Whether a number of one set of clips differs from the same number of another one, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .base import Number
from .bootstrap import half_width, p_value


@dataclass(frozen=True)
class Comparison:
    """A difference between two sets of clips.

    Args:
        measured: quantity and instrument.
        first, second: the numbers.
        difference: first − second.
        ci95: half of its 95 % interval; None = it has none.
        p: probability of a difference at least as large if there were none (two-sided); None = not known.
    """

    measured: str
    first: float
    second: float
    difference: float
    ci95: float | None
    p: float | None


def compare(first: Number, second: Number, *replicates: Mapping[str, Tensor]) -> Comparison:
    """Compare two numbers of one kind.

    Clips of the same name in both sets are pairs: they are resampled together, so that what both share cancels.

    Args:
        first, second: the numbers.
        replicates: of the first set and of the second, by quantity and instrument, see `Metric.replicates`.
    """
    name, difference = first.measured, first.value - second.value
    if any(name not in known for known in replicates):
        return Comparison(name, first.value, second.value, difference, None, None)
    drawn, clips = replicates[0][name] - replicates[1][name], min(first.clips, second.clips)
    interval, chance = half_width(drawn, clips), p_value(difference, drawn, clips)
    return Comparison(name, first.value, second.value, difference, interval, chance)
