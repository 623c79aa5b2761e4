"""How far raters agree: Krippendorff's alpha."""

from __future__ import annotations

import typing as tp
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

Difference = tp.Literal["nominal", "ordinal", "interval"]
"""What two values differ by: at all, in rank, or in number."""


def krippendorff_alpha(units: Mapping[Hashable, Sequence[float]], difference: Difference) -> float | None:
    """Return Krippendorff's alpha: 1 − observed disagreement / disagreement by chance.

    Formulas C and D of K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): any number of raters,
    any of whom may have left units out.

    Args:
        units: what was judged → values that raters gave it, in any order.
        difference: kind of the values.
    Returns:
        1 = perfect agreement, 0 = as by chance; None = no unit has two values, or all values are the same.
    """
    paired = [list(values) for values in units.values() if len(values) > 1]
    levels = sorted({value for values in paired for value in values})
    if len(levels) < 2:
        return None
    coincidences = np.sum([_coincidences(values, levels) for values in paired], axis=0)  # o_ck [V, V]
    totals = coincidences.sum(axis=1)  # n_c
    distances = _DISTANCES[difference](np.array(levels, dtype=float), totals)  # δ²_ck
    observed = (coincidences * distances).sum()
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() - 1)
    return float(1 - observed / expected)


def _coincidences(values: list[float], levels: list[float]) -> np.ndarray:
    """Count pairs of values [V, V] within units, weighted so that a unit counts by its number of values."""
    counts = np.array([values.count(level) for level in levels], dtype=float)
    return (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)


def _nominal(levels: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return (levels[:, None] != levels).astype(float)


def _ordinal(levels: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Compute (Σ_{g=c…k} n_g − (n_c + n_k) / 2)²: how many values lie between two, their own counted half."""
    middles = np.cumsum(totals) - totals / 2
    return (middles[:, None] - middles) ** 2


def _interval(levels: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return (levels[:, None] - levels) ** 2


_DISTANCES = {"nominal": _nominal, "ordinal": _ordinal, "interval": _interval}


def group(judgements: Iterable[tuple[Hashable, float]]) -> dict[Hashable, list[float]]:
    """Return unit → values, for `krippendorff_alpha`."""
    units: dict[Hashable, list[float]] = {}
    for unit, value in judgements:
        units.setdefault(unit, []).append(value)
    return units
