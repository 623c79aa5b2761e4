"""Compose the package's config."""

from __future__ import annotations

from omegaconf import DictConfig

from ..compat import CONFIG_ROOT, point_to_configs


def compose_config(*overrides: str) -> DictConfig:
    """Compose the config with overrides, also in the middle of `dora run`, whose own Hydra stays as it is.

    Raises:
        hydra.errors.HydraException: an override that does not fit.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    point_to_configs()
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
            return compose("config", list(overrides))
    finally:
        GlobalHydra.instance().hydra = running
