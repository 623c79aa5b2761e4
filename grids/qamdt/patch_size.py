"""How large should a token be, and should neighbours overlap in frequency?

QAMDT_PATCHES: latent frames x bins (default: 4x1,4x2,4x4). QAMDT_OVERLAPS: bins (default: 0,1); an overlap that is not
smaller than the patch is left out.
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import listed, sweep


@QAMDTExplorer
def explorer(launcher):
    patches = [tuple(map(int, patch.split("x"))) for patch in listed("QAMDT_PATCHES", "4x1,4x2,4x4")]
    overlaps = [int(bins) for bins in listed("QAMDT_OVERLAPS", "0,1")]
    sweep(
        launcher,
        *(
            [f"mdt.patch=[{frames},{bins}]", f"mdt.overlap=[0,{overlap}]"]
            for frames, bins in patches
            for overlap in overlaps
            if overlap < bins
        ),
    )
