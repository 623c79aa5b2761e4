"""The config of the model in the package is checked here, and no more whenever it is loaded."""

from __future__ import annotations

from audiocraft_qamdt.checkpoints import config
from audiocraft_qamdt.checkpoints.store import CONFIG, EMBEDDED


def test_all_keys_of_the_embedded_model_are_known():
    assert config.read(EMBEDDED / CONFIG).latents.codec == "spectral_vae"
