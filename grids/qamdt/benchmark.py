"""The row of the paper's table for each model in QAMDT_MODELS: FAD (VGGish), KL, IS, CLAP and p-MOS of 10.24 s.

QAMDT_SET: a set that `qamdt benchmark` wrote; as many clips as it has tracks are drawn from it, with replacement, as
AudioCraft does. QAMDT_PMOS: the predictor (default: acoustic; the paper's kind is qama/FILE). QAMDT_SOLVER: the models'
recipe (default: qamdt, the published size, 16 kHz).
"""

from __future__ import annotations

import os

from audiocraft_qamdt.data.manifest import read_manifest

from ._explorers import QAMDTExplorer
from ._sweep import evaluate, listed, needed, recipe, trained


@QAMDTExplorer
def explorer(launcher):
    folder, models = needed("QAMDT_SET", "a set of `qamdt benchmark`"), listed("QAMDT_MODELS")
    sources = [trained(launcher, name) if name.startswith("//sig/") else (recipe("qamdt"), name) for name in models]
    arm = [
        "dset=folder",
        f"folder={folder}",
        "solver/qamdt/evaluation=objective_eval",
        f"evaluate.metrics.pmos=[{os.environ.get('QAMDT_PMOS', 'acoustic')}]",
        f"dataset.evaluate.num_samples={len(read_manifest(folder))}",
        "evaluate.fixed_generation_duration=10.24",
    ]
    evaluate(launcher, sources, arm)
