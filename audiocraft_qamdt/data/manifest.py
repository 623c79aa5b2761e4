"""Manifests (`data.jsonl.gz`) and sidecars (`<stem>.json`) in AudioCraft's own formats, and the quality kept in them.

Quality is one key of the sidecar, which AudioCraft ignores:
`"quality": {"pmos": 3.71, "hop": 1.0, "frames": [3.6, 3.8], "predictor": "acoustic", "version": "1"}`.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..utils.audio import UnreadableAudio, audio_info, find_audio, read_samples
from ..utils.files import replacing, write_json
from ..utils.outputs import check_folder
from ..utils.reading import JsonObject, parse_json, read_json
from .attributes import STATISTICS_FILE
from .metadata import read_metadata

MANIFEST_FILES = ("data.jsonl", "data.jsonl.gz")  # in the order in which AudioCraft looks for them
QUALITY_KEY = "quality"
PMOS_SCALE = (1.0, 5.0)
TRUNCATED_BY = 0.5  # seconds; an mp3's header is off by some 0.1 s through the encoder's delay


@dataclass(frozen=True)
class Quality:
    """Predicted mean opinion score of a track, whole and along time.

    Args:
        pmos: p-MOS of the whole track, 1 to 5.
        hop: seconds between two windows; None = no `frames`.
        frames: `frames[i]` is the p-MOS of the window centred on `(i + 0.5) * hop` seconds; None = not known.
        predictor: name of the predictor that gave the scores.
        version: its version.
    """

    pmos: float
    hop: float | None
    frames: list[float] | None
    predictor: str
    version: str

    @classmethod
    def from_dict(cls, fields: Mapping[str, object], source: str | Path) -> Quality:
        """Return the quality from the sidecar's `quality` key.

        Raises:
            ValueError: naming `source` and the field that is missing, not finite, or off the scale 1 to 5.
        """
        pmos = _number(fields.get("pmos"), f"{source}: quality.pmos", *PMOS_SCALE)
        predictor, version = (_text(fields.get(name), f"{source}: quality.{name}") for name in ("predictor", "version"))
        frames = fields.get("frames")
        if frames is None:
            return cls(pmos, None, None, predictor, version)
        if not isinstance(frames, list) or not frames:
            raise ValueError(f"{source}: quality.frames must be a list of p-MOS or null, got {frames!r}")
        hop = _number(fields.get("hop"), f"{source}: quality.hop", math.ulp(0.0), math.inf)
        frames = [_number(frame, f"{source}: quality.frames[{i}]", *PMOS_SCALE) for i, frame in enumerate(frames)]
        return cls(pmos, hop, frames, predictor, version)

    def to_dict(self) -> JsonObject:
        """Return the value of the sidecar's `quality` key."""
        return asdict(self)

    def pmos_between(self, start: float, stop: float) -> float:
        """Return p-MOS of a segment, in seconds: the mean of the frames whose centres fall in [start, stop).

        Where no centre does, it is the frame nearest to the segment's middle; without frames, the track's p-MOS.
        """
        if self.frames is None:
            return self.pmos
        inside = [frame for frame, centre in zip(self.frames, self._centres(), strict=True) if start <= centre < stop]
        return float(np.mean(inside or self.frames[self._nearest((start + stop) / 2)]))

    def curve(self, start: float, stop: float, frame_rate: float) -> list[float]:
        """Return the p-MOS of each latent frame of a segment: linear between windows, constant beyond the ends.

        Args:
            start, stop: the segment, in seconds.
            frame_rate: latent frames per second.
        Returns:
            ⌈(stop − start) · frame_rate⌉ values, the i-th at `start + (i + 0.5) / frame_rate`.
        """
        count = math.ceil(round((stop - start) * frame_rate, 6))
        if self.frames is None:
            return [self.pmos] * count
        times = start + (np.arange(count) + 0.5) / frame_rate
        return np.interp(times, self._centres(), self.frames).tolist()

    def _centres(self) -> list[float]:
        assert self.frames is not None and self.hop is not None
        return [(i + 0.5) * self.hop for i in range(len(self.frames))]

    def _nearest(self, time: float) -> int:
        return int(np.argmin(np.abs(np.array(self._centres()) - time)))


def _number(value: object, where: str, lowest: float, highest: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value!r}")
    if not lowest <= value <= highest:
        raise ValueError(f"{where} must be between {lowest:g} and {highest:g}, got {value!r}")
    return float(value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} must be a text that is not empty, got {value!r}")
    return value


def sidecar_path(audio_path: str | Path) -> Path:
    """Return the path where AudioCraft looks for a track's metadata."""
    return Path(audio_path).with_suffix(".json")


class BrokenSidecar(ValueError):
    """A sidecar that is not a JSON object in UTF-8; the message names it."""


