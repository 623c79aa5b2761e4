"""The same metrics on folders of audio from any system, and reference statistics kept by what they were made from."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor, nn
from tqdm import tqdm

from ..utils.audio import find_audio, read_audio
from ..utils.files import replacing
from ..utils.outputs import optional_cache
from ..utils.reading import JsonObject
from .base import Batch, Clip, Metric, Network, Number
from .comparison import Comparison, compare
from .coverage import SampleMetric
from .frechet import FrechetMetric, Moments
from .samples import LARGEST, Sample
from .signal import SILENT, Level
from .table import Evaluation
from .texts import read_captions

logger = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Return the default folder of reference statistics: `audiocraft_qamdt` in the user's cache folder.

    None = the user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiocraft_qamdt"
    except RuntimeError:
        return None


def named_audio(folder: str | Path) -> dict[str, Path]:
    """Find the audio of a folder, nested or not: path without suffix, relative to the folder, in form NFC → file.

    What is left out is warned of, with its reason; so is a second file of the same name.

    Raises:
        FileNotFoundError: no folder, or no audio in it.
    """
    found, folder = find_audio(folder), Path(folder)
    left_out = dict(found.left_out)
    named: dict[str, Path] = {}
    for path in found.files:
        stem = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if stem in named:
            left_out[str(path)] = f"it has the name of {named[stem]}"
        else:
            named[stem] = path
    for file, reason in left_out.items():
        logger.warning("left out: %s (%s)", file, reason)
    return named


def read_clip(path: Path, name: str = "", text: str | None = None, level: Level | None = None) -> Clip:
    """Return a file as a clip, mixed down to mono; its channels as they are go along.

    Args:
        path: the file.
        name: of the clip; "" = the path.
        text: its description.
        level: what it is brought to; None = it stays as it is.
    Raises:
        ValueError: naming the file, when it cannot be decoded, is empty or holds NaN.
    """
    audio, sample_rate = read_audio(path)
    channels = audio if level is None else level(audio, sample_rate)
    clip = Clip(str(path), channels.mean(0), sample_rate, text, raw=audio, channels=channels)
    if clip.audio.abs().max() < SILENT <= audio.abs().max():
        logger.warning("%s: its channels cancel each other when they are mixed; networks hear silence", path)
    clip.name = name or clip.name  # errors name the file, scores its place in the folder
    return clip


def fingerprint(module: nn.Module) -> str:
    """Hash of a network's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().flatten().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class Reference:
    """What metrics need of the embeddings of a set to compare with."""

    moments: Moments
    sample: Sample

    @classmethod
    def empty(cls, dim: int) -> Reference:
        """Return statistics of no clips."""
        return cls(Moments.empty(dim), Sample.empty(dim))

    def add(self, name: str, embeddings: Tensor) -> None:
        """Take a clip's embeddings [n, D] in."""
        self.moments.add(embeddings)
        self.sample.add(name, embeddings)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file keeps."""
        return {**vars(self.moments), **dict(zip(_SAMPLE, self.sample.settle(), strict=True))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Reference:
        """Return statistics from what `tensors` gave."""
        moments = Moments(**{name: value for name, value in tensors.items() if name not in _SAMPLE})
        places, seeds, embeddings = (tensors[name] for name in _SAMPLE)
        return cls(moments, Sample(places, seeds, embeddings))


_SAMPLE = ("places", "seeds", "embeddings")


def read_reference(folder: str | Path, network: Network, cache: Path | None, level: Level | None = None) -> Reference:
    """Return statistics of a folder's embeddings, computed once for the same audio (whatever its names) and weights.

    Args:
        folder: of audio.
        network: whose embeddings.
        cache: folder where statistics are kept; None = nowhere.
        level: what its clips are brought to; None = they stay as they are.
    """
    contents = sorted((hashlib.sha256(path.read_bytes()).hexdigest(), path) for path in named_audio(folder).values())
    parts = [f"reference {LARGEST}", network.name, fingerprint(network.module), *(content for content, _ in contents)]
    if level is not None:
        parts.append(level.name)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    kept = cache / f"{key[:32]}.safetensors" if cache is not None else None
    if kept is not None and (known := _kept_reference(kept)) is not None:
        logger.info("%s with %s: statistics from %s", folder, network.name, kept)
        return known
    found = Reference.empty(network.dim)
    for content, path in tqdm(contents, f"reference, {network.name}", unit="clip"):
        found.add(content, read_clip(path, level=level).outputs(network).embeddings)
    if kept is not None:
        _keep_reference(found, kept)
    return found


def _kept_reference(path: Path) -> Reference | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Reference.from_tensors(load_file(path))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        logger.warning("%s cannot be read (%s): it is computed again", path, error)
        return None


def _keep_reference(reference: Reference, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with optional_cache(f"reference statistics in {path.parent}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            try:
                save_file({name: value.contiguous() for name, value in reference.tensors().items()}, part)
            except SafetensorError as error:
                raise OSError(str(error)) from error


def compare_with_folder(
    metrics: list[Metric], folder: str | Path, cache: Path | None, level: Level | None = None
) -> None:
    """Let distances between sets compare with the audio of a folder in place of what batches bring.

    Args:
        metrics: those that compare with nothing stay as they are.
        folder, cache, level: see `read_reference`.
    """
    known: dict[str, Reference] = {}

    def of(network: Network) -> Reference:
        if network.name not in known:
            known[network.name] = read_reference(folder, network, cache, level)
        return known[network.name]

    compare_with(metrics, Path(folder).resolve().name, of)


def compare_with(metrics: list[Metric], name: str, reference: Callable[[Network], Reference]) -> None:
    """Let distances between sets compare with the set of that name, of which `reference` gives a network's view."""
    for metric in metrics:
        if isinstance(metric, FrechetMetric):
            metric.compare_with(name, reference(metric.network).moments)
        elif isinstance(metric, SampleMetric):
            metric.compare_with(name, reference(metric.network).sample)


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
        replicates: measurement → values on resampled clips; not written.
    """

    generated: str
    reference: str | None
    clips: int
    audio_seconds: float
    seconds: float
    numbers: list[Number]
    scores: dict[str, dict[str, float]]
    replicates: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def to_dict(self) -> JsonObject:
        """Return the content for JSON; each number has its key beside its fields."""
        numbers = [{"key": number.key, **asdict(number)} for number in self.numbers]
        fields = {name: value for name, value in vars(self).items() if name != "replicates"}
        return {**fields, "numbers": numbers}

    def markdown(self) -> list[str]:
        """Return the head, rule and row of a table."""
        head = ["generated", "reference", "N", *(number.measured for number in self.numbers)]
        return table_of([head, ["---"] * len(head), self.row()])

    def row(self) -> list[str]:
        """Return its cells."""
        values = [f"{number.value:.4g}{_plus_minus(number.ci95)}" for number in self.numbers]
        return [self.generated, self.reference or "", str(self.clips), *values]

    def against(self, other: FolderReport) -> list[Comparison]:
        """Return, for each number, whether it differs from that of other clips measured alike."""
        pairs = zip(self.numbers, other.numbers, strict=True)
        return [compare(*pair, self.replicates, other.replicates) for pair in pairs]

    def markdown_against(self, other: FolderReport) -> list[str]:
        """Return the table with the row of the other clips and those of the differences."""
        found = self.against(other)
        differences = [f"{one.difference:.3g}{_plus_minus(one.ci95)}" for one in found]
        chances = ["" if one.p is None else f"p = {one.p:.2g}" for one in found]
        rows = [other.row(), ["difference", "", "", *differences], ["no difference", "", "", *chances]]
        return [*self.markdown(), *table_of(rows)]


def table_of(rows: list[list[str]]) -> list[str]:
    """Return lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in rows]


def _plus_minus(half: float | None) -> str:
    return "" if half is None else f" ± {half:.2g}"


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
    files, others = named_audio(generated), named_audio(reference) if reference is not None else {}
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
    measured = (numbers, evaluation.scores(), evaluation.replicates())
    return FolderReport(str(generated), where, len(files), audio_seconds, spent, *measured)


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
