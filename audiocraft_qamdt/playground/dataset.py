"""The playground data set on disk: AudioCraft folders of degraded synthetic music whose every label is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.manifest import MANIFEST_FILES, read_sidecar, sidecar_path, write_manifest
from ..utils.files import claim, refuse_other_settings, replacing, write_json
from ..utils.reading import JsonObject
from .degradation import CALIBRATION_KINDS, degrade
from .synthesis import Piece, compose, render, tempo_word

RECIPE_FILE = "playground.json"
SPLITS = {"train": 0.7, "valid": 0.1, "evaluate": 0.1, "generate": 0.1}
CURVE_HOP = 0.5  # seconds
STEPS = tuple(step / 10 for step in range(11))


CHAIN = ("clipping", "bandlimit", "hum", "noise", "bit_depth")
"""Calibration kinds in the order in which a recording meets them."""
LEVEL = 0.1
"""Root mean square of every track (-20 dBFS), or less where the peak would clip: loudness must not reveal quality."""


@dataclass(frozen=True)
class Faults:
    """Degradations of a track.

    Args:
        kinds: keys of `CALIBRATION_KINDS`, applied one after the other with the same severity; none = a clean track.
        start, stop: severity at the start and at the end of the track, linear in between.
    """

    kinds: tuple[str, ...] = ()
    start: float = 0.0
    stop: float = 0.0

    def curve(self, points: int) -> np.ndarray:
        """Return the severity at the middles of so many equal parts of the track."""
        return self.start + (self.stop - self.start) * (np.arange(points) + 0.5) / points


CHANGING = 0.3
"""Share of the degraded tracks that get better or worse along their length."""


def draw_faults(seed: int, index: int, degraded: float = 0.7, changing: float = CHANGING) -> Faults:
    """Draw the faults of a track: a bad recording often has several, and some get better or worse along it.

    Args:
        degraded: share of the tracks that are not clean.
        changing: share of the degraded ones whose severity changes along the track.
    """
    rng = np.random.default_rng((seed, index, 2))
    clean, spare, chosen = rng.uniform() >= degraded, rng.choice(CHAIN), rng.uniform(size=len(CHAIN)) < 0.6
    start, stop = rng.beta(2, 2, 2)
    if clean:
        return Faults()
    kinds = tuple(kind for kind, on in zip(CHAIN, chosen, strict=True) if on) or (str(spare),)
    return Faults(kinds, start, stop if rng.uniform() < changing else start)


def make_track(
    seed: int, index: int, duration: float, sample_rate: int, degraded: float = 0.7, changing: float = CHANGING
) -> tuple[np.ndarray, JsonObject]:
    """Return a track and its sidecar; the same arguments give the same track.

    Args:
        duration: seconds.
        sample_rate: Hz.
        degraded, changing: shares, as in `draw_faults`.
    Returns:
        int16 samples [S], and the sidecar: AudioCraft's music metadata, and the key `playground` with what only a
        synthetic track can know. Its `severity_curve[i]` is the severity around `(i + 0.5) * hop` seconds.
    """
    piece, faults = compose(seed, index), draw_faults(seed, index, degraded, changing)
    audio = render(piece, duration, sample_rate)
    generator = np.random.default_rng((seed, index, 3))
    for kind in faults.kinds:
        audio = degrade(audio, sample_rate, kind, faults.curve(len(audio)), generator)
    return to_pcm16(levelled(audio)), _sidecar(piece, faults, duration, sample_rate)


def levelled(audio: np.ndarray) -> np.ndarray:
    """Return the samples at `LEVEL`, or quieter where their peak would clip."""
    rms, peak = np.sqrt(np.mean(np.square(audio))) + 1e-9, np.abs(audio).max(initial=1e-9)
    return audio * min(LEVEL / rms, 0.99 / peak)


def to_pcm16(audio: np.ndarray) -> np.ndarray:
    """Return the samples within ±1 as the int16 of a file."""
    return np.round(audio * 32767).astype(np.int16)


def _sidecar(piece: Piece, faults: Faults, duration: float, sample_rate: int) -> JsonObject:
    name = _stem(piece.index)
    curve = faults.curve(max(1, round(duration / CURVE_HOP)))
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
        "file_extension": "flac",
        "playground": {
            "kinds": list(faults.kinds),
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
    degraded: float = 0.7,
    changing: float = CHANGING,
    splits: Mapping[str, float] = SPLITS,
) -> dict[str, Path]:
    """Write the data set: a folder per split, with flac files, sidecars and `data.jsonl.gz`.

    Run again with the same arguments, it writes what is missing and leaves the rest alone, annotations included.

    Args:
        folder: where the splits go.
        tracks: number of tracks over all splits.
        duration: seconds of each.
        seed: two data sets of different seeds share no track.
        sample_rate: Hz.
        degraded, changing: shares, as in `draw_faults`.
        splits: name → share of the tracks; a split gets at least one.
    Returns:
        split → its folder.
    Raises:
        ValueError: when the folder holds a data set made with other arguments, the splits cannot be filled,
            or a share is none.
    """
    folder = Path(folder).absolute()
    arguments = {
        "duration": duration,
        "seed": seed,
        "sample_rate": sample_rate,
        "degraded": degraded,
        "changing": changing,
    }
    for name, share in (("degraded", degraded), ("changing", changing)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: give a share from 0 to 1")
    parts = _divide(tracks, splits)
    _check_recipe(folder, {"tracks": tracks, "splits": dict(splits), **arguments})
    folders = {}
    with tqdm(total=tracks, desc="playground", unit="track") as progress:
        for split, indices in parts.items():
            folders[split] = folder / split
            folders[split].mkdir(parents=True, exist_ok=True)
            for index in indices:
                path = folders[split] / f"{_stem(index)}.flac"
                _write_track(path, seed, index, duration, sample_rate, degraded, changing)
                progress.update()
            manifest = folders[split] / MANIFEST_FILES[1]
            if not manifest.exists():
                write_manifest(manifest, (_row(folders[split] / f"{_stem(index)}.flac") for index in indices))
    return folders


def _check_recipe(folder: Path, recipe: JsonObject) -> None:
    path = folder / RECIPE_FILE
    # Recipes of before `changing` was a choice lack it.
    made = {"changing": CHANGING, **read_sidecar(path)} if path.exists() else recipe
    refuse_other_settings(path, made, recipe)
    claim(folder, "qamdt playground", lambda folder: (folder / RECIPE_FILE).is_file())
    write_json(path, recipe)


def _divide(tracks: int, splits: Mapping[str, float]) -> dict[str, range]:
    """Return consecutive indices for each split, as close to its share as whole tracks allow."""
    if tracks < len(splits) or not splits or min(splits.values()) <= 0:
        raise ValueError(f"{tracks} tracks cannot fill {dict(splits)}: each split needs a share above 0 and a track")
    shares = np.array(list(splits.values())) / sum(splits.values())
    spare = tracks - len(splits)  # beyond the one track that each split has in any case
    stops = np.round(np.cumsum(shares) * spare).astype(int) + np.arange(1, len(splits) + 1)
    return dict(zip(splits, map(range, [0, *stops[:-1].tolist()], stops.tolist()), strict=True))


def _write_track(
    path: Path, seed: int, index: int, duration: float, sample_rate: int, degraded: float, changing: float
) -> None:
    # FLAC: AudioCraft reads it through soundfile, seven times as fast as wav, which it opens with FFmpeg.
    # The sidecar comes last: where it is, the track is whole.
    if path.exists() and sidecar_path(path).exists():
        return
    audio, sidecar = make_track(seed, index, duration, sample_rate, degraded, changing)
    with replacing(path) as part:
        soundfile.write(part, audio, sample_rate, format="FLAC", subtype="PCM_16")
    write_json(sidecar_path(path), sidecar)


def _row(path: Path) -> JsonObject:
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
    """Return pieces of playground music, degraded by each kind at each severity, to calibrate and to test predictors.

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
