"""At which granularity should the model know quality: not at all, in words, by segment, track or frame, or all?

QAMDT_GRANULARITIES: files of conditioner=qamdt/ (default: all with an input of the network). `noise` and
`prefix_clip_noise` need `qamdt noise-range` before.
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, NOISE, listed, sweep

GRANULARITIES = "prefix,clip,prefix_clip,global,frame,adaln,all"


@QAMDTExplorer
def explorer(launcher):
    names = listed("QAMDT_GRANULARITIES", GRANULARITIES)
    sweep(launcher, NO_QUALITY, *(NOISE if name == "noise" else [f"conditioner=qamdt/{name}"] for name in names))