def read_sidecar(path: str | Path) -> JsonObject:
    """Read a sidecar.

    Raises:
        BrokenSidecar: naming the file, when it is not a JSON object.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise BrokenSidecar(f"{error}: repair or remove it") from error
    if not isinstance(content, dict):
        raise BrokenSidecar(f"{path} must hold a JSON object, got {type(content).__name__}: repair or remove it")
    return content


def read_quality(audio_path: str | Path) -> Quality | None:
    """Return the quality of a track from its sidecar; None without a sidecar, or without a score in it.

    Raises:
        ValueError: naming the sidecar, and the field that is wrong.
    """
    path = sidecar_path(audio_path)
    try:
        fields = read_sidecar(path).get(QUALITY_KEY)
    except FileNotFoundError:
        return None
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: quality must be an object, got {fields!r}")
    return Quality.from_dict(fields, path)


def write_sidecar_key(audio_path: str | Path, key: str, value: object) -> None:
    """Set one key of a track's sidecar and leave the others as they are, in their order.

    Raises:
        ValueError: naming the sidecar, when what is there is not a JSON object; it is left alone.
    """
    update_sidecar(audio_path, {key: value})


def update_sidecar(audio_path: str | Path, changes: Mapping[str, object], remove: Iterable[str] = ()) -> None:
    """Set some keys of a track's sidecar and remove others, in one step; the rest stays as it is, in its order.

    A sidecar in which nothing is left is removed.

    Raises:
        ValueError: naming the sidecar, when what is there is not a JSON object; it is left alone.
    """
    path = sidecar_path(audio_path)
    content = {**(read_sidecar(path) if path.exists() else {}), **changes}
    for key in remove:
        content.pop(key, None)
    if content:
        write_json(path, content)
    else:
        path.unlink(missing_ok=True)


def find_manifest(path: str | Path) -> Path:
    """Return the manifest in a folder, or the manifest file itself.

    Raises:
        FileNotFoundError: where there is none.
    """
    path = Path(path)
    candidates = [path / name for name in MANIFEST_FILES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise FileNotFoundError(f"no {' or '.join(MANIFEST_FILES)} in {path}: make one with `qamdt manifest {path}`")
    raise FileNotFoundError(f"{path} does not exist: give a manifest, or a folder that holds {MANIFEST_FILES[1]}")


def read_manifest(path: str | Path) -> list[JsonObject]:
    """Return the rows of a manifest (a folder or a file): path, duration, sample_rate, amplitude, weight, info_path.

    Raises:
        FileNotFoundError: where there is no manifest.
        ValueError: naming the file, when it is empty; and the line, when that is not a row.
    """
    path = find_manifest(path)
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): make it again with `qamdt manifest`") from error
    lines = enumerate(text.split("\n"), 1)
    rows = [_row(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    if not rows:
        raise ValueError(f"{path} is empty: make it again with `qamdt manifest {path.parent}`")
    return rows


def read_descriptions(path: str | Path) -> list[str]:
    """Return the descriptions of a manifest's tracks, of those that have one.

    Raises:
        ValueError: no track has one.
    """
    sidecars = (sidecar_path(row["path"]) for row in read_manifest(path))
    texts = (read_metadata(sidecar).get("description") for sidecar in sidecars if sidecar.exists())
    descriptions = [text for text in texts if isinstance(text, str) and text]
    if not descriptions:
        raise ValueError(f"{path}: no track's sidecar has a description")
    return descriptions


_ROW_KINDS: dict[str, tuple[tuple[type, ...], str, bool]] = {
    "path": ((str,), "a text", True),
    "duration": ((int, float), "a number of seconds", True),
    "sample_rate": ((int,), "a whole number", True),
    "amplitude": ((int, float), "a number", False),
    "weight": ((int, float), "a number", False),
    "info_path": ((str,), "a text", False),
}
"""Field of a row → its types, those in words, whether it must be there (null counts as not there)."""


def _row(line: str, where: str) -> JsonObject:
    row = parse_json(line, where)
    known: JsonObject = row if isinstance(row, dict) else {}
    missing = [name for name, (_, _, needed) in _ROW_KINDS.items() if needed and known.get(name) is None]
    if missing:
        raise ValueError(f"{where}: no {', '.join(sorted(missing))}")
    for name, (types, wanted, _) in _ROW_KINDS.items():
        value: object = known.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            raise ValueError(f"{where}: {name} must be {wanted}, got {value!r}")
        if name in ("duration", "sample_rate", "weight") and value is not None and known[name] < 0:
            raise ValueError(f"{where}: {name} cannot be negative, got {value!r}")
    if not known["path"] or "\0" in known["path"]:
        raise ValueError(f"{where}: path cannot be {known['path']!r}")
    return known


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as AudioCraft's `save_audio_meta` does, whole or not at all; the same rows give the same bytes."""
    content = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    with replacing(path) as part:
        part.write_bytes(gzip.compress(content, mtime=0) if Path(path).suffix == ".gz" else content)


