"""Tracks of any format: their split, their words, and FLAC files of one rate."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import soundfile

MODULES = {".it", ".mod", ".s3m", ".xm"}
SUFFIXES = {".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma", *MODULES}
EFFECTS = {"sfx", "sounds"}
"""Folders of a game that hold no music."""
SPLITS = (("train", 0.84), ("valid", 0.92), ("test", 1.0))
"""Splits, and the share of tracks up to and with each."""
VARIANTS = {"enhanced", "old", "new", "short", "long", "loop", "intro", "revisited", "remix"}
"""Words that tell two versions of one piece apart: both must fall into one split."""
LAYOUTS = {1: "mono", 2: "stereo"}
_BLOCK = 1 << 16  # samples decoded at once
_EMPTY_TITLE = re.compile(r"[\W\d]*(track|music|song)?[\W\d]*", re.IGNORECASE)
_EMPTY_GENRE = re.compile(
    r"[\W\d]*(game|music|none|other|sound clip|sound fx|soundtrack|unknown)?[\W\d]*", re.IGNORECASE
)


def find_tracks(folder: Path, skip: Iterable[str] = ()) -> list[Path]:
    """Audio files under a folder, sorted, without links, hidden files, and what lies in folders of the names `skip`."""
    found = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if _is_track(path, path.relative_to(folder), set(skip)))


def _is_track(path: Path, relative: Path, skip: set[str]) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return path.suffix.lower() in SUFFIXES and not (hidden or skip.intersection(relative.parts) or path.is_symlink())


def words(name: str) -> str:
    """A file's name as words: "CrystanTheme01_new" → "Crystan Theme01 new"."""
    return " ".join(re.split(r"[\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name))).strip()


def slug(name: str) -> str:
    """A name in lower case, with hyphens between its words."""
    return words(unicodedata.normalize("NFKC", name)).lower().replace(" ", "-")


def split_of(source: str, name: str) -> str:
    """The split of a track, by a hash of its name alone: the same on every machine, for every version of a piece."""
    piece = "-".join(word for word in slug(name).split("-") if word not in VARIANTS)
    place = int(hashlib.sha256(f"{source}/{piece}".encode()).hexdigest()[:8], 16) / 2**32
    return next(split for split, share in SPLITS if place < share)


def output_names(source: str, tracks: Iterable[Path], folder: Path) -> dict[Path, str]:
    """A file name without suffix for each track: `source--name`, with its folders and format where names repeat."""
    tracks = list(tracks)
    times = Counter(slug(track.stem) for track in tracks)
    return {
        track: f"{source}--{slug(track.stem if times[slug(track.stem)] == 1 else str(track.relative_to(folder)))}"
        for track in tracks
    }


def describe(track: Path, about: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Title, description, artist and genre of a track, from its tags, its name and what is known of its source."""
    title = tags.get("title", "").replace("_", " ").strip()
    if _EMPTY_TITLE.fullmatch(title) or ";" in title:  # several titles: those of other tracks, left there by an editor
        title = words(track.stem)
    if Path(title).suffix.lower() in SUFFIXES:
        title = Path(title).stem
    genre = tags.get("genre", "").strip()
    if _EMPTY_GENRE.fullmatch(genre):
        genre = ""
    said = ["" if _EMPTY_TITLE.fullmatch(title) else title, genre.lower(), about]
    description = ", ".join(text for text in said if text) or title
    facts = {"title": title, "description": description, "artist": tags.get("artist", "").strip(), "genre": genre}
    return {key: value for key, value in facts.items() if value}


def convert(track: Path, target: Path, sample_rate: int, channels: int) -> dict[str, str]:
    """Write a track as 16-bit FLAC of this rate and 1 or 2 channels; memory does not grow with its length.

    Returns:
        its tags, names in lower case.
    Raises:
        ValueError: it cannot be decoded, with the reason.
        OSError: the target cannot be written.
    """
    out = soundfile.SoundFile(target, "w", sample_rate, channels, "PCM_16", format="FLAC")
    with out, _decoding(track) as (tags, frames):
        for samples in _resample(frames, sample_rate, channels):
            _write(out, samples)
    return {key.lower(): value for key, value in tags.items()}


def _write(out: soundfile.SoundFile, samples: np.ndarray) -> None:
    try:
        out.write(samples)
    except (soundfile.LibsndfileError, AssertionError) as error:  # the latter where fewer samples were written
        raise OSError(f"{out.name} cannot be written: is the disk full?") from error


def _resample(frames: Iterable[av.AudioFrame], sample_rate: int, channels: int) -> Iterator[np.ndarray]:
    """Blocks [samples, channels] of 16-bit audio; a mono track has its level on both of two channels."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("it holds no audio")
    inside = min(channels, first.layout.nb_channels)
    resampler = av.AudioResampler("s16", LAYOUTS[inside], sample_rate, frame_size=_BLOCK)
    for frame in itertools.chain([first], frames, [None]):  # None: what the resampler still holds
        for block in resampler.resample(frame):
            yield np.repeat(block.to_ndarray().reshape(-1, inside), channels // inside, axis=1)


@contextlib.contextmanager
def _decoding(track: Path) -> Iterator[tuple[dict[str, str], Iterable[av.AudioFrame]]]:
    """Give the tags of a track and its audio; what the decoders raise becomes a ValueError."""
    try:
        with contextlib.ExitStack() as stack:
            yield _open(track, stack)
    except (av.error.FFmpegError, soundfile.LibsndfileError) as error:
        raise ValueError(str(error)) from error


def _open(track: Path, stack: contextlib.ExitStack) -> tuple[dict[str, str], Iterable[av.AudioFrame]]:
    if track.suffix.lower() in MODULES:
        wav = stack.enter_context(_rendered(track))
        return {}, stack.enter_context(av.open(wav, "r", format="wav")).decode(audio=0)
    try:
        container = stack.enter_context(av.open(str(track), "r"))
    except av.error.InvalidDataError:  # FFmpeg refuses the headers of some Vorbis files that libsndfile reads
        file = stack.enter_context(soundfile.SoundFile(track))
        return file.copy_metadata(), _frames(file)
    if not container.streams.audio:
        raise ValueError("it holds no audio")
    return {**container.metadata, **container.streams.audio[0].metadata}, container.decode(audio=0)


@contextlib.contextmanager
def _rendered(module: Path) -> Iterator[IO[bytes]]:
    """A tracker module as wav, by the program ffmpeg: the library that comes with PyAV plays none."""
    if shutil.which("ffmpeg") is None:
        raise ValueError("a tracker module: install ffmpeg to have it rendered")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(module), "-f", "wav", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.stdout


def _frames(file: soundfile.SoundFile) -> Iterator[av.AudioFrame]:
    if file.channels not in LAYOUTS:
        raise ValueError(f"it has {file.channels} channels, 1 or 2 can be read")
    for block in file.blocks(_BLOCK, dtype="float32", always_2d=True):
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=LAYOUTS[file.channels])
        frame.sample_rate = file.samplerate
        yield frame
