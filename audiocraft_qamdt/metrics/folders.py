"""The same metrics on folders of audio from any system, and reference statistics kept by what they were made from."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from ..compat import prepare
from ..utils.files import replacing
from .base import Batch, Clip, Metric, Network, Number
from .frechet import FrechetMetric, Moments
from .table import Evaluation

logger = logging.getLogger(__name__)

CAPTION_COLUMNS = ("file", "description")


def cache_folder() -> Path:
    """Return the default folder of reference statistics: `audiocraft_qamdt` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "audiocraft_qamdt"


def find_audio(folder: str | Path) -> dict[str, Path]:
    """Return audio files of a folder, nested or not: path without suffix, relative to the folder → file, sorted.

    Raises:
        FileNotFoundError: no folder, or no audio in it.
        ValueError: two files that differ in their suffix only.
    """
    prepare()
    from audiocraft.data.audio_dataset import DEFAULT_EXTS

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in DEFAULT_EXTS):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise ValueError(f"{path} and {found[stem]} have one name: move one of them elsewhere")
        found[stem] = path
    if not found:
        raise FileNotFoundError(f"no audio in {folder}: looked for {' '.join(DEFAULT_EXTS)}, nested folders included")
    return found


def read_clip(path: Path, name: str = "", text: str | None = None) -> Clip:
    """Return a file as a clip, mixed down to mono.

    Raises:
        ValueError: naming the file, when it cannot be decoded, is empty or holds NaN.
    """
    from audiocraft.data.audio import audio_read

    try:
        audio, sample_rate = audio_read(path)
    except Exception as error:  # decoders raise anything on a broken file
        raise ValueError(f"{path} cannot be read as audio ({type(error).__name__}: {error})") from error
    clip = Clip(str(path), audio.mean(0), sample_rate, text)
    clip.name = name or clip.name  # errors name the file, scores its place in the folder
    return clip


