"""Clips to files: many prompts, each with its settings, in batches that can be resumed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import typing as tp
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..utils.audio import SUFFIXES
from ..utils.files import replacing, write_json
from ..utils.outputs import check_folder, check_ours
from ..utils.reading import parse_json, read_json, read_lines
from .params import GenerationParams, item_seeds
from .qamdt import QAMDT

from audiocraft.data.audio import audio_write  # isort: skip

FORMATS = ("wav", "flac", "mp3", "ogg")
SETTINGS = (
    "quality",
    "pmos",
    "duration",
    "steps",
    "sampler",
    "eta",
    "seed",
    "guidance_scale",
    "quality_scale",
    "guidance_rescale",
    "apg_eta",
    "apg_norm",
    "apg_momentum",
    "negative_prompt",
    "extend",
    "extend_stride",
)
"""What a line of a JSONL file can set besides its prompt: settings of `QAMDT.set_generation_params`."""

_NO_PROMPTS = (".csv", ".tsv", ".json", ".xlsx", ".xls", ".ods", ".yaml", ".yml")
_PER_CLIP = ("quality", "pmos", "seed")
_LOUDNESS_NEEDS = 0.5
"""Seconds that a loudness can be measured of (ITU-R BS.1770 takes blocks of 0.4 s)."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip.

    Args:
        path: audio file to write; the settings go beside it as JSON.
        prompt: description; "" = none.
        settings: of `SETTINGS`, only those that differ from the model's own.
    """

    path: Path
    prompt: str
    settings: dict[str, tp.Any]

    @property
    def sidecar(self) -> Path:
        return self.path.with_suffix(".json")


def read_prompts(path: str | Path) -> list[dict[str, tp.Any]]:
    """Rows of a file of prompts: a line each, or JSON objects with `prompt` and any of `SETTINGS` (`.jsonl`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the line that is no object, has no prompt or an unknown key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of prompts")
    suffix = path.suffix.lower()
    if suffix in _NO_PROMPTS:
        raise ValueError(f"{path}: {suffix} is not read: give a prompt a line (.txt), or JSON lines (.jsonl)")
    lines = read_lines(path)
    if suffix != ".jsonl":
        return [{"prompt": line.strip()} for _, line in lines]
    return [_row(line, where) for where, line in lines]


def _row(line: str, where: str) -> dict[str, tp.Any]:
    row = parse_json(line, where)
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ValueError(f'{where}: give an object with a "prompt"')
    if unknown := sorted(row.keys() - {"prompt", *SETTINGS}):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}: choose among prompt, {', '.join(SETTINGS)}")
    given = {key: value for key, value in row.items() if value is not None}  # null = not set, as pandas writes it
    for key, value in given.items():
        kind, wanted = _KINDS.get(key, (_is_number, "a number"))
        if not kind(value):
            raise ValueError(f"{where}: {key} must be {wanted}, got {value!r}")
    return {key: int(value) if key in _WHOLE else value for key, value in given.items()}


def _is_number(value: tp.Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: tp.Any) -> bool:
    return _is_number(value) and value == int(value)  # 3.0 too: pandas makes numbers floats where some are missing


def _is_text(value: tp.Any) -> bool:
    return isinstance(value, str)


def _is_quality(value: tp.Any) -> bool:
    points = value if isinstance(value, list) else None
    if points is None:
        return _is_number(value)
    return bool(points) and all(isinstance(point, list) and len(point) == 2 for point in points)


_WHOLE = ("seed", "steps")
_KINDS: dict[str, tuple[tp.Callable[[tp.Any], bool], str]] = {
    **dict.fromkeys(("prompt", "negative_prompt", "sampler", "extend"), (_is_text, "a text")),
    **dict.fromkeys(_WHOLE, (_is_whole, "a whole number")),
    **dict.fromkeys(("quality", "pmos"), (_is_quality, "a number or a list of [seconds, number]")),
}
"""Key of a line of prompts → what it must be, and that in words; all other keys are numbers."""


