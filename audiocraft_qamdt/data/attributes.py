"""Names under which a segment's quality travels among AudioCraft's condition attributes."""

from __future__ import annotations

import typing as tp

STATISTICS_FILE = "quality.json"
"""Statistics of a data set's scores, beside its manifest."""

QUALITY = "quality"
"""Prefix of the attributes that hold quality, and the name of all of them together."""

GRANULARITIES = ("global", "clip", "frame", "adaln")
"""Where quality enters the network; `prefix` besides enters through the text."""


def quality_attributes(quality: float | None, curve: list[float] | None, track: float | None) -> dict[str, tp.Any]:
    """Return attributes with the quality of a segment, in p-MOS or in levels; None = unknown.

    Args:
        quality: of the segment.
        curve: along the segment; None = the segment's throughout.
        track: of the whole track.
    """
    return {
        f"{QUALITY}_prefix": quality,
        f"{QUALITY}_clip": quality,
        f"{QUALITY}_adaln": quality,
        f"{QUALITY}_frame": curve if curve else quality,
        f"{QUALITY}_global": track,
    }


def level_names() -> list[str]:
    """Return names of the attributes that are levels for the network (all but the prefix)."""
    return [f"{QUALITY}_{granularity}" for granularity in GRANULARITIES]
