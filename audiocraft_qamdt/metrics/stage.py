"""The solver's evaluate stage: from what it generated to what metrics take, from their numbers to log and disk."""

from __future__ import annotations

import typing as tp
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..utils.files import write_json
from ..utils.reading import JsonObject, read_json
from .base import AUDIOCRAFT, AudioCraftBatch, Batch, Clip, Metric, Number, check_audio
from .folders import cache_folder, compare_with_folder
from .networks import Networks
from .protocols import OURS
from .signal import Level
from .table import Setup, build_metrics

if tp.TYPE_CHECKING:
    from audiocraft.data.music_dataset import MusicInfo
    from audiocraft.models.encodec import CompressionModel


def stage_metrics(
    switches: JsonObject,
    options: JsonObject,
    device: str,
    compression_model: CompressionModel,
    level: Level,
    protocol: str = OURS,
) -> list[Metric]:
    """Return metrics of a solver.

    Args:
        switches: its `evaluate.metrics`; "base", the validation loss, is left to the solver.
        options: its `metrics`.
        device: where they compute.
        compression_model: AudioCraft's, which its `use_gt` sends reference audio through.
        level: what the references of a folder are brought to, as generated clips are.
        protocol: its `evaluate.protocol`.
    """

    def compress(audio: Tensor) -> Tensor:
        codes, scale = compression_model.encode(audio.to(device))
        return compression_model.decode(codes, scale)[..., : audio.shape[-1]]

    networks = Networks(options, device, protocol)
    switched = {name: value for name, value in switches.items() if name != "base"}
    metrics = build_metrics(switched, Setup(networks, options, device, compress))
    if options["frechet"]["reference"]:
        compare_with_folder(metrics, options["frechet"]["reference"], cache_folder(), level)
    return metrics


def generated_batch(
    generated: Tensor, reference: Tensor, infos: tp.Sequence[MusicInfo], seconds: float, level: Level
) -> Batch:
    """Return clips of a batch: generated ones and their references, without padding and at the same level.

    AudioCraft's own metrics get what AudioCraft's evaluation gives them: generated audio at the level, references as
    they are.

    Args:
        generated: [B, C, S] from the model.
        reference: [B, C, S] that the conditions came from, padded.
        infos: AudioCraft's segment information of each.
        seconds: time that generating took.
        level: what clips are brought to (the config's `generate.audio`).
    Raises:
        ValueError: generated audio that is not finite, naming the file that it was generated for.
    """
    names = [f"{info.meta.path}@{info.seek_time:g}" for info in infos]
    raw = generated[..., : reference.shape[-1]].detach().float().cpu()
    for name, item in zip(names, raw, strict=True):
        check_audio(f"generated for {name}", item)
    sizes = torch.tensor([min(info.n_frames, raw.shape[-1]) for info in infos])
    stems = [f"{Path(info.meta.path).stem}_{info.seek_time}" for info in infos]  # AudioCraft's
    judged, compared = list[Clip](), list[Clip]()
    for index, (name, info) in enumerate(zip(names, infos, strict=True)):
        clip, other = (audio[index, :, : sizes[index]].float().cpu() for audio in (raw, reference))
        level_of = partial(level, sample_rate=info.sample_rate)
        for audio, text, clips in ((clip, info.description, judged), (other, None, compared)):
            channels = level_of(audio)
            clips.append(Clip(name, channels.mean(0), info.sample_rate, text, raw=audio, channels=channels))
    normal = torch.stack([level(item, info.sample_rate) for item, info in zip(raw, infos, strict=True)])
    return Batch(judged, compared, seconds, AudioCraftBatch(normal, reference[..., : raw.shape[-1]], sizes, stems))


def logged(numbers: list[Number]) -> dict[str, float]:
    """Return the entries for the log and the history: numbers by their keys, AudioCraft's also as it logs them."""
    plain = {
        number.metric.removeprefix(AUDIOCRAFT): number.value
        for number in numbers
        if number.metric.startswith(AUDIOCRAFT)
    }
    return {**plain, **{number.key: number.value for number in numbers}}


def evaluation_file(experiment: Path, epoch: int) -> Path:
    """Return the file with the results of an epoch's evaluation."""
    return experiment / "evaluation" / f"{epoch}.json"


def write_evaluation(experiment: Path, epoch: int, numbers: list[Number], scores: dict[str, dict[str, float]]) -> None:
    """Write numbers with all their fields, and each clip's scores."""
    path = evaluation_file(experiment, epoch)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"numbers": [{"key": number.key, **asdict(number)} for number in numbers], "scores": scores})


def read_intervals(experiment: Path, epoch: int) -> dict[str, float]:
    """Return half the 95 % interval of each number of an epoch's evaluation, by its key.

    Numbers without an interval are left out; so are all where there is no file, as in experiments of older versions.

    Raises:
        ValueError: the file is not what `write_evaluation` wrote.
    """
    path = evaluation_file(experiment, epoch)
    if not path.exists():
        return {}
    try:
        found = read_json(path)["numbers"]
        return {number["key"]: number["ci95"] for number in found if number["ci95"] is not None}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: it is not an evaluation's file ({error!r}): evaluate again or remove it") from error