def read_captions(path: str | Path | None, files: Mapping[str, Path]) -> dict[str, str]:
    """Return descriptions of clips: name → text.

    Args:
        path: a JSON object {file: description}, JSON lines or CSV with the columns file and description; a file is
            named with or without its suffix. None = `description` of the sidecar beside each file, or of the
            `conditioning` that AudioCraft writes beside its samples.
        files: what `find_audio` found.
    Raises:
        ValueError: naming the file, when it has another form.
    """
    if path is None:
        sidecars = {name: file.with_suffix(".json") for name, file in files.items()}
        texts = {name: _description(file) for name, file in sidecars.items() if file.exists()}
        return {name: text for name, text in texts.items() if text}
    try:
        rows = list(_caption_rows(Path(path)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not captions ({error}); expected a JSON object {{file: description}}, or JSON lines or CSV with "
            f"the columns {' and '.join(CAPTION_COLUMNS)}"
        ) from error
    suffixes = {file.suffix for file in files.values()}
    return {
        name.removesuffix(Path(name).suffix) if Path(name).suffix in suffixes else name: text for name, text in rows
    }


def _description(sidecar: Path) -> str | None:
    fields = json.loads(sidecar.read_text())
    return fields.get("description") or (fields.get("conditioning") or {}).get("description")


def _caption_rows(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".json":
        yield from json.loads(path.read_text()).items()
        return
    with open(path, newline="") as file:
        rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        yield from ((row["file"], row["description"]) for row in rows)


def fingerprint(module: nn.Module) -> str:
    """Hash of a network's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().numpy().tobytes())
    return digest.hexdigest()


def reference_moments(folder: str | Path, network: Network, cache: Path | None) -> Moments:
    """Return a folder's moments of embeddings, computed once for the same audio (whatever its names) and weights.

    Args:
        folder: of audio.
        network: whose embeddings.
        cache: folder where moments are kept; None = nowhere.
    """
    from safetensors.torch import load_file, save_file

    files = list(find_audio(folder).values())
    contents = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    key = hashlib.sha256("\n".join([network.name, fingerprint(network.module), *contents]).encode()).hexdigest()
    kept = cache / f"{key[:32]}.safetensors" if cache is not None else None
    if kept is not None and kept.exists():
        logger.info("%s with %s: statistics from %s", folder, network.name, kept)
        return Moments(**load_file(kept))
    moments = Moments.empty(network.dim)
    for path in tqdm(files, f"reference, {network.name}", unit="clip"):
        moments.add(read_clip(path).outputs(network).embeddings)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as part:
            save_file({name: value.contiguous() for name, value in vars(moments).items()}, part)
    return moments


def compare_with_folder(metrics: list[Metric], folder: str | Path, cache: Path | None) -> None:
    """Let Fréchet distances compare with the audio of a folder in place of what batches bring."""
    for metric in metrics:
        if isinstance(metric, FrechetMetric):
            metric.compare_with(Path(folder).resolve().name, reference_moments(folder, metric.network, cache))


@dataclass
class FolderReport:
    """Numbers and scores of an `evaluate_folders` run.

    Args:
        generated, reference: the folders.
        clips: number of generated clips.
        audio_seconds: their duration.
        seconds: how long it took.
        numbers: see `Number`.
        scores: clip → measurement → value.
    """

    generated: str
    reference: str | None
    clips: int
    audio_seconds: float
    seconds: float
    numbers: list[Number]
    scores: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; each number has its key beside its fields."""
        numbers = [{"key": number.key, **asdict(number)} for number in self.numbers]
        return {**vars(self), "numbers": numbers}

    def markdown(self) -> list[str]:
        """Return the head, rule and row of a table."""
        names = ["_".join(filter(None, (number.metric, number.instrument))) for number in self.numbers]
        values = [f"{number.value:.4g}" for number in self.numbers]
        cells = [["generated", "reference", "N", *names], ["---"] * (len(names) + 3)]
        cells.append([self.generated, self.reference or "", str(self.clips), *values])
        return [f"| {' | '.join(row)} |" for row in cells]


def evaluate_folders(
    generated: str | Path,
    reference: str | Path | None,
    build: Callable[[], list[Metric]],
    *,
    captions: str | Path | None = None,
    cache: Path | None = None,
    best_of: int | None = None,
    seed: int | None = None,
) -> FolderReport:
    """Measure a folder of generated audio.

    Args:
        generated: its folder.
        reference: folder to compare with; clips of the same name are pairs.
        build: makes the metrics; called after the folders were looked at, because loading networks takes long.
        captions: see `read_captions`.
        cache: where reference statistics are kept; None = nowhere.
        best_of, seed: how the audio was generated, where that is known; they go with the numbers.
    Raises:
        ValueError: audio that cannot be judged, or a reference that is missing, named.
    """
    begin = time.monotonic()
    files, others = find_audio(generated), find_audio(reference) if reference is not None else {}
    texts = read_captions(captions, files)
    metrics = build()
    if reference is not None:
        compare_with_folder(metrics, reference, cache)
    _check(metrics, files, others, texts)
    paired = any("pairs" in metric.needs for metric in metrics)
    evaluation, audio_seconds = Evaluation(metrics), 0.0
    for name, path in tqdm(files.items(), "evaluate", unit="clip"):
        clip = read_clip(path, name, texts.get(name))
        evaluation.update(Batch([clip], [read_clip(others[name], name)] if paired else []))
        audio_seconds += clip.seconds
    label = Path(reference).resolve().name if reference is not None else ""
    numbers = evaluation.numbers(reference=label, best_of=best_of, seed=seed)
    where = None if reference is None else str(reference)
    spent = time.monotonic() - begin
    return FolderReport(str(generated), where, len(files), audio_seconds, spent, numbers, evaluation.scores())


def _check(
    metrics: list[Metric], files: Mapping[str, Path], others: Mapping[str, Path], texts: Mapping[str, str]
) -> None:
    needs = frozenset().union(*(metric.needs for metric in metrics))
    if "seconds" in needs:
        raise ValueError("rtf: a folder does not tell how long generating took; evaluate.metrics.rtf=true does")
    if needs & {"reference", "pairs"} and not others:
        raise ValueError("these metrics compare with a reference: give --reference DIR")
    alone = [str(path) for name, path in files.items() if name not in others]
    if "pairs" in needs and alone:
        raise ValueError(
            f"kl compares clips of the same name: no reference for {', '.join(alone[:3])} ({len(alone)} in all)"
        )
    if "text" in needs and not set(texts) & set(files):
        raise ValueError("clap needs descriptions: give --captions FILE, or a sidecar with one beside each file")
