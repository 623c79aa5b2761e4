"""The paper's claim, in small: does knowing quality beat ignoring it, and beat leaving degraded tracks out?

`make claim` runs it on the playground with seven degraded tracks in ten (`qamdt.claim_95`: nineteen in twenty). Arms:
text alone on all tracks; without 33, 66 and 100 % of the degraded ones; `prefix_clip`; noise ranges; both; and text
alone led away from "low quality", which is evaluated only. `_claim.py` says what the environment sets.
"""

from __future__ import annotations

from ._claim import claim
from ._explorers import QAMDTExplorer


@QAMDTExplorer
def explorer(launcher):
    claim(launcher, "claim")
