#!/usr/bin/env python3
"""Excerpts of real music, and damaged copies of a part of them: `natural_quality.py REAL OUT --damaged 0.5`.

REAL is what `tools/real_music.sh REAL` made. Its splits `train`, `valid` and `test` become AudioCraft data sets in
OUT, all excerpts at one loudness, so that a quiet excerpt is not taken for a bad one. A damaged copy went through a
real codec (MP3 of 8 to 40 kbit/s at 16 kHz), or was recorded again in a room: an echo, a microphone that lacks bass
and treble, and noise. Copies have the words of their original; `test`, which clips are compared with, has none. Label
with `qamdt annotate OUT/train` and `OUT/valid`, train with `dset=real_music folder=OUT`. What is there is not
made again.
"""

from __future__ import annotations

import argparse
import io
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from audiocraft_qamdt.cli import main as qamdt
from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.data.manifest import read_manifest, read_sidecar, sidecar_path
from audiocraft_qamdt.playground.dataset import levelled, to_pcm16
from audiocraft_qamdt.playground.degradation import degrade
from audiocraft_qamdt.utils.audio import read_samples
from audiocraft_qamdt.utils.files import refuse_other_settings, replacing, write_json
from audiocraft_qamdt.utils.randomness import keyed_seed
from audiocraft_qamdt.utils.reading import read_json

SPLITS = ("train", "valid", "test")
SETTINGS = "natural_quality.json"
COMPRESSION = (0.8, 0.9, 0.95, 0.99)
"""libsndfile's compression levels of MP3, which at 16 kHz give 40, 24, 16 and 8 kbit/s."""
DELAY = 1105
"""Samples by which LAME (576) and its decoder (529) delay audio where the file has no room for the tag that says so."""
ECHO = (0.3, 1.2)
"""Seconds in which a room's echo falls by 60 dB."""
DIRECT = (0.3, 1.0)
"""Level of the sound that reaches the microphone directly; that of the echo is 1."""
COPIED = ("train", "valid")
"""Splits with damaged copies."""
KEPT = ("title", "description", "artist", "genre", "package", "licence", "source")
"""What an excerpt's sidecar has of its track's."""


@dataclass(frozen=True)
class Options:
    """What the data set is made with.

    Args:
        damaged: share of the excerpts that get a damaged copy.
        seconds: of an excerpt.
        most: excerpts of a track.
        seed: draws which excerpts are copied, and their damage.
    """

    damaged: float
    seconds: float
    most: int
    seed: int


def through_codec(audio: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return the samples [S] as an MP3 file of a low rate gives them back."""
    file = io.BytesIO()
    level = float(generator.choice(COMPRESSION))
    soundfile.write(file, audio, sample_rate, format="MP3", bitrate_mode="CONSTANT", compression_level=level)
    file.seek(0)
    heard, _ = soundfile.read(file, dtype="float32")
    if len(heard) > len(audio):
        heard = heard[DELAY:]
    return np.pad(heard[: len(audio)], (0, max(0, len(audio) - len(heard))))


def recorded_again(audio: np.ndarray, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return the samples [S] as a microphone in a room hears them: an echo, less bass and treble, and noise."""
    from scipy.signal import fftconvolve

    seconds = generator.uniform(*ECHO)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    echo = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echo /= np.sqrt(np.square(echo).sum())
    echo[0] += generator.uniform(*DIRECT)
    heard = fftconvolve(audio, echo)[: len(audio)]
    heard *= np.abs(audio).max(initial=1e-9) / np.abs(heard).max(initial=1e-9)
    for kind, least, most in (("highpass", 0.2, 0.5), ("bandlimit", 0.3, 0.8), ("pink_noise", 0.2, 0.7)):
        heard = degrade(heard.astype(np.float32), sample_rate, kind, generator.uniform(least, most), generator)
    return heard


DAMAGES = {"codec": through_codec, "room": recorded_again}


def places(row: dict, options: Options) -> Iterator[tuple[str, float]]:
    """Yield name and start, in seconds, of a track's excerpts, evenly spread over it; none of one that is too short."""
    number = min(options.most, int(row["duration"] // options.seconds))
    for index in range(number):
        yield f"{Path(row['path']).stem}-{index}", (row["duration"] - options.seconds) * (index + 0.5) / number


def write(path: Path, audio: np.ndarray, sample_rate: int, facts: dict) -> None:
    """Write a track and its sidecar, the sidecar first: a FLAC file never lacks one."""
    write_json(sidecar_path(path), facts)
    with replacing(path) as part:
        soundfile.write(part, to_pcm16(levelled(audio)), sample_rate, format="FLAC", subtype="PCM_16")


def write_excerpts(folder: Path, row: dict, options: Options) -> None:
    """Write a track's excerpts, some with a copy with one of the `DAMAGES`, unless they are there.

    An excerpt's name decides about its copy, whatever else there is.
    """
    facts = {key: value for key, value in read_sidecar(sidecar_path(row["path"])).items() if key in KEPT}
    for name, start in places(row, options):
        wanted = {"none": folder / f"{name}.flac"}
        generator = np.random.default_rng(keyed_seed(options.seed, name))
        if folder.name in COPIED and generator.uniform() < options.damaged:
            kind = str(generator.choice(list(DAMAGES)))
            wanted[kind] = folder / f"{name}-{kind}.flac"
        missing = {kind: path for kind, path in wanted.items() if not path.exists()}
        if not missing:
            continue
        samples, sample_rate = read_samples(Path(row["path"]), start, options.seconds)
        audio = samples.mean(0)
        for kind, path in missing.items():
            damaged = audio if kind == "none" else DAMAGES[kind](audio, sample_rate, generator)
            write(path, damaged, sample_rate, {**facts, "damage": kind})


def make(real: Path, out: Path, options: Options) -> None:
    """Write the excerpts of every split.

    Raises:
        ValueError: OUT is REAL, or was made with other settings; a split has no track that is long enough.
    """
    if out.resolve() == real.resolve():
        raise ValueError(f"{out} is the music itself: name another folder")
    tracks = {split: read_manifest(real / split) for split in SPLITS}
    for split, rows in tracks.items():
        if not any(True for row in rows for _ in places(row, options)):
            raise ValueError(f"no track of {real / split} is as long as --seconds {options.seconds:g}")
    settings = {"real": os.path.relpath(real.resolve(), out.resolve()), **asdict(options)}
    if (path := out / SETTINGS).exists():
        refuse_other_settings(path, read_json(path), settings)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
    for split, rows in tracks.items():
        (out / split).mkdir(exist_ok=True)
        for row in rows:
            write_excerpts(out / split, row, options)
        if short := sum(not list(places(row, options)) for row in rows):
            say([f"{real / split}: left out {short} tracks, shorter than --seconds {options.seconds:g}"])
        if status := qamdt(["manifest", str(out / split)]):
            raise SystemExit(status)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="data set of tools/real_music.sh")
    parser.add_argument("out", type=Path, help="folder of the new data set")
    parser.add_argument("--damaged", type=float, default=0.5, help="share of the excerpts with a damaged copy")
    parser.add_argument("--seconds", type=float, default=8.0, help="of an excerpt")
    parser.add_argument("--most", type=int, default=6, help="excerpts of a track")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    options = Options(given.damaged, given.seconds, given.most, given.seed)
    if not 0 <= options.damaged <= 1:
        parser.error(f"--damaged {options.damaged}: give a share from 0 to 1")
    if not 0 < options.seconds < math.inf or options.most < 1:
        parser.error("--seconds and --most must be above 0, and finite")
    try:
        make(given.real, given.out, options)
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
