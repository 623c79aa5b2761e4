"""Annotate a data set: predict the p-MOS of its tracks, whole and along time, and write it into their sidecars.

Every track is decoded once and written as soon as it is scored, so that a run killed at any moment resumes where it
stopped. Then come the data set's statistics, their histogram, and sampling weights if wanted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor
from tqdm import tqdm

from ..compat import prepare
from ..data.manifest import (
    QUALITY_KEY,
    Quality,
    find_manifest,
    read_manifest,
    read_quality,
    sidecar_path,
    write_manifest,
    write_sidecar_key,
)
from ..data.weights import KINDS, sampling_weights
from ..slurm.shards import Shard, take_shard
from ..utils.audio import read_audio
from ..utils.files import write_json
from ..utils.outputs import check_folder
from ..utils.reading import JsonObject, read_json
from .histogram import draw_histogram
from .levels import STATISTICS_FILE, QualityStatistics
from .predictors.base import Predictor, load_predictor
from .windows import cut_windows

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

HISTOGRAM_FILE = "quality.png"


@dataclass
class AnnotateReport:
    """Counts of an `annotate` run.

    Args:
        manifest: the data set.
        predictor, version: whose scores they are.
        scored: number of tracks scored now.
        skipped: number of tracks that had this predictor's score already.
        unreadable: tracks (or their sidecars) that could not be read → why; they have no score.
        audio_seconds: duration of what was scored now.
        seconds: how long it took.
        statistics: of all scores in the data set; None = there is none.
    """

    manifest: Path
    predictor: str
    version: str
    scored: int = 0
    skipped: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    audio_seconds: float = 0.0
    seconds: float = 0.0
    statistics: QualityStatistics | None = None

    def lines(self) -> list[str]:
        """Return the report as text, one line per file that could not be read."""
        seconds = max(self.seconds, 1e-9)
        lines = [
            f"{self.manifest}: {self.scored} tracks scored, {self.skipped} before, {len(self.unreadable)} unreadable",
            f"{seconds:.1f} s, {self.audio_seconds / seconds:.0f} × real time, {self.scored / seconds:.1f} files/s",
        ]
        if self.statistics is not None:
            known = self.statistics
            lines.append(
                f"p-MOS by {known.predictor} {known.version}: mean {known.mean:.2f}, standard deviation "
                f"{known.std:.2f}, {known.count} tracks, {known.unscored} without a score"
            )
        return [*lines, *(f"unreadable: {name} ({reason})" for name, reason in self.unreadable.items())]

    def merge(self, other: AnnotateReport) -> None:
        """Add what another process did at the same time on the same data set."""
        self.scored += other.scored
        self.skipped += other.skipped
        self.unreadable |= other.unreadable
        self.audio_seconds += other.audio_seconds
        self.seconds = max(self.seconds, other.seconds)


@dataclass
class Track:
    """A track that is being scored: its windows, and the scores so far.

    Args:
        path: the audio file.
        windows: mono windows [S], in time order.
        sample_rate: Hz.
        seconds: duration of the track.
    """

    path: str
    windows: list[Tensor]
    sample_rate: int
    seconds: float
    scores: list[float] = field(default_factory=list)


class ScoreOptions(TypedDict, total=False):
    """Options of `score`, which `annotate` takes as well."""

    device: str
    batch_size: int
    workers: int
    shard: Shard
    overwrite: bool


def annotate(
    manifest: str | Path,
    predictor: str | Predictor,
    *,
    weights: bool | str = False,
    **options: Unpack[ScoreOptions],
) -> AnnotateReport:
    """Score the tracks of a data set and summarise it.

    Args:
        manifest: the manifest, or its folder.
        predictor: a predictor, or the name of one (see `predictors.base.load_predictor`).
        weights: see `summarise`.
        options: of `score`. Of several shards, each summarises what is scored when it ends: the last one, all of it.
    Raises:
        ValueError: when tracks have another predictor's score and `overwrite` is not given; nothing is scored then.
    """
    report = score(manifest, predictor, **options)
    report.statistics = summarise(report, weights=weights)
    return report


def score(
    manifest: str | Path,
    predictor: str | Predictor,
    *,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 2,
    shard: Shard = (0, 1),
    overwrite: bool = False,
) -> AnnotateReport:
    """Score the tracks of a data set, or of a shard of it, into their sidecars.

    Args:
        manifest: the manifest, or its folder.
        predictor: a predictor, or the name of one (see `predictors.base.load_predictor`).
        device: where a predictor given by name computes; "auto" = a GPU when there is one.
        batch_size: number of windows scored at once, of one track or several.
        workers: number of decoding threads; twice as many tracks wait in memory.
        shard: (i, n) = every n-th track from the i-th on.
        overwrite: score tracks again that have another predictor's score.
    Raises:
        ValueError: as `annotate`.
    """
    if isinstance(predictor, str):
        predictor = load_predictor(predictor, device)
    prepare()
    import audiocraft.data.audio  # noqa: F401  (it takes seconds, which are not the annotator's)

    start, report = time.monotonic(), AnnotateReport(find_manifest(manifest), predictor.name, predictor.version)
    todo = _unscored(take_shard(read_manifest(report.manifest), shard), predictor, overwrite, report)
    _check_outputs(report.manifest, todo)
    total = round(sum(row["duration"] for row in todo))
    with tqdm(total=total, desc="annotate", unit="s", unit_scale=True) as progress:
        for track in score_tracks(_decode(todo, predictor, workers, report), predictor, batch_size):
            _write(track, predictor, report)
            progress.update(round(track.seconds))
    report.seconds = time.monotonic() - start
    return report


def _check_outputs(manifest: Path, rows: Sequence[JsonObject]) -> None:
    """Find out now, not after an hour, what could not be written then."""
    for folder in sorted({manifest.parent, *(Path(row["path"]).parent for row in rows)}):
        check_folder(folder, "scores are written beside the audio, make the folder writable or copy the data set")
    statistics, histogram = manifest.parent / STATISTICS_FILE, manifest.parent / HISTOGRAM_FILE
    remedy = "move it elsewhere: annotate keeps the data set's statistics under this name"
    if clash := [row["path"] for row in rows if sidecar_path(row["path"]) == statistics]:
        raise ValueError(f"{clash[0]}: its sidecar would be {statistics.name}, the data set's statistics: rename it")
    if statistics.exists() and not _is_statistics(statistics):
        raise FileExistsError(f"{statistics} holds something else; {remedy}")
    if histogram.exists() and not statistics.exists():
        raise FileExistsError(f"{histogram} is there without {statistics.name}; {remedy}")


def _is_statistics(path: Path) -> bool:
    try:
        content = read_json(path)
    except ValueError:  # cut off, or damaged: annotating again is what mends it
        return True
    return isinstance(content, dict) and {"predictor", "quantiles"} & content.keys() != set()


def _unscored(
    rows: Iterable[JsonObject],
    predictor: Predictor,
    overwrite: bool,
    report: AnnotateReport,
) -> list[JsonObject]:
    todo = []
    for row in rows:
        try:
            quality = read_quality(row["path"])
        except ValueError as error:  # left as it is: it was written by hand
            report.unreadable[row["path"]] = str(error)
            continue
        if quality is not None and _is_by(predictor.name, predictor.version, quality):
            report.skipped += 1
        elif quality is None or overwrite:
            todo.append(row)
        else:
            raise ValueError(
                f"{row['path']} was scored by {quality.predictor} {quality.version}, and a data set has "
                f"one predictor: use --overwrite for {predictor.name} {predictor.version} throughout"
            )
    return todo


def _decode(
    rows: Sequence[JsonObject],
    predictor: Predictor,
    workers: int,
    report: AnnotateReport,
) -> Iterator[Track]:
    """Yield tracks in order, decoded ahead by threads (decoders and torch release the interpreter's lock)."""
    workers = max(workers, 1)
    waiting: deque[tuple[str, Future[Track]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for row in [*rows, *[None] * (2 * workers)]:  # at the end there is nothing to add, only to collect
            if row is not None:
                waiting.append((row["path"], pool.submit(_read_track, row["path"], predictor)))
            if waiting and (row is None or len(waiting) > 2 * workers):
                yield from _collect(*waiting.popleft(), report)


def _collect(path: str, track: Future[Track], report: AnnotateReport) -> Iterator[Track]:
    try:
        read = track.result()
    except Exception as error:  # decoders raise anything on a broken file
        report.unreadable[path] = str(error) or type(error).__name__
    else:
        yield read


def _read_track(path: str, predictor: Predictor) -> Track:
    audio, sample_rate = read_audio(path)
    if not audio.isfinite().all():
        raise ValueError("it holds samples that are not finite numbers")
    windows, wanted = windows_for(predictor, audio, sample_rate)
    return Track(path, windows, wanted, audio.shape[-1] / sample_rate)


def windows_for(predictor: Predictor, audio: Tensor, sample_rate: int) -> tuple[list[Tensor], int]:
    """Return windows of audio [C, S] as a predictor takes them, mono and at its sample rate; and that rate in Hz."""
    prepare()
    from audiocraft.data.audio_utils import convert_audio

    wanted = predictor.sample_rate or sample_rate
    mono = convert_audio(audio, sample_rate, wanted, 1)[0]
    return cut_windows(mono, wanted, predictor.window, predictor.hop), wanted


def score_clip(predictor: Predictor, audio: Tensor, sample_rate: int) -> Tensor:
    """Return p-MOS [K] of the windows of audio [C, S], on the CPU."""
    windows, wanted = windows_for(predictor, audio, sample_rate)
    return predictor.score(torch.stack(windows), wanted).cpu()


def score_tracks(tracks: Iterable[Track], predictor: Predictor, batch_size: int) -> Iterator[Track]:
    """Score windows in batches over tracks; each track comes out as soon as its last window is scored.

    Windows of one batch have one sample rate.
    """
    pending: dict[int, list[tuple[Track, Tensor]]] = {}
    for track in tracks:
        batch = pending.setdefault(track.sample_rate, [])
        for window in track.windows:
            batch.append((track, window))
            if len(batch) == batch_size:
                yield from _score(batch, predictor)
                batch.clear()
    for batch in pending.values():
        yield from _score(batch, predictor)


def _score(batch: list[tuple[Track, Tensor]], predictor: Predictor) -> Iterator[Track]:
    if not batch:
        return
    scores = predictor.score(torch.stack([window for _, window in batch]), batch[0][0].sample_rate)
    for (track, _), score in zip(batch, scores.tolist(), strict=True):
        track.scores.append(score)
        if len(track.scores) == len(track.windows):
            yield track


def _write(track: Track, predictor: Predictor, report: AnnotateReport) -> None:
    frames = [round(score, 4) for score in track.scores]
    pmos = round(sum(frames) / len(frames), 4)
    fields = Quality(pmos, predictor.hop, frames, predictor.name, predictor.version).to_dict()
    # What no reader would take is not written: a predictor that gives NaN or another scale is found out here.
    Quality.from_dict(fields, f"{predictor.name} on {track.path}")
    try:
        write_sidecar_key(track.path, QUALITY_KEY, fields)
    except (OSError, ValueError) as error:
        report.unreadable[track.path] = str(error)
        return
    report.scored += 1
    report.audio_seconds += track.seconds


def summarise(report: AnnotateReport, *, weights: bool | str = False) -> QualityStatistics | None:
    """Write `quality.json` and a histogram beside the manifest, from the scores in the sidecars.

    Args:
        report: names the manifest, and whose scores count: a track with another's is counted as one without a score.
        weights: also write each track's sampling weight into the manifest, of a kind in `weights.KINDS`; True = the
            first.
    Returns:
        The statistics; None = no track has a score, and nothing was written.
    """
    manifest, rows = report.manifest, read_manifest(report.manifest)
    qualities = [_quality_by(report, row["path"]) for row in rows]
    known = [quality for quality in qualities if quality is not None]
    if not known:
        return None
    scores = [quality.pmos for quality in known]
    statistics = QualityStatistics.from_scores(scores, report.predictor, report.version, len(rows) - len(known))
    _write_statistics(manifest.parent / STATISTICS_FILE, statistics.to_dict())
    draw_histogram(scores, statistics, manifest.parent / HISTOGRAM_FILE)
    if weights:
        kind = KINDS[0] if weights is True else str(weights)
        pmos = [statistics.mean if quality is None else quality.pmos for quality in qualities]
        drawn = sampling_weights(pmos, kind)
        write_manifest(manifest, (row | {"weight": weight} for row, weight in zip(rows, drawn, strict=True)))
    return statistics


def _write_statistics(path: Path, content: JsonObject) -> None:
    """Write quality.json; what was measured for the same scores (`qamdt noise-range`) stays in it."""
    before = read_json(path) if path.exists() and _is_readable(path) else {}
    same = all(before.get(key) == value for key, value in content.items())
    write_json(path, {**before, **content} if same else content)


def _is_readable(path: Path) -> bool:
    try:
        return isinstance(read_json(path), dict)
    except ValueError:
        return False


def _quality_by(report: AnnotateReport, path: str) -> Quality | None:
    try:
        quality = read_quality(path)
    except ValueError as error:
        logger.warning("counted as without a score: %s", error)
        return None
    return quality if quality and _is_by(report.predictor, report.version, quality) else None


def _is_by(predictor: str, version: str, quality: Quality) -> bool:
    return (quality.predictor, quality.version) == (predictor, version)
