"""Compare guidance weights on trained runs (QAMDT_FROM): evaluation only.

QAMDT_SCALES: weights of text and quality together (default: 1,2,3.5,5,7). QAMDT_QUALITY_SCALES: weights of quality by
itself beside the recipe's weight of the text (default: 1,2,3.5,5).
"""

from __future__ import annotations

from ._explorers import QAMDTExplorer
from ._sweep import evaluate, listed, trained


@QAMDTExplorer
def explorer(launcher):
    sources = [trained(launcher, signature) for signature in listed("QAMDT_FROM")]
    scales, qualities = listed("QAMDT_SCALES", "1,2,3.5,5,7"), listed("QAMDT_QUALITY_SCALES", "1,2,3.5,5")
    text, quality = (f"classifier_free_guidance.{name}_coef" for name in ("inference", "quality"))
    together = [[f"{text}={scale}", f"{quality}=null"] for scale in scales]
    evaluate(launcher, sources, *together, *([f"{quality}={scale}"] for scale in qualities))
