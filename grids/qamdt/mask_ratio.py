"""Compare shares of masked tokens, random ones or whole frames and bins.

QAMDT_KINDS: values of masking.kind (default: random,time_frequency). A recipe whose tokens span all frequencies needs
one of them: its tokens are frames, which both kinds draw alike.
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import listed, sweep

FIXED = (0.15, 0.3, 0.45, 0.6)
KINDS = "random,time_frequency"


def arms() -> list[list[str]]:
    """Nothing hidden; then for each kind the fixed shares and the published code's 0.3 + U(0, 0.2)."""
    shares = [(ratio, 0.0) for ratio in FIXED] + [(0.3, 0.2)]
    return [["masking.ratio=0", "masking.spread=0.0"]] + [
        [f"masking.kind={kind}", f"masking.ratio={ratio}", f"masking.spread={spread}"]
        for ratio, spread in shares
        for kind in listed("QAMDT_KINDS", KINDS)
    ]


@QAMDTExplorer
def explorer(launcher):
    sweep(launcher, *arms())
