"""Transformer or U-Net, each with quality and with text alone: the paper's two backbones at one size.

QAMDT_UNET: the U-Net's config (default: qamdt/unet_playground for the small recipes, else qamdt/unet).
"""

from __future__ import annotations

import os

from ._explorers import QAMDTExplorer
from ._sweep import NO_QUALITY, SMALL, listed, sweep


@QAMDTExplorer
def explorer(launcher):
    small = os.environ.get("QAMDT_SOLVER", SMALL[0]) in SMALL
    (unet,) = listed("QAMDT_UNET", "qamdt/unet_playground" if small else "qamdt/unet")
    sweep(launcher, [], NO_QUALITY, [f"model={unet}"], [f"model={unet}", *NO_QUALITY])
