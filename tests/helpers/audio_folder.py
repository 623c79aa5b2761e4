"""Small folders of real audio files with sidecars and a manifest, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from audiocraft_qamdt.data.manifest import build_manifest


def tone(frequency: float, duration: float, sample_rate: int, seed: int = 0) -> np.ndarray:
    """A decaying chord with a little noise: not silent anywhere."""
    time = np.arange(round(duration * sample_rate)) / sample_rate
    notes = sum(np.sin(2 * np.pi * frequency * ratio * time) for ratio in (1, 1.25, 1.5))
    beat = np.exp(-((time * 2) % 1) * 3)
    return (0.2 * notes * beat + 0.01 * np.random.default_rng(seed).standard_normal(len(time))).astype(np.float32)


def write_track(path: Path, index: int, duration: float, sample_rate: int, pmos: float | None, frames=None) -> None:
    soundfile.write(path, tone(110 * 2 ** (index / 12), duration, sample_rate, index), sample_rate)
    sidecar = {"description": f"track number {index}", "genre": "test", "name": path.stem}
    if pmos is not None:
        sidecar["quality"] = {
            "pmos": pmos,
            "hop": 1.0,
            "frames": frames or [pmos] * int(duration),
            "predictor": "test",
            "version": "1",
        }
    path.with_suffix(".json").write_text(json.dumps(sidecar))


def make_folder(
    folder: Path, tracks: int = 6, duration: float = 4.0, sample_rate: int = 16000, quality: bool = True
) -> Path:
    """`tracks` wav files with descriptions, quality (p-MOS 3.0, 3.2, …), a manifest and quality.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(tracks):
        write_track(folder / f"track{index}.wav", index, duration, sample_rate, 3.0 + 0.2 * index if quality else None)
    build_manifest(folder)
    if quality:
        scores = [3.0 + 0.2 * index for index in range(tracks)]
        (folder / "quality.json").write_text(
            json.dumps(
                {
                    "mean": float(np.mean(scores)),
                    "std": float(np.std(scores)),
                    "count": tracks,
                    "quantiles": [float(value) for value in np.quantile(scores, np.linspace(0, 1, 21))],
                    "predictor": "test",
                    "version": "1",
                    "unscored": 0,
                }
            )
        )
    return folder
