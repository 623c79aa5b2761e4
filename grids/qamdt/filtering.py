"""Does it help to leave bad tracks out, and how many of them? (The paper's Fig. 1b.)

Text alone, with none, a third, two thirds and all of the tracks below a p-MOS left out, and quality with all tracks.
QAMDT_FILTERED: those shares (default: 0,0.33,0.66,1). QAMDT_BELOW: that p-MOS (default: mean, that of the data set).
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, listed, sweep


@QAMDTExplorer
def explorer(launcher):
    (below,) = listed("QAMDT_BELOW", "mean")
    shares = [share for share in listed("QAMDT_FILTERED", "0,0.33,0.66,1") if float(share)]
    filters = [
        [f"dataset.train.filter_below={below}", f"dataset.train.filter_share={float(share)}"] for share in shares
    ]
    sweep(launcher, [], NO_QUALITY, *([*NO_QUALITY, *one] for one in filters))
