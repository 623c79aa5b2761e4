"""From a config to what only training needs: data loaders, optimiser, timesteps by level."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, open_dict

from audiocraft_qamdt.utils import prepared

from ..builders import SPLITS, statistics_file
from ..data.dataset import QualityMusicDataset
from ..data.manifest import read_manifest
from ..diffusion.objective import Schedule
from ..quality.noise_range import KEY as NOISE_RANGE
from ..quality.noise_range import MEASURED, NoiseRange, checked_timesteps
from ..utils.patching import replaced
from ..utils.reading import read_json

from audiocraft.data import music_dataset
from audiocraft.solvers import builders as audiocraft_builders
from audiocraft.utils.utils import get_dataset_from_loader

logger = logging.getLogger(__name__)


def get_optimizer(model: torch.nn.Module, cfg: DictConfig) -> torch.optim.Optimizer:
    """Return AudioCraft's optimiser of an `optim` config; Adam and AdamW in one kernel where the device has it.

    Add `optim.adam.fused=false` to switch that off.
    """
    device = next(model.parameters()).device.type
    if cfg.optimizer in ("adam", "adamw") and device in ("cpu", "cuda"):
        cfg = cfg.copy()
        with open_dict(cfg):
            cfg.adam = {"fused": True, **cfg.adam}
    groups = audiocraft_builders.get_optim_parameter_groups(model)
    # PyTorch switches its compiler off around this method, and imports it for that: a second, and nothing is compiled
    add_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    with replaced(torch.optim.Optimizer, "add_param_group", add_group):
        return audiocraft_builders.get_optimizer(groups, cfg)


def get_audio_datasets(cfg: DictConfig) -> dict[str, torch.utils.data.DataLoader]:
    """Return AudioCraft's loaders over `QualityMusicDataset`.

    Raises:
        FileNotFoundError, ValueError: a manifest that is missing or empty, or data of a lower sample rate or fewer
            channels than the recipe's, named with their config key.
    """
    for split in SPLITS:
        path = cfg.datasource.get(split)
        if path is None and split in ("train", "valid") and cfg.execute_only is None:
            raise ValueError(
                f"datasource.{split} is not set: name a folder with a manifest (`qamdt manifest FOLDER`), "
                "or choose a dset"
            )
        if path is not None and cfg.execute_only in (None, split):
            try:
                read_manifest(path)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"datasource.{split}: {error}") from error
    for name in ("sample_rate", "channels"):
        if cfg[name] > (most := cfg.datasource[f"max_{name}"]):
            raise ValueError(
                f"{name}={cfg[name]}, but the data have {most} (datasource.max_{name}): choose another dset or recipe"
            )
    # AudioCraft picks the class from a closed enumeration: its MUSIC entry is looked up by name at call time.
    with replaced(music_dataset, "MusicDataset", QualityMusicDataset):
        loaders = audiocraft_builders.get_audio_datasets(cfg, audiocraft_builders.DatasetType.MUSIC)
    for split, loader in loaders.items():
        logger.info("Data split %s: %d tracks", split, len(get_dataset_from_loader(loader).meta))
    return loaders


def get_lowest_timesteps(cfg: DictConfig, schedule: Schedule) -> list[float] | None:
    """Return the timestep from which on each level, 0 (unknown) to 5, teaches; None = all at all timesteps.

    What is unknown teaches where the worst level does.

    Raises:
        ValueError: a `quality.noise_range` that is none, or was not measured for this recipe and data.
    """
    chosen = cfg.quality.get(NOISE_RANGE)  # recipes of models trained before do without this key
    if chosen is None:
        return None
    path = statistics_file(cfg)
    if path is None:
        raise ValueError("quality.noise_range needs quality.json beside the training manifest: run `qamdt annotate`")
    if chosen == MEASURED:
        lowest = [schedule.timestep_at(ratio) if ratio else 0.0 for ratio in _measured(cfg, path).lowest]
    else:
        lowest = checked_timesteps(chosen, schedule.num_steps)
    return [max(lowest), *lowest]


def _measured(cfg: DictConfig, path: Path) -> NoiseRange:
    found = NoiseRange.from_dict(read_json(path).get(NOISE_RANGE), path)
    for key, used, measured in (
        ("latents.codec", cfg.latents.codec, found.codec),
        ("quality.rule", cfg.quality.rule, found.rule),
    ):
        if used != measured:
            raise ValueError(
                f"{key}={used}, but the noise range in {path} was measured with {measured}: run "
                "`qamdt noise-range` with this recipe"
            )
    return found
