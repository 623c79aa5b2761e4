"""Compare shares of masked tokens, random ones or whole frames and bins."""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import sweep

FIXED = (0.15, 0.3, 0.45, 0.6)
KINDS = ("random", "time_frequency")


def arms() -> list[list[str]]:
    """Nothing hidden; then for each kind the fixed shares and the published code's 0.3 + U(0, 0.2)."""
    shares = [(ratio, 0.0) for ratio in FIXED] + [(0.3, 0.2)]
    return [["masking.ratio=0", "masking.spread=0.0"]] + [
        [f"masking.kind={kind}", f"masking.ratio={ratio}", f"masking.spread={spread}"]
        for ratio, spread in shares
        for kind in KINDS
    ]


@QAMDTExplorer
def explorer(launcher):
    sweep(launcher, *arms())
