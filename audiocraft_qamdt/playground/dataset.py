"""The playground data set on disk: AudioCraft folders of degraded synthetic music whose every label is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.manifest import (
    MANIFEST_FILES,
    read_sidecar,
    replacing,
    sidecar_path,
    write_json,
    write_manifest,
)
from .degradation import CALIBRATION_KINDS, degrade
from .synthesis import Piece, compose, render, tempo_word

RECIPE_FILE = "playground.json"
SPLITS = {"train": 0.7, "valid": 0.1, "evaluate": 0.1, "generate": 0.1}
CURVE_HOP = 0.5  # seconds
STEPS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Fault:
    """How a track is degraded.

    Args:
        kind: key of `CALIBRATION_KINDS`.
        start, stop: severity at the start and at the end of the track, linear in between.
    """

    kind: str
    start: float
    stop: float

    def curve(self, points: int) -> np.ndarray:
        """Severity at the middles of so many equal parts of the track."""
        return self.start + (self.stop - self.start) * (np.arange(points) + 0.5) / points


def draw_fault(seed: int, index: int) -> Fault:
    """The fault of a track: most are mild, few are ruined, three in ten change along the track."""
    rng = np.random.default_rng((seed, index, 2))
    kind = list(CALIBRATION_KINDS)[rng.integers(len(CALIBRATION_KINDS))]
    start, stop = rng.beta(1.8, 3.0, 2)
    return Fault(kind, start, stop if rng.uniform() < 0.3 else start)


def make_track(seed: int, index: int, duration: float, sample_rate: int) -> tuple[np.ndarray, dict[str, Any]]:
    """A degraded track and its sidecar; the same arguments give the same track.

    Args:
        duration: seconds.
        sample_rate: Hz.
    Returns:
        int16 samples [S], and the sidecar: AudioCraft's music metadata, and the key `playground` with what only a
        synthetic track can know. Its `severity_curve[i]` is the severity around `(i + 0.5) * hop` seconds.
    """
    piece, fault = compose(seed, index), draw_fault(seed, index)
    audio = render(piece, duration, sample_rate)
    generator = np.random.default_rng((seed, index, 3))
    degraded = degrade(audio, sample_rate, fault.kind, fault.curve(len(audio)), generator)
    return to_pcm16(degraded), _sidecar(piece, fault, duration, sample_rate)


def to_pcm16(audio: np.ndarray) -> np.ndarray:
    """Samples within ±1 as the int16 of a wav file."""
    return np.round(audio * 32767).astype(np.int16)


def _sidecar(piece: Piece, fault: Fault, duration: float, sample_rate: int) -> dict[str, Any]:
    name = _stem(piece.index)
    curve = fault.curve(max(1, round(duration / CURVE_HOP)))
    return {
        "title": name,
        "artist": f"artist_{piece.seed}_{piece.index}",
        "key": f"{piece.key} {piece.mode}",
        "bpm": piece.bpm,
        "genre": piece.genre,
        "moods": [piece.mood],
        "keywords": [tempo_word(piece.bpm), *piece.instruments],
        "description": piece.description,
        "name": name,
        "instrument": piece.lead,
        "duration": duration,
        "sample_rate": sample_rate,
        "file_extension": "wav",
        "playground": {
            "kind": fault.kind,
            "severity": round(float(curve.mean()), 4),
            "hop": CURVE_HOP,
            "severity_curve": curve.round(4).tolist(),
            **{key: value for key, value in asdict(piece).items() if key != "description"},
        },
    }


def _stem(index: int) -> str:
    return f"track_{index:05d}"


def make_dataset(
    folder: str | Path,
    *,
    tracks: int = 200,
    duration: float = 8.0,
    seed: int = 0,
    sample_rate: int = 16000,
    splits: Mapping[str, float] = SPLITS,
) -> dict[str, Path]:
    """Write the data set: a folder per split, with wav files, sidecars and `data.jsonl.gz`.

    Run again with the same arguments, it writes what is missing and leaves the rest alone, annotations included.

    Args:
        folder: where the splits go.
        tracks: number of tracks over all splits.
        duration: seconds of each.
        seed: two data sets of different seeds share no track.
        sample_rate: Hz.
        splits: name → share of the tracks; a split gets at least one.
    Returns:
        split → its folder.
    Raises:
        ValueError: when the folder holds a data set made with other arguments, or the splits cannot be filled.
    """
    folder = Path(folder).absolute()
    recipe = {"tracks": tracks, "duration": duration, "seed": seed, "sample_rate": sample_rate, "splits": dict(splits)}
    _check_recipe(folder, recipe)
    folders = {}
    with tqdm(total=tracks, desc="playground", unit="track") as progress:
        for split, indices in _divide(tracks, splits).items():
            folders[split] = folder / split
            folders[split].mkdir(parents=True, exist_ok=True)
            for index in indices:
                _write_track(folders[split] / f"{_stem(index)}.wav", seed, index, duration, sample_rate)
                progress.update()
            manifest = folders[split] / MANIFEST_FILES[1]
            if not manifest.exists():
                write_manifest(manifest, (_row(folders[split] / f"{_stem(index)}.wav") for index in indices))
    return folders


def _check_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    path = folder / RECIPE_FILE
    made = read_sidecar(path) if path.exists() else recipe
    different = [key for key in recipe if made.get(key) != recipe[key]]
    if different:
        raise ValueError(
            f"{folder} holds a playground made with another {' and '.join(different)} "
            f"({path}): choose another folder or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, recipe)


def _divide(tracks: int, splits: Mapping[str, float]) -> dict[str, range]:
    """Consecutive indices for each split, as close to its share as whole tracks allow."""
    if tracks < len(splits) or not splits or min(splits.values()) <= 0:
        raise ValueError(f"{tracks} tracks cannot fill {dict(splits)}: each split needs a share above 0 and a track")
    shares = np.array(list(splits.values())) / sum(splits.values())
    spare = tracks - len(splits)  # beyond the one track that each split has in any case
    stops = np.round(np.cumsum(shares) * spare).astype(int) + np.arange(1, len(splits) + 1)
    return dict(zip(splits, map(range, [0, *stops[:-1].tolist()], stops.tolist()), strict=True))


def _write_track(path: Path, seed: int, index: int, duration: float, sample_rate: int) -> None:
    # The sidecar comes last: where it is, the track is whole.
    if path.exists() and sidecar_path(path).exists():
        return
    audio, sidecar = make_track(seed, index, duration, sample_rate)
    with replacing(path) as part:
        soundfile.write(part, audio, sample_rate, format="WAV", subtype="PCM_16")
    write_json(sidecar_path(path), sidecar)


def _row(path: Path) -> dict[str, Any]:
    audio, sample_rate = soundfile.read(path, dtype="float32")
    return {
        "path": str(path),
        "duration": len(audio) / sample_rate,
        "sample_rate": sample_rate,
        "amplitude": float(np.abs(audio).max()),
        "weight": None,
        "info_path": None,
    }


def degraded_examples(
    seed: int,
    *,
    tracks: int = 16,
    kinds: Iterable[str] = tuple(CALIBRATION_KINDS),
    severities: Iterable[float] = STEPS,
    seconds: int = 2,
    sample_rate: int = 16000,
) -> Iterator[tuple[str, float, Tensor]]:
    """Pieces of playground music, degraded by each kind at each severity, to calibrate and to test predictors.

    Yields:
        kind, severity, and windows [seconds, sample_rate] of one second each.
    """
    severities, kinds = tuple(severities), tuple(kinds)
    for index in range(tracks):
        audio = render(compose(seed, index), seconds + 1, sample_rate)[sample_rate:]
        generator = np.random.default_rng((seed, index, 4))
        for kind in kinds:
            for severity in severities:
                degraded = to_pcm16(degrade(audio, sample_rate, kind, severity, generator))
                yield kind, severity, torch.from_numpy(degraded / np.float32(32768)).view(seconds, sample_rate)
