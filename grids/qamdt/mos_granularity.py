"""At which granularity should the model know quality: not at all, in words, by segment, track or frame, or all?"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, sweep

GRANULARITIES = ("prefix", "clip", "prefix_clip", "global", "frame", "adaln", "all")


@QAMDTExplorer
def explorer(launcher):
    sweep(launcher, NO_QUALITY, *([f"conditioner=qamdt/{name}"] for name in GRANULARITIES))
