"""Is it knowing quality that helps, or something that comes along with it?

Arms: the quality-aware model; the same with each track's quality taken from another one (what is left is chance); with
that of another in as many clips as in the authors' loader; text alone on all tracks, on the best share of them by p-MOS
(filtering), and on as many random ones (the price of having fewer). QAMDT_SHARE: that share (default: 0.3). With
QAMDT_CACHE the two arms on all tracks and their own labels train on latents; the others encode their audio.
"""

from __future__ import annotations

import os

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, latents, listed, sweep


@QAMDTExplorer
def explorer(launcher):
    cached = latents(os.environ.get("QAMDT_DSET", "claim"))
    shares = listed("QAMDT_SHARE", "0.3")
    subsets = [
        [*NO_QUALITY, f"dataset.train.share={share}", f"dataset.train.share_by={by}"]
        for share in shares
        for by in ("pmos", "random")
    ]
    shuffled = [[f"dataset.shuffle_quality={how}"] for how in ("true", "published")]
    sweep(launcher, cached, *shuffled, [*NO_QUALITY, *cached], *subsets)
