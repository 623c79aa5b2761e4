"""The configs of the models in the package are checked here, and no more whenever they are loaded."""

from __future__ import annotations

import pytest

from audiocraft_qamdt.checkpoints import config
from audiocraft_qamdt.checkpoints.store import CONFIG, EMBEDDED, FAST


@pytest.mark.parametrize("folder", [EMBEDDED, FAST], ids=lambda folder: folder.name)
def test_all_keys_of_the_models_in_the_package_are_known(folder):
    assert config.read(folder / CONFIG).latents.codec == "spectral_vae"
