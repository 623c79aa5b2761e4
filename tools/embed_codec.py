#!/usr/bin/env python3
"""Write the codec of a training into the package: `embed_codec.py solver=compression/qamdt_spectral dset=codec ...`."""

from __future__ import annotations

import logging
import sys

from omegaconf import OmegaConf

from audiocraft_qamdt import builders
from audiocraft_qamdt.latents.spectral_vae import WEIGHTS, SpectralVAECodec


def main() -> None:
    """Read the experiment of these arguments and write its averaged weights in half precision."""
    from audiocraft_qamdt.train import main as train

    folder = train.get_xp(sys.argv[1:]).folder
    section = {"codec": "spectral_vae", "spectral_vae": {"checkpoint": str(folder / "checkpoint.th")}}
    codec = builders.get_codec(OmegaConf.create(section))
    assert isinstance(codec, SpectralVAECodec)
    codec.save(WEIGHTS)
    logging.getLogger(__name__).info("%s from %s", WEIGHTS, folder)


if __name__ == "__main__":
    main()
