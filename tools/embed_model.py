#!/usr/bin/env python3
"""Write the model of a training into the package: `embed_model.py solver=qamdt/playground dset=pretrained ...`.

A student of `solver=qamdt/distill` becomes the package's model of few steps, any other one the embedded model.
"""

from __future__ import annotations

import sys

from audiocraft_qamdt.checkpoints.store import EMBEDDED, FAST
from audiocraft_qamdt.generation.export import Card, export_model

DATA = (
    "5,000 tracks of synthetic music of 8 s (`qamdt playground --tracks 5000 --degraded 0.5 --seed 31`), half of "
    "them degraded, made by this package: no rights of others. `make {}` repeats the training."
)
CARDS = {
    EMBEDDED: Card(title="QA-MDT of the playground", license="mit", data=DATA.format("pretrained")),
    FAST: Card(title="QA-MDT of the playground, in four steps", license="mit", data=DATA.format("fast")),
}


def main() -> None:
    """Export the experiment of these arguments into the package."""
    from audiocraft_qamdt.train import main as train

    experiment = train.get_xp(sys.argv[1:])
    out = FAST if experiment.cfg.distill.use else EMBEDDED
    export_model(str(experiment.folder), out, CARDS[out])


if __name__ == "__main__":
    main()
