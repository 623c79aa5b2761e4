"""Does it help that neighbouring patches overlap in time, at the price of more tokens?

QAMDT_OVERLAPS: latent frames, each smaller than the recipe's patch (default: 0,1,2).
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import listed, sweep


@QAMDTExplorer
def explorer(launcher):
    sweep(launcher, *([f"mdt.overlap=[{frames},0]"] for frames in listed("QAMDT_OVERLAPS", "0,1,2")))
