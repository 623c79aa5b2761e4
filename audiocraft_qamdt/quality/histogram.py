"""Picture of a data set's p-MOS, with the boundaries between levels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..utils.files import replacing
from .levels import LEVELS, PRESETS, QualityStatistics, level_rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_histogram(scores: Sequence[float], statistics: QualityStatistics, path: str | Path) -> None:
    """Draw the distribution of p-MOS, with the boundaries between levels by every preset.

    Args:
        scores: p-MOS of the tracks.
        statistics: of these scores.
        path: PNG to write.
    """
    # matplotlib takes a second to import; the Agg canvas needs no screen and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((7, 2.5 * len(PRESETS)), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    bins = np.linspace(1, 5, 81)
    for axes, preset in zip(figure.subplots(len(PRESETS), sharex=True), PRESETS, strict=True):
        axes.hist(scores, bins, color="tab:blue")
        axes.set(ylabel="tracks", xlim=(1, 5))
        _draw_levels(axes, preset, scores, statistics)
    axes.set_xlabel(f"p-MOS by {statistics.predictor} {statistics.version}")
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _draw_levels(axes: Axes, preset: str, scores: Sequence[float], statistics: QualityStatistics) -> None:
    try:
        rule = level_rule(preset, statistics)
    except ValueError as error:  # equal quantiles: there is nothing to draw
        axes.set_title(str(error), fontsize="small")
        return
    for boundary in rule.boundaries:
        axes.axvline(boundary, color="black", linewidth=1)
    counts = [rule.levels(scores).count(level) for level in LEVELS]
    shares = ", ".join(f"{count} at {level}" for level, count in zip(LEVELS, counts, strict=True))
    axes.set_title(f"levels by {preset!r}: {shares}")
