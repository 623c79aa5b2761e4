"""Compare the rules from p-MOS to levels: published thresholds, the paper's formula, equal shares, equal steps."""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import sweep


@QAMDTExplorer
def explorer(launcher):
    sweep(launcher, *([f"quality.rule={rule}"] for rule in ("official", "paper", "quantile", "even")))
