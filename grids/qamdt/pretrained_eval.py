"""Published or exported models (QAMDT_MODELS) over steps, levels and guidance: evaluation only.

The recipe must be the model's own (QAMDT_SOLVER, e.g. qamdt for the published size); //sig/<signature> brings it along.
QAMDT_STEPS (default: 10,25,50), QAMDT_LEVELS (default: 1,3,5), QAMDT_SCALES (default: 2,3.5).
"""

from __future__ import annotations

from itertools import product

from ._explorers import QAMDTExplorer
from ._sweep import evaluate, listed, recipe, trained


@QAMDTExplorer
def explorer(launcher):
    models = listed("QAMDT_MODELS")
    sources = [trained(launcher, name) if name.startswith("//sig/") else (recipe(), name) for name in models]
    steps, levels = listed("QAMDT_STEPS", "10,25,50"), listed("QAMDT_LEVELS", "1,3,5")
    keys = ("generate.steps", "generate.quality", "classifier_free_guidance.inference_coef")
    settings = product(steps, levels, listed("QAMDT_SCALES", "2,3.5"))
    arms = [[f"{key}={value}" for key, value in zip(keys, values, strict=True)] for values in settings]
    evaluate(launcher, sources, *arms)
