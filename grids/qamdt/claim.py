"""The paper's claim, in small: does knowing quality beat ignoring it, and beat training on the best part only?

`make claim` runs it on the playground. QAMDT_SHARE: the part that filtering keeps (default: 0.3, as many as are clean).
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, listed, sweep

AWAY_FROM_THE_WORST = ["quality.null_level=1"]
"""Asked for the best, guidance leads away from the lowest level, as the paper's does, and not from unknown quality."""


@QAMDTExplorer
def explorer(launcher):
    (share,) = listed("QAMDT_SHARE", "0.3")
    sweep(launcher, AWAY_FROM_THE_WORST, NO_QUALITY, [*NO_QUALITY, f"dataset.train.share={share}"])
