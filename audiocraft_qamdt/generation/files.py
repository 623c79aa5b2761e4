"""Clips to files: many prompts, each with its settings, in batches that can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import time
import typing as tp
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

from torch import Tensor
from tqdm import tqdm

from audiocraft_qamdt.utils import prepared

from ..checkpoints.fingerprint import fingerprint as fingerprint_of
from ..utils.audio import SUFFIXES
from ..utils.files import locked, part_of, remove_dead_parts, sync, write_json
from ..utils.loudness import SHORTEST, normalize_loudness
from ..utils.memory import free_memory, peak_memory_of
from ..utils.outputs import check_folder, check_ours
from ..utils.reading import JsonObject, read_json
from ..utils.version import __version__
from .params import KNOBS, GenerationParams, renamed
from .pipeline import Progress, item_seeds
from .prompts import read_prompts as read_prompts  # it was defined here: stays importable from here
from .qamdt import QAMDT
from .reranking import Candidates

from audiocraft.data.audio import audio_write

logger = logging.getLogger(__name__)

FORMATS = ("wav", "flac", "mp3", "ogg")
LARGEST_BATCH = 32
"""Clips made at once at most: more are not faster, and what a killed run loses grows."""

UNMEASURED_BATCH = 4
USED_SHARE = 0.5
"""Share of the free memory that a batch may fill: kernels have scratch memory of their own, and others need some."""

DIGEST = "sha256"
"""Key of a clip's settings: hash of the audio that they are about."""
_FOUND = ("chosen", "scores")
"""Keys of a clip's settings that say what came out (see `Candidates.record`), not what was asked for."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip.

    Args:
        path: audio file to write; the settings go beside it as JSON.
        prompt: description; "" = none.
        settings: some of `params.KNOBS`, only those that differ from the model's own.
        where: file and line that asks for it, for messages; "" = the command line.
    """

    path: Path
    prompt: str
    settings: JsonObject
    where: str = ""

    @property
    def sidecar(self) -> Path:
        return self.path.with_suffix(".json")


def make_jobs(
    rows: Sequence[JsonObject],
    out: str | Path,
    audio_format: str | None,
    settings: JsonObject,
    copies: int = 1,
) -> list[Job]:
    """Return the clips to generate for prompts.

    Args:
        rows: each a prompt with its own settings.
        out: a file for one clip, or a folder.
        audio_format: of `FORMATS`; None = that of `out`'s name, wav in a folder.
        settings: of all prompts; a row's own come first.
        copies: clips of each prompt, with the seeds that follow its own.
    Raises:
        ValueError: an unknown format, or several clips for one file.
    """
    out, named = Path(out), Path(out).suffix.lower().removeprefix(".")
    audio_format = audio_format or (named if named in FORMATS else "wav")
    if audio_format not in FORMATS:
        raise ValueError(f"format {audio_format!r} is unknown: choose one of {', '.join(FORMATS)}")
    if named and named not in FORMATS and not out.is_dir():
        raise ValueError(f"{out}: .{named} is no audio format, choose one of {', '.join(FORMATS)}, or give a folder")
    if named in FORMATS and named != audio_format and not out.is_dir():
        raise ValueError(f"{out}: its name says {named}, --format {audio_format}: give one of them, or a folder")
    if named == audio_format and len(rows) * copies > 1:
        raise ValueError(f"{out}: {len(rows) * copies} clips do not fit into one file, give a folder")
    jobs, seen = [], Counter[tuple[str, int]]()
    for index, row in enumerate(rows):
        own = {**settings, **{key: value for key, value in row.items() if key != "prompt"}}
        for copy in range(copies):
            first = own.get("seed", 0)
            seed = first + seen[row["prompt"], first]
            seen[row["prompt"], first] += 1
            name = f"{index:04d}_{copy}" if copies > 1 else f"{index:04d}"
            path = out if named == audio_format else out / f"{name}.{audio_format}"
            jobs.append(Job(path, row["prompt"], {**own, "seed": seed}, getattr(row, "where", "")))
    return jobs


def check_writable(jobs: Sequence[Job]) -> None:
    """Make the folders of the jobs and see that files can be written there, before any work is done.

    Raises:
        OSError: naming the folder.
    """
    for folder in sorted({job.path.parent for job in jobs}):
        check_folder(folder)
        remove_dead_parts(folder)
        folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        others = (job.path.with_suffix(suffix) for suffix in SUFFIXES)
        if clash := next((other for other in others if other != job.path and other.exists()), None):
            raise FileExistsError(
                f"{clash} is there: {job.sidecar.name} would be taken for its metadata, choose another --out"
            )
        check_ours(job.sidecar, functools.partial(_is_record_of, job), f"the settings of {job.path.name}")


