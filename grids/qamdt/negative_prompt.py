"""Is knowing quality more than a negative prompt? Text alone, led away from "low quality", and quality (Table A.3)."""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, sweep


@QAMDTExplorer
def explorer(launcher):
    sweep(launcher, NO_QUALITY, [*NO_QUALITY, "generate.negative_prompt='low quality'"], [])
