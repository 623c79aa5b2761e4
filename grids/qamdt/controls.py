"""Is it knowing quality that helps, or something that comes along with it?

Arms: the quality-aware model; the same with each track's quality taken from another one (what is left is chance); with
that of another in as many clips as in the authors' loader; text alone on all tracks, on the best share of them by p-MOS
(filtering), and on as many random ones (the price of having fewer). QAMDT_SHARE: that share (default: 0.3).
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, listed, sweep


@QAMDTExplorer
def explorer(launcher):
    shares = listed("QAMDT_SHARE", "0.3")
    subsets = [
        [*NO_QUALITY, f"dataset.train.share={share}", f"dataset.train.share_by={by}"]
        for share in shares
        for by in ("pmos", "random")
    ]
    sweep(launcher, [], ["dataset.shuffle_quality=true"], ["dataset.shuffle_quality=published"], NO_QUALITY, *subsets)
