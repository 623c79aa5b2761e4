"""The arms of `qamdt.claim` on data of which nineteen tracks in twenty are degraded, as on the web."""

from __future__ import annotations

from ._claim import claim
from ._explorers import QAMDTExplorer


@QAMDTExplorer
def explorer(launcher):
    claim(launcher, "claim_95")
