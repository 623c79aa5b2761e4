"""Clips of a listening test: paired by name, of one loudness, in files whose names tell nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from ..metrics.base import Clip
from ..metrics.folders import named_audio, read_clip
from ..metrics.texts import read_captions
from ..utils.loudness import SHORTEST, measure_loudness
from .design import MOST_BEEPS

logger = logging.getLogger(__name__)

SUFFIX = ".flac"
LOUDNESS = -23.0
"""LUFS of all clips (EBU R 128), or less where the peaks of one would not fit."""
SOFTEST = LOUDNESS - 10.0
"""LUFS that one clip's peaks bring the others down to at most; a clip whose peaks want less stays softer than these."""
HIGHEST_RATE = 655_350  # Hz, of FLAC
_HEADROOM = 1.0  # dB that the highest peak stays below full scale
_SHOWN = 5  # names in a message
_CHECK_RATE, _BEEP, _EVERY, _PITCH = 44100, 0.15, 0.6, 880.0  # Hz, s, s, Hz


def pair_clips(systems: Mapping[str, str | Path]) -> dict[str, dict[str, Path]]:
    """Return name → system → file, of the names that every system has a clip of; the others are warned of.

    Raises:
        FileNotFoundError: no folder, or no audio in it.
        ValueError: no name is common to all.
    """
    found = {system: named_audio(folder) for system, folder in systems.items()}
    names = sorted(set.intersection(*(set(files) for files in found.values())))
    if not names:
        examples = ", ".join(f"{system}: {min(files)}" for system, files in found.items())
        raise ValueError(f"no clip has the same name in all folders, its path without suffix ({examples})")
    for system, files in found.items():
        if lone := sorted(set(files) - set(names)):
            more = " ..." if len(lone) > _SHOWN else ""
            shown = ", ".join(lone[:_SHOWN])
            logger.warning("%s: %d clips left out that not every system has: %s%s", system, len(lone), shown, more)
    return {name: {system: files[name] for system, files in found.items()} for name in names}


def read_prompts(pairs: Mapping[str, Mapping[str, Path]], captions: Path | None) -> dict[str, str]:
    """Return name → prompt, from a file of captions, or from what lies beside the clips of any system.

    Raises:
        ValueError: two systems' clips of one name were made for different prompts.
    """
    if captions is not None:
        return read_captions(captions, {name: next(iter(files.values())) for name, files in pairs.items()})
    prompts: dict[str, str] = {}
    for system in next(iter(pairs.values())):
        for name, text in read_captions(None, {name: files[system] for name, files in pairs.items()}).items():
            if prompts.setdefault(name, text) != text:
                raise ValueError(
                    f"{name}: {system} has the prompt {text!r:.60}, another system {prompts[name]!r:.60}: "
                    "are they pairs? --captions FILE decides"
                )
    return prompts


def match_loudness(files: Iterable[Path]) -> tuple[float, dict[Path, float]]:
    """Return the loudness in LUFS that all clips can have without limiting, and file → the gain in dB that it needs.

    The clip with the highest peaks for its loudness decides; one that would want less than `SOFTEST` has no say, and is
    softer than the others. Both are warned of by name. A silent clip stays as it is.

    Raises:
        ValueError: naming the file, when it cannot be decoded or written, holds NaN or is too short.
    """
    measured: dict[Path, float] = {}
    most: dict[Path, float] = {}
    for path in tqdm(list(files), "loudness", unit="clip"):
        measured[path], peak = _measure(path)
        if math.isnan(measured[path]):
            logger.warning("%s: silent, it stays as it is", path)
        else:
            most[path] = -peak - _HEADROOM  # dB of gain
    loudest = {path: measured[path] + gain for path, gain in most.items()}
    target = _target(loudest)
    return target, {path: min(target - measured[path], most[path]) if path in most else 0.0 for path in measured}


def _target(loudest: Mapping[Path, float]) -> float:
    """Return the loudness of a test from the most that each clip can have, and say what is not as usual."""
    for path, most in loudest.items():
        if most < SOFTEST:
            logger.warning(
                "%s: its peaks let it have %.1f LUFS at most, it stays softer than the others: listen to it, or leave "
                "it out",
                path,
                most,
            )
    fitting = {path: most for path, most in loudest.items() if SOFTEST <= most < LOUDNESS}
    if not fitting:
        return LOUDNESS
    first = min(fitting, key=lambda path: fitting[path])
    target = fitting[first]
    logger.warning("all clips are played at %.1f in place of %.1f LUFS, for the peaks of %s", target, LOUDNESS, first)
    return target


def _measure(path: Path) -> tuple[float, float]:
    """Return the loudness in LUFS, NaN if silent, and the peak in dB of a clip."""
    clip = read_clip(path)
    if clip.seconds < SHORTEST:
        raise ValueError(f"{path}: {clip.seconds:.2f} s, but a loudness needs {SHORTEST:g} s: leave the clip out")
    if clip.sample_rate > HIGHEST_RATE:
        raise ValueError(f"{path}: {clip.sample_rate} Hz, but FLAC has {HIGHEST_RATE} Hz at most: resample the clip")
    channels = _channels(clip)
    peak = channels.abs().max().item()
    loudness = measure_loudness(channels, clip.sample_rate)
    return loudness, 20 * math.log10(peak) if peak > 0 else -math.inf


def _channels(clip: Clip) -> Tensor:
    """Return the one or two channels [C, S] that every browser plays; more are mixed down."""
    if clip.raw is None or clip.raw.dim() < 2 or len(clip.raw) > 2:
        return clip.audio[None]
    return clip.raw


def write_clip(source: Path, to: Path, gain: float) -> None:
    """Write a clip, louder by `gain` dB, without the tags that its file may have."""
    clip = read_clip(source)
    samples = _channels(clip) * 10 ** (gain / 20)
    _write(to, samples.numpy().T, clip.sample_rate)


def write_beeps(to: Path, beeps: int, loudness: float) -> None:
    """Write an attention check: beeps to count, of a length that does not tell how many."""
    time = np.arange(round(_EVERY * _CHECK_RATE)) / _CHECK_RATE
    tone = np.sin(2 * np.pi * _PITCH * time) * np.sin(np.pi * np.clip(time / _BEEP, 0, 1))
    samples = torch.from_numpy(np.concatenate([tone] * beeps + [0 * tone] * (MOST_BEEPS - beeps + 1))).float()
    gain = 10 ** ((loudness - measure_loudness(samples[None], _CHECK_RATE)) / 20)
    _write(to, (samples * gain).clamp(-1, 1).numpy(), _CHECK_RATE)


def _write(to: Path, samples: np.ndarray, sample_rate: int) -> None:
    soundfile.write(to, np.clip(samples, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
