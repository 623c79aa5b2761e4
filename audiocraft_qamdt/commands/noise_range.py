"""`qamdt noise-range`: from which noise level on each quality level of a data set cannot be told from the best."""

from __future__ import annotations

import argparse
import typing as tp
from pathlib import Path

from .output import say

if tp.TYPE_CHECKING:
    from omegaconf import DictConfig

    from ..data.dataset import QualityMusicDataset
    from ..latents.codec import LatentCodec
    from ..quality.levels import LevelRule
    from ..quality.noise_classifier import Clips

BATCH = 16
HELD_OUT = 3
"""One track in so many is not trained on."""


def add_parsers(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "noise-range", help="measure at which noise levels degraded clips cannot be told from clean ones"
    )
    parser.add_argument("folder", type=Path, help="annotated data set, a folder with a manifest and quality.json")
    parser.add_argument("overrides", nargs="*", help="recipe and settings, e.g. solver=qamdt/playground (default)")
    parser.add_argument("--tracks", type=int, default=400, help="most tracks to listen to")
    parser.add_argument("--clips", type=int, default=8, help="clips of each track, of a training segment's length")
    parser.add_argument("--steps", type=int, default=800, help="updates of the classifier")
    parser.add_argument("--auc", type=float, default=0.75, help="largest area under the ROC that counts as not told")
    parser.set_defaults(run=_noise_range)


def _noise_range(args: argparse.Namespace) -> int:
    from .. import builders
    from ..quality.levels import QualityStatistics
    from ..quality.noise_classifier import Training, measure_noise_range
    from ..quality.noise_range import write_noise_range

    if not 0.5 <= args.auc < 1:
        raise ValueError(f"--auc {args.auc}: an area under the ROC goes from 0.5 (chance) to 1 (always told)")
    for name in ("tracks", "clips", "steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: give at least 1")
    statistics = QualityStatistics.load(args.folder)
    solver = [] if any(override.startswith("solver=") for override in args.overrides) else ["solver=qamdt/playground"]
    recipe = _recipe([*solver, *args.overrides])
    codec = builders.get_codec(recipe.latents)
    builders.check_codec(recipe, codec)
    rule = tp.cast("LevelRule", builders.get_level_rule(recipe.quality, statistics))  # none only without statistics
    dataset = _dataset(args, recipe)
    _estimate(codec, dataset)
    train, held_out = _collect(dataset, codec, rule)
    measured = measure_noise_range(
        train,
        held_out,
        codec=recipe.latents.codec,
        rule=recipe.quality.rule,
        segment=recipe.dataset.segment_duration,
        threshold=args.auc,
        training=Training(steps=args.steps),
    )
    path = write_noise_range(args.folder, measured)
    clips = f"held-out clips of levels 1 to 5: {measured.clips}; area under the ROC against level 5:"
    schedule = builders.get_objective(recipe.diffusion).schedule
    say([clips, *measured.lines(schedule.timestep_at), f"{path}: for quality.noise_range=measured"])
    return 0


def _recipe(overrides: list[str]) -> DictConfig:
    from hydra.errors import HydraException

    from ..utils.composing import compose_config

    try:
        return compose_config(*overrides)
    except HydraException as error:
        raise ValueError(f"{' '.join(overrides)}: {str(error).strip().splitlines()[0]}") from error


def _dataset(args: argparse.Namespace, recipe: DictConfig) -> QualityMusicDataset:
    from ..data.dataset import QualityMusicDataset
    from ..data.manifest import read_manifest

    tracks = min(args.tracks, len(read_manifest(args.folder)))
    dataset = QualityMusicDataset.from_meta(
        args.folder,
        segment_duration=recipe.dataset.segment_duration,
        sample_rate=recipe.sample_rate,
        channels=recipe.channels,
        share=tracks / len(read_manifest(args.folder)),
        share_by="random",
        num_samples=tracks * args.clips,
        sample_on_duration=False,
        sample_on_weight=False,
        permutation_on_files=True,  # as many clips of each track
        return_info=True,
    )
    dataset.start_epoch(0)
    return dataset


def _estimate(codec: LatentCodec, dataset: QualityMusicDataset) -> None:
    """Give latents unit variance, where the codec does not bring that along."""
    if int(codec.statistics.count) == 0:
        codec.estimate_statistics(dataset[index][0][None] for index in range(min(len(dataset), 16 * BATCH)))


def _collect(dataset: QualityMusicDataset, codec: LatentCodec, rule: LevelRule) -> tuple[Clips, Clips]:
    """Encode the clips that have a score: those to train on, and those of the tracks held out."""
    import torch
    from tqdm import tqdm

    from ..quality.noise_classifier import Clips
    from ..utils.randomness import keyed_seed

    parts: dict[bool, tuple[list, list]] = {False: ([], []), True: ([], [])}
    for first in tqdm(range(0, len(dataset), BATCH), "encoding", unit="batch"):
        items = [dataset[index] for index in range(first, min(first + BATCH, len(dataset)))]
        latents = codec.encode(torch.stack([audio for audio, _ in items]))
        for (_, info), one in zip(items, latents, strict=True):
            if info.pmos is None:
                continue
            of_part = parts[keyed_seed("noise range", Path(info.meta.path).name) % HELD_OUT == 0]
            of_part[0].append(one)
            of_part[1].append(rule.level(info.pmos))
    if not all(levels for _, levels in parts.values()):
        raise ValueError("too few tracks with a p-MOS: run `qamdt annotate`, or give more (--tracks)")
    train, held_out = (Clips(torch.stack(latents), torch.tensor(levels)) for latents, levels in parts.values())
    return train, held_out