def make_jobs(
    rows: Sequence[dict[str, tp.Any]],
    out: str | Path,
    audio_format: str | None,
    settings: dict[str, tp.Any],
    copies: int = 1,
) -> list[Job]:
    """The clips of prompts.

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
            jobs.append(Job(path, row["prompt"], {**own, "seed": seed}))
    return jobs


def check_writable(jobs: Sequence[Job]) -> None:
    """Make the folders of the jobs and see that files can be written there, before any work is done.

    Raises:
        OSError: naming the folder.
    """
    for folder in sorted({job.path.parent for job in jobs}):
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        check_ours(job.sidecar, functools.partial(_is_record_of, job), f"the settings of {job.path.name}")
        others = (job.path.with_suffix(suffix) for suffix in SUFFIXES)
        if clash := next((other for other in others if other != job.path and other.exists()), None):
            raise FileExistsError(
                f"{clash} is there: {job.sidecar.name} would be taken for its metadata, choose another --out"
            )


def _is_record_of(job: Job, content: dict[str, tp.Any]) -> bool:
    return {"model", "prompt", "version"} <= content.keys() and content.get("file") == job.path.name


def run_jobs(
    model: QAMDT, name: str, jobs: Sequence[Job], *, batch_size: int = 4, overwrite: bool = False
) -> Iterator[Path]:
    """Make the clips that are not there yet; a clip is there when its file is and its settings are the same.

    Args:
        model: its settings hold where a job names none.
        name: of the model, for the record.
        batch_size: clips made at once.
        overwrite: replace files that were made with other settings.
    Returns:
        The files, as they come into being (those that are there already too).
    Raises:
        ValueError: impossible settings; a file that was made with other settings.
    """
    defaults = model.params
    origin = {"model": name, "weights": fingerprint(model), "version": __version__}
    work = [(job, {**origin, **_record(model, job, defaults), "file": job.path.name}) for job in jobs]
    made = [_is_made(job, record, overwrite) for job, record in work]
    yield from (job.path for job, is_made in zip(jobs, made, strict=True) if is_made)
    todo = [pair for pair, is_made in zip(work, made, strict=True) if not is_made]
    with tqdm(total=len(todo), unit="clip", disable=None) as bar:
        for batch in _batches(todo, batch_size):
            audio = _make([job for job, _ in batch], model, defaults, bar)
            for (job, record), clip in zip(batch, audio, strict=True):
                yield write(job, clip, model.sample_rate, record)
                bar.update()
    model.params = defaults


def _batches(todo: list[tuple[Job, dict]], size: int) -> Iterator[list[tuple[Job, dict]]]:
    for _, group in groupby(todo, key=lambda pair: _shared(pair[0])):
        same = list(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _shared(job: Job) -> str:
    settings = {key: value for key, value in job.settings.items() if key not in _PER_CLIP}
    return json.dumps(settings, sort_keys=True)


def _apply(model: QAMDT, job: Job, defaults: GenerationParams) -> None:
    asked = {key: job.settings.get(key) for key in ("quality", "pmos") if {"quality", "pmos"} & job.settings.keys()}
    model.params = defaults
    model.set_generation_params(**{**job.settings, **asked})


def _record(model: QAMDT, job: Job, defaults: GenerationParams) -> dict[str, tp.Any]:
    _apply(model, job, defaults)
    model.request(job.prompt, model.params.quality, model.params.pmos)  # refuses impossible quality before any work
    model.layout(round(model.params.duration * model.sample_rate))
    return json.loads(json.dumps({"prompt": job.prompt, **dataclasses.asdict(model.params)}))


def _make(batch: list[Job], model: QAMDT, defaults: GenerationParams, bar: tqdm) -> Tensor:
    attributes, seeds = [], []
    for job in batch:
        _apply(model, job, defaults)
        attributes.append(model.request(job.prompt, model.params.quality, model.params.pmos))
        seeds += item_seeds([job.prompt], model.params.seed)
    report = model.progress_callback or (lambda done, total: bar.set_postfix_str(f"step {done} of {total}"))
    return model.generate_from(attributes, seeds, report)


def _is_made(job: Job, record: dict[str, tp.Any], overwrite: bool) -> bool:
    if not job.path.exists():
        return False
    try:
        known = read_json(job.sidecar)
    except (OSError, ValueError):
        known = None
    if known == record:
        return True
    if not overwrite:
        raise ValueError(f"{job.path} was made with other settings: choose another --out, or give --overwrite")
    return False


def write(job: Job, audio: Tensor, sample_rate: int, record: dict[str, tp.Any]) -> Path:
    """Write a clip [channels, S] through AudioCraft's `audio_write`, at its loudness, and its settings beside it.

    The file is under its name when it and its settings are complete, not before.
    """
    job.path.parent.mkdir(parents=True, exist_ok=True)
    long = audio.shape[-1] >= _LOUDNESS_NEEDS * sample_rate
    options: dict[str, tp.Any] = {"strategy": "loudness", "loudness_compressor": True} if long else {"strategy": "peak"}
    with replacing(job.path) as part:
        audio_write(part, audio, sample_rate, job.path.suffix[1:].lower(), add_suffix=False, **options)
        write_json(job.sidecar, record)
    return job.path


def fingerprint(model: QAMDT) -> str:
    """A short name of the weights: other weights under the same name are other music."""
    digest = hashlib.sha256()
    for value in model.model.state_dict().values():
        digest.update(value.flatten()[:64].detach().cpu().to(torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]
