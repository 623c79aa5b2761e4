"""How p-MOS becomes five levels: published thresholds, the paper's formula, five equal shares, or equal steps."""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import sweep


@QAMDTExplorer
def explorer(launcher):
    sweep(launcher, *([f"quality.rule={rule}"] for rule in ("official", "paper", "quantile", "even")))
