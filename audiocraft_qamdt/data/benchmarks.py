"""The paper's benchmarks, MusicCaps and Song Describer: their published tables and what audio is there, as a set."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from ..utils.audio import UnreadableAudio, audio_info, find_audio, read_audio
from ..utils.files import replacing, write_json
from .manifest import build_manifest, sidecar_path

MISSING, PROMPTS = "missing.txt", "prompts.jsonl"
WHOLE = 1.0
"""Seconds by which a file may be longer than its excerpt and still be the excerpt."""


@dataclass
class Clip:
    """A row of a benchmark.

    Args:
        name: of the track, in the published table.
        captions: what it is said to be; the first is the set's.
        start: where its excerpt begins, in seconds.
        seconds: of the excerpt; None = the whole file.
    """

    name: str
    captions: list[str]
    start: float = 0.0
    seconds: float | None = None


@dataclass
class BenchmarkReport:
    """What was made of a benchmark.

    Args:
        folder: of the set.
        clips: number of clips in the published table.
        prompts: number of prompts.
        missing: clips without audio.
        unreadable: clips whose audio cannot be read → why.
    """

    folder: Path
    clips: int = 0
    prompts: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return what to print."""
        there = self.clips - len(self.missing) - len(self.unreadable)
        lines = [f"{self.folder}: {there} of {self.clips} clips; {self.prompts} prompts in {PROMPTS}"]
        if self.missing:
            lines.append(f"{len(self.missing)} clips have no audio, named in {self.folder / MISSING}")
        return lines + [f"left out: {reason}" for reason in self.unreadable.values()]


def musiccaps(rows: Iterable[dict[str, str]]) -> list[Clip]:
    """Return the clips of musiccaps-public.csv: ids of AudioSet, each with its seconds."""
    return [
        Clip(row["ytid"], [row["caption"]], float(row["start_s"]), float(row["end_s"]) - float(row["start_s"]))
        for row in rows
    ]


def song_describer(rows: Iterable[dict[str, str]]) -> list[Clip]:
    """Return the tracks of song_describer.csv, each with its captions; those of the valid subset come first."""
    captions: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for row in rows:
        captions[row["track_id"]].append((row["is_valid_subset"].strip().lower() != "true", row["caption"]))
    return [
        Clip(track, [text for _, text in sorted(texts, key=lambda pair: pair[0])]) for track, texts in captions.items()
    ]


BENCHMARKS: dict[str, tuple[str, tuple[str, ...], Callable[[Iterable[dict[str, str]]], list[Clip]]]] = {
    "musiccaps": ("musiccaps-public.csv", ("ytid", "start_s", "end_s", "caption"), musiccaps),
    "song-describer": ("song_describer.csv", ("track_id", "caption", "is_valid_subset"), song_describer),
}
"""Name → the published table, the columns that are used, and what reads them."""


def make_benchmark(name: str, folder: str | Path, out: str | Path | None = None) -> BenchmarkReport:
    """Write an AudioCraft set of the clips whose audio is there, and the prompts of all clips.

    A file belongs to a clip whose name is in its own: `<ytid>.wav`, `[<ytid>]-[30-40].wav`, `<track_id>.2min.mp3`. What
    is longer than its excerpt is cut; other files are linked.

    Args:
        name: one of `BENCHMARKS`.
        folder: holds the published table and, nested or not, the audio.
        out: folder to write; None = `set` in `folder`.
    Raises:
        FileNotFoundError: there is no table.
        ValueError: the table lacks a column.
    """
    clips = _read(name, Path(folder))
    out = Path(folder) / "set" if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    report = BenchmarkReport(out, len(clips), sum(len(clip.captions) for clip in clips))
    files = _by_word(path for path in _audio(Path(folder)) if out not in path.parents)
    for clip in clips:
        path = files.get(clip.name)
        if path is None:
            report.missing.append(clip.name)
            continue
        try:
            _place(clip, path, out)
        except UnreadableAudio as error:
            report.unreadable[clip.name] = str(error)
    _write_lines(out / PROMPTS, (json.dumps({"prompt": text}) for clip in clips for text in clip.captions))
    _write_lines(out / MISSING, report.missing)
    if len(report.missing) + len(report.unreadable) < len(clips):
        build_manifest(out)
    return report


def _read(name: str, folder: Path) -> list[Clip]:
    table, columns, read = BENCHMARKS[name]
    path = folder / table
    if not path.is_file():
        raise FileNotFoundError(f"{path}: put the published table of {name} there")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if lacking := [column for column in columns if column not in (rows.fieldnames or ())]:
            raise ValueError(f"{path}: no column {', '.join(lacking)}, so it is not the published table of {name}")
        return read(rows)


def _audio(folder: Path) -> list[Path]:
    try:
        return find_audio(folder).files
    except FileNotFoundError:
        return []  # all clips are missing


def _by_word(paths: Iterable[Path]) -> dict[str, Path]:
    """Return audio by its possible names: its stem, and what stands in brackets or before a full stop."""
    named: dict[str, Path] = {}
    for path in paths:
        stem = path.stem
        for word in (stem, stem.split(".")[0], stem[1:].split("]")[0] if stem.startswith("[") else stem):
            named.setdefault(word, path)
    return named


def _place(clip: Clip, path: Path, out: Path) -> None:
    """Bring a clip's audio into the set, and write its sidecar."""
    if clip.seconds and audio_info(path).duration > clip.seconds + WHOLE:
        target = out / f"{clip.name}.flac"
        audio, rate = read_audio(path, clip.start, clip.seconds)
        with replacing(target) as part:
            soundfile.write(part, audio.T.numpy(), rate, format="FLAC")
    else:
        target = out / f"{clip.name}{path.suffix}"
        target.unlink(missing_ok=True)
        os.symlink(os.path.abspath(path), target)
    write_json(sidecar_path(target), {"description": clip.captions[0], "captions": clip.captions})


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with replacing(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
