"""A segment's quality among AudioCraft's condition attributes: always in levels; p-MOS stays in the segment's info."""

from __future__ import annotations

import typing as tp

from ..utils.reading import JsonObject

STATISTICS_FILE = "quality.json"
"""Statistics of a data set's scores, beside its manifest."""

Curve = list[tuple[float, float]]
"""Quality along a clip: (seconds, level or p-MOS) points, linear between them, held beyond the ends."""

QUALITY = "quality"
"""Prefix of the attributes that hold quality in levels, for the network, and the name of all of them together."""

GRANULARITIES = ("global", "clip", "frame", "adaln")
"""Where quality enters the network; `prefix` besides enters through the text."""


def quality_attributes(
    level: float | None, curve: list[int] | list[float] | None, track: float | None, word: str | None
) -> JsonObject:
    """Return attributes with the quality of a segment in levels; None = unknown.

    Args:
        level: of the segment.
        curve: levels along the segment; None = the segment's throughout.
        track: level of the whole track.
        word: the segment's quality as the text says it: low, medium or high.
    """
    return {
        f"{QUALITY}_prefix": word,
        f"{QUALITY}_clip": level,
        f"{QUALITY}_adaln": level,
        f"{QUALITY}_frame": curve if curve else level,
        f"{QUALITY}_global": track,
    }


class Rule(tp.Protocol):
    """Thresholds that make p-MOS to levels and words (`quality.levels.LevelRule`)."""

    def level(self, pmos: float) -> int:
        """Return the level of a p-MOS."""

    def levels(self, curve: tp.Iterable[float]) -> list[int]:
        """Return the level of each p-MOS of a curve."""

    def word(self, pmos: float) -> str | None:
        """Return the word of a p-MOS for the text; None = no word."""


def to_levels(
    pmos: float | None, curve: tp.Sequence[float] | None, track: float | None, rule: Rule | None
) -> JsonObject:
    """Turn the p-MOS of a segment into its attributes in levels.

    Args:
        pmos: of the segment; None = unknown.
        curve: along the segment; None = the segment's throughout.
        track: of the whole track; None = unknown.
        rule: thresholds; None where no p-MOS is known anywhere.
    """
    if rule is None:
        return quality_attributes(None, None, None, None)
    return quality_attributes(
        None if pmos is None else rule.level(pmos),
        rule.levels(curve) if curve else None,
        None if track is None else rule.level(track),
        None if pmos is None else rule.word(pmos),
    )


def level_names() -> list[str]:
    """Return names of the attributes that are levels for the network (all but the prefix)."""
    return [f"{QUALITY}_{granularity}" for granularity in GRANULARITIES]
