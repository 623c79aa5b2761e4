"""Refine the captions of a data set, or show what would become of them, or take it back.

A run killed at any moment resumes where it stopped: results are in the cache, and files are written whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ..data.manifest import find_manifest, read_manifest
from ..slurm.shards import Shard, take_shard
from ..utils.reading import JsonObject
from .cache import CACHE_FOLDER, StageCache
from .endpoint import BudgetSpent, EndpointError
from .records import undo_texts, write_texts
from .report import CaptionReport
from .settings import Settings
from .stages import STAGES, Refiner, Track
from .text import clean, has_instructions

T = TypeVar("T")


def refine(
    manifest: str | Path,
    settings: Settings,
    *,
    shard: Shard = (0, 1),
    stages: Sequence[str] = STAGES,
    write: bool = True,
    sample: int | None = None,
    visit: Callable[[Track], None] | None = None,
    like: Refiner | None = None,
) -> CaptionReport:
    """Refine the captions of a data set and write them into the sidecars.

    Args:
        manifest: the manifest, or its folder.
        settings: see `settings.load_settings`.
        shard: (i, n) = every n-th track from the i-th on.
        stages: which of `STAGES` to run.
        write: False = the sidecars stay as they are.
        sample: only so many tracks, spread over the shard; None = all.
        visit: called with each track that went through.
        like: see `Refiner`.
    Raises:
        ValueError, RuntimeError: a setting that is wrong, or a model that cannot be loaded.
    """
    report = CaptionReport(find_manifest(manifest), threshold=settings["match"]["threshold"])
    refiner = make_refiner(report.manifest, settings, stages, like)
    todo = spread(take_shard(read_manifest(report.manifest), shard), sample)
    with tqdm(total=len(todo), desc="captions", unit="track") as progress:
        for batch, opened in _batches(refiner, todo, report):
            try:
                refiner.run(opened)
            except EndpointError as error:
                report.stopped = str(error)
                for track in opened:
                    track.failure = track.failure or error
            for track in opened:
                _finish(track, report, write, visit)
            progress.update(len(batch))
            if report.stopped:
                break
    report.cost = refiner.cost
    return report


def make_refiner(
    manifest: str | Path,
    settings: Settings,
    stages: Sequence[str] = STAGES,
    like: Refiner | None = None,
) -> Refiner:
    """Return the stages for a data set, with its cache and the index of its captions."""
    manifest = find_manifest(manifest)
    refiner = Refiner(settings, StageCache(settings["cache"] or manifest.parent / CACHE_FOLDER), stages, like)
    if like is None:
        refiner.prepare(read_manifest(manifest))
    return refiner


def spread(rows: Sequence[T], count: int | None) -> list[T]:
    """Return so many of the rows, at equal distances; None = all."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[int((i + 0.5) * len(rows) / count)] for i in range(count)]


def _batches(
    refiner: Refiner,
    rows: Sequence[JsonObject],
    report: CaptionReport,
) -> Iterator[tuple[Sequence[JsonObject], list[Track]]]:
    """Return batches of rows with their tracks, read by threads while the batch before is worked on."""
    size, workers = refiner.settings["batch_size"], max(refiner.settings["workers"], 1)
    with ThreadPoolExecutor(workers) as pool:
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        ahead = [pool.submit(refiner.open, row["path"]) for row in parts[0]] if parts else []
        for number, part in enumerate(parts):
            now, coming = ahead, parts[number + 1] if number + 1 < len(parts) else []
            ahead = [pool.submit(refiner.open, row["path"]) for row in coming]
            tracks = []
            for row, opened in zip(part, now, strict=True):
                try:
                    tracks.append(opened.result())
                except Exception as error:  # decoders raise anything on a broken file
                    report.unreadable[row["path"]] = f"{type(error).__name__}: {error}"
            yield part, tracks


def _finish(track: Track, report: CaptionReport, write: bool, visit: Callable[[Track], None] | None) -> None:
    if track.failure is not None:
        report.failed[track.path] = str(track.failure)
        if isinstance(track.failure, BudgetSpent):
            report.stopped = str(track.failure)
        return
    candidates, description = track.result()
    try:
        if write and write_texts(track.path, track.texts, candidates, description):
            report.changed += 1
    except (OSError, ValueError) as error:  # e.g. another key holds what UTF-8 cannot
        report.unreadable[track.path] = f"{type(error).__name__}: {error}"
        return
    report.tracks += 1
    if track.silent:
        report.silent.append(track.path)
    if has_instructions(track.texts.original or ""):
        report.suspicious.append(track.path)
    report.count(track.found, candidates)
    if visit is not None:
        visit(track)


def undo(manifest: str | Path, shard: Shard = (0, 1)) -> CaptionReport:
    """Give all tracks their original descriptions back."""
    report = CaptionReport(find_manifest(manifest))
    for row in tqdm(take_shard(read_manifest(report.manifest), shard), desc="undo", unit="track"):
        try:
            report.changed += undo_texts(row["path"])
            report.tracks += 1
        except (OSError, ValueError) as error:
            report.unreadable[row["path"]] = str(error)
    return report


def diff_lines(track: Track) -> list[str]:
    """Return the lines that show how a track's description would change."""
    candidates, description = track.result()
    before = clean(track.texts.original or "")
    after = clean(description or "")
    scores = {candidate.text: candidate.score for candidate in candidates if candidate.score is not None}
    refined = next((candidate for candidate in candidates if candidate.refined), None)
    head = f"{track.path}: {track.found.action}" + (f", {refined.stage}" if refined else "")
    if before == after:
        return [head, f"  {_shown(before, scores)}"]
    return [head, f"- {_shown(before, scores)}", f"+ {_shown(after, scores)}"]


def _shown(text: str, scores: dict[str, float]) -> str:
    score = f" ({scores[text]:.2f})" if text in scores else ""
    return f"{text[:300] or 'no description'}{score}"
