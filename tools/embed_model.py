#!/usr/bin/env python3
"""Write the model of a training into the package: `embed_model.py solver=qamdt/playground dset=pretrained ...`."""

from __future__ import annotations

import sys

from audiocraft_qamdt.checkpoints.store import EMBEDDED
from audiocraft_qamdt.generation.export import Card, export_model

CARD = Card(
    title="QA-MDT of the playground",
    license="mit",
    data="5,000 tracks of synthetic music of 8 s (`qamdt playground --tracks 5000 --degraded 0.5 --seed 31`), half of "
    "them degraded, made by this package: no rights of others. `make pretrained` repeats the training.",
)


def main() -> None:
    """Export the experiment of these arguments into the package."""
    from audiocraft_qamdt.train import main as train

    export_model(str(train.get_xp(sys.argv[1:]).folder), EMBEDDED, CARD)


if __name__ == "__main__":
    main()
