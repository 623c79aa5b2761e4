"""The paper's claim, in small: does knowing quality beat ignoring it, and beat training on the best part only?

`make claim` runs it on the playground. QAMDT_SHARE: the part that filtering keeps (default: 0.3, as many as are clean).
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, listed, sweep


@QAMDTExplorer
def explorer(launcher):
    (share,) = listed("QAMDT_SHARE", "0.3")
    sweep(launcher, [], NO_QUALITY, [*NO_QUALITY, f"dataset.train.share={share}"])