def _is_record_of(job: Job, content: JsonObject) -> bool:
    return {"model", "prompt", "version"} <= content.keys() and content.get("file") == job.path.name


@dataclasses.dataclass(frozen=True)
class _Clip:
    """A job with all its settings, and what is written beside the file."""

    job: Job
    params: GenerationParams
    record: JsonObject


def run_jobs(
    model: QAMDT,
    name: str,
    jobs: Sequence[Job],
    *,
    batch_size: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[Path]:
    """Make the clips that are not there yet; a clip is there when its file is and its settings are the same.

    Args:
        model: its settings hold where a job names none; they are not changed.
        name: of the model, for the record.
        batch_size: clips made at once; None = as many as fit into the memory that is free, at most `LARGEST_BATCH`.
        overwrite: replace files that were made with other settings.
        progress: called after every step of a batch.
    Returns:
        The files, as they come into being (those that are there already too).
    Raises:
        ValueError: impossible settings, before any clip is made; a file that was made with other settings.
    """
    origin = {"model": name, "weights": fingerprint(model), "version": __version__}
    clips = [_clip(model, job, origin) for job in jobs]
    for params, same in _groups(clips):
        with _placed(same[0].job):
            model.check(params)
    made = [_is_made(clip.job, clip.record, overwrite) for clip in clips]
    yield from (clip.job.path for clip, is_made in zip(clips, made, strict=True) if is_made)
    todo = [clip for clip, is_made in zip(clips, made, strict=True) if not is_made]
    begin, seconds = time.monotonic(), 0.0
    with tqdm(total=len(todo), unit="clip", disable=None) as bar:
        report = progress or (lambda done, total: bar.set_postfix_str(f"step {done} of {total}"))
        for batch in _batches(todo, model, batch_size):
            candidates = _make(batch, model, report)
            for index, (clip, audio) in enumerate(zip(batch, candidates.best, strict=True)):
                yield write(clip.job, audio, model.sample_rate, clip.record, overwrite, candidates.record(index))
                bar.update()
                seconds += clip.params.duration
                bar.set_postfix_str(f"{seconds / (time.monotonic() - begin):.2f} s of audio per second")


def _clip(model: QAMDT, job: Job, origin: JsonObject) -> _Clip:
    with _placed(job):
        params = model.params.changed(**job.settings)
        model.request(job.prompt, params.quality, params.pmos, params.duration)  # refuse impossible quality
    record = {**origin, "prompt": job.prompt, **params.to_dict(), "file": job.path.name}
    return _Clip(job, params, json.loads(json.dumps(record)))


@contextlib.contextmanager
def _placed(job: Job) -> Iterator[None]:
    """Say which line of a file of prompts a mistake is in."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not job.where:
            raise
        raise ValueError(f"{job.where}: {error}") from error


def _groups(clips: list[_Clip]) -> list[tuple[GenerationParams, list[_Clip]]]:
    """Return settings and the clips that share them, wherever they stand."""
    groups: list[tuple[GenerationParams, list[_Clip]]] = []
    for clip in clips:
        shared = _shared(clip.params)
        same = next((members for params, members in groups if params == shared), None)
        if same is None:
            groups.append((shared, same := []))
        same.append(clip)
    return groups


def _batches(clips: list[_Clip], model: QAMDT, size: int | None) -> Iterator[list[_Clip]]:
    """Divide clips that share their settings into batches of a size; None = what fits."""
    for _, same in _groups(clips):
        most = size or _fitting(same, model)
        yield from (same[start : start + most] for start in range(0, len(same), most))


def _fitting(clips: list[_Clip], model: QAMDT) -> int:
    """Return how many of these clips to make at once: what one of them holds in memory at most is measured."""
    if len(clips) == 1:
        return 1
    if model.predict is not model.model:  # compiled: its buffers are not seen
        return UNMEASURED_BATCH
    params = dataclasses.replace(clips[0].params, steps=min(2, clips[0].params.steps), candidates=1)
    trial = dataclasses.replace(clips[0], params=params)
    bytes_per_clip = peak_memory_of(lambda: _make([trial], model, None), model.device)
    usable = USED_SHARE * free_memory(model.device)
    size = max(1, min(LARGEST_BATCH, len(clips), int(usable / max(1, bytes_per_clip))))
    logger.info("%d clips at once: %.0f MiB each, %.0f MiB to use", size, bytes_per_clip / 2**20, usable / 2**20)
    return size


def _shared(params: GenerationParams) -> GenerationParams:
    """Return the settings that the clips of a batch share."""
    return dataclasses.replace(params, quality=None, pmos=None, seed=0)


def _make(batch: list[_Clip], model: QAMDT, progress: Progress | None) -> Candidates:
    attributes, seeds = [], []
    for clip in batch:
        params = clip.params
        attributes.append(model.request(clip.job.prompt, params.quality, params.pmos, params.duration))
        seeds += item_seeds([clip.job.prompt], params.seed)
    return model.candidates_from(attributes, seeds, _shared(batch[0].params), progress)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_made(job: Job, record: JsonObject, overwrite: bool) -> bool:
    """Return whether the clip is there with these settings, which are about this very audio (older ones do not say)."""
    _finish(job)
    if not job.path.exists():
        return False
    known = _known_record(job.sidecar) or {}
    digest = known.pop(DIGEST, None)
    known = {**_UNSAID, **{key: value for key, value in known.items() if key not in _FOUND}}
    if known == record and digest in (None, _digest(job.path)):
        return True
    if not overwrite:
        raise ValueError(f"{job.path} was made with other settings: choose another --out, or give --overwrite")
    return False


_UNSAID = {"rerank": GenerationParams.rerank}
"""Settings that clips of before do not state, and what they were made with."""


def _known_record(sidecar: Path) -> JsonObject | None:
    """Read the JSON beside a clip; None where that is not possible."""
    try:
        record = read_json(sidecar)
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    guidance = record.pop("guidance", None)  # a section of its own, with shorter names, in files written until 0.1.0
    if not isinstance(guidance, dict):
        return renamed(record)
    short = {name: value for name, value in guidance.items() if name in KNOBS}
    long = {f"guidance_{name}": value for name, value in guidance.items() if f"guidance_{name}" in KNOBS}
    return renamed({**record, **short, **long})


def write(
    job: Job,
    audio: Tensor,
    sample_rate: int,
    record: JsonObject,
    overwrite: bool = False,
    found: tp.Mapping[str, object] = MappingProxyType({}),
) -> Path:
    """Write a clip [channels, S] through AudioCraft's `audio_write`, at its loudness, and its settings beside it.

    The settings hold what was `found` of the candidates, and the audio's hash. What they are to be is written down
    first, so that a process killed between the two renames leaves what `_finish` completes.

    Raises:
        ValueError: another process has meanwhile made a clip of that name with other settings, or the audio has
            samples that are no numbers.
    """
    if not audio.isfinite().all():
        raise ValueError(
            f"{job.path}: the model made samples that are no numbers, nothing is written; check its weights"
        )
    job.path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(job.path, "part")
    long = audio.shape[-1] >= SHORTEST * sample_rate
    options: JsonObject = {"normalize": False} if long else {"strategy": "peak"}
    try:
        audio = normalize_loudness(audio, sample_rate) if long else audio
        audio_write(part, audio, sample_rate, job.path.suffix[1:].lower(), add_suffix=False, **options)
        sync(part)
        with locked(job.path.parent):
            if not _is_made(job, record, overwrite):
                write_json(_planned(job), {**record, **found, DIGEST: _digest(part)})
                os.replace(part, job.path)
                os.replace(_planned(job), job.sidecar)
    finally:
        part.unlink(missing_ok=True)
    return job.path


def _planned(job: Job) -> Path:
    """Return the file of settings of a clip whose audio is about to be put in place."""
    return job.path.with_name(f".{job.path.name}.planned.json")


def _finish(job: Job) -> None:
    """Complete a clip that a killed process has left: put its settings in place where its audio is complete."""
    planned = _planned(job)
    try:
        known = json.loads(planned.read_text(encoding="utf-8"))
        if job.path.exists() and known.get(DIGEST) == _digest(job.path):
            os.replace(planned, job.sidecar)
        else:
            planned.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):
        planned.unlink(missing_ok=True)


def fingerprint(model: QAMDT) -> str:
    """Return a short name of the weights: other weights under the same name are other music."""
    return fingerprint_of(model.model.state_dict().values())