@dataclass
class ManifestReport:
    """Files that `build_manifest` listed and left out, by name.

    Args:
        path: the manifest.
        tracks: number of tracks in it.
        seconds: their total duration.
        kinds: suffix → number of tracks.
        truncated: tracks in it whose header promises more than can be decoded, listed with what can.
        left_out: what looks like audio and is none, or cannot be reached → why.
        unreadable: files left out because they cannot be decoded → why.
        silent: files left out because their peak is below the threshold.
        short: files left out because they are shorter than asked.
        same_stem: files left out because they would share the sidecar of a track in the manifest.
    """

    path: Path
    tracks: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    truncated: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    same_stem: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as text, one line per file that is not simply in the manifest."""
        reasons = {
            "listed with the part that can be decoded": self.truncated,
            "left out, unreadable": [f"{name} ({reason})" for name, reason in self.unreadable.items()],
            "left out": [f"{name} ({reason})" for name, reason in self.left_out.items()],
            "left out, silent": self.silent,
            "left out, too short": self.short,
            "left out, it has the sidecar of another track": self.same_stem,
        }
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        head = f"{self.path}: {self.tracks} tracks, {self.seconds / 3600:.2f} h ({kinds})"
        return [head, *(f"{reason}: {name}" for reason, names in reasons.items() for name in names)]


def build_manifest(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    workers: int = 4,
    min_duration: float = 1.0,
    silence_db: float = -60.0,
) -> ManifestReport:
    """Write `data.jsonl.gz` for the audio files under a folder, with what AudioCraft itself reads of each.

    Every file is decoded whole. Unreadable, silent and too short files are left out, and so is a second file with the
    same stem in the same folder: its labels would be another's. `weight` is left to `qamdt annotate --weights`.

    Args:
        folder: where the audio is, nested or not.
        out: folder to write the manifest into; None = `folder`.
        workers: number of decoding threads.
        min_duration: seconds below which a file is too short.
        silence_db: peak, in dB relative to full scale, below which a file is silent.
    Raises:
        FileNotFoundError: when the folder does not exist or holds no audio.
        OSError: when `out` cannot be written to; found out before anything is decoded.
        FileExistsError: when a `data.jsonl` in `out` would be read instead of the manifest.
        ValueError: when no file can be used; no manifest is written.
    """
    folder, out = Path(os.path.abspath(folder)), Path(os.path.abspath(folder if out is None else out))
    if (out / MANIFEST_FILES[0]).exists():
        raise FileExistsError(f"AudioCraft reads {out / MANIFEST_FILES[0]} before {MANIFEST_FILES[1]}: remove it")
    found = find_audio(folder)
    check_folder(out)
    report = ManifestReport(out / MANIFEST_FILES[1], left_out=found.left_out)
    kept: dict[Path, JsonObject] = {}
    for path, row in _read_rows(found.files, workers):
        if isinstance(row, str):
            report.unreadable[str(path)] = row
        elif row["duration"] < min_duration:
            report.short.append(str(path))
        elif row["amplitude"] < 10 ** (silence_db / 20):
            report.silent.append(str(path))
        elif sidecar_path(path) in kept:
            report.same_stem.append(str(path))
        elif sidecar_path(path).name == STATISTICS_FILE:
            report.left_out[str(path)] = f"its sidecar would be {STATISTICS_FILE}, the data set's statistics: rename it"
        else:
            kept[sidecar_path(path)] = row
            if row.pop("truncated"):
                report.truncated.append(str(path))
    if not kept:
        raise ValueError("\n".join(["no file can be used:", *report.lines()[1:]]))
    report.tracks, report.seconds = len(kept), sum(row["duration"] for row in kept.values())
    report.kinds.update(Path(row["path"]).suffix[1:].lower() for row in kept.values())
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(report.path, kept.values())
    return report


def _read_rows(files: list[Path], workers: int) -> Iterator[tuple[Path, JsonObject | str]]:
    """Yield each file with its row (and whether it is truncated), or with the reason why it cannot be read."""

    def read(path: Path) -> JsonObject | str:
        try:
            return _read_row(path)
        except UnreadableAudio as error:
            return error.reason

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        yield from zip(files, tqdm(pool.map(read, files), "reading", len(files), unit="file"), strict=True)


def _read_row(path: Path) -> JsonObject:
    samples, sample_rate = read_samples(path)
    amplitude, seconds = float(np.abs(samples).max()), samples.shape[-1] / sample_rate
    if not math.isfinite(amplitude):
        raise UnreadableAudio(path, "it holds samples that are not finite numbers")
    # The fields of AudioCraft's `AudioMeta`. A header's duration is a promise, or an estimate: what was decoded counts.
    row = {"path": str(path), "duration": seconds, "sample_rate": sample_rate, "amplitude": amplitude}
    missing = audio_info(path).duration - seconds > TRUNCATED_BY
    return {**row, "weight": None, "info_path": None, "truncated": missing}
