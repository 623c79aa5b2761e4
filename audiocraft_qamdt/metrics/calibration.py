"""How far to trust a metric: music is degraded step by step, and each number shows from which step on it can tell."""

from __future__ import annotations

import math
import statistics
import typing as tp
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..playground.degradation import KINDS, degrade
from ..utils import plots
from ..utils.audio import audio_info, read_audio
from ..utils.checks import is_number
from ..utils.randomness import keyed_seed
from ..utils.reading import JsonObject
from .base import Batch, Clip, Metric, Network, Number
from .comparison import compare
from .folders import Reference, compare_with, named_audio, read_reference, table_of
from .table import Evaluation, more_is_better
from .texts import read_captions

STRENGTHS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SIGNIFICANT = 0.05
LEAST = 2
"""Clips on each side: of fewer there is no interval."""


@dataclass(frozen=True)
class Excerpt:
    """A part of a file.

    Args:
        path: the file.
        name: of the clip.
        start, seconds: where the part begins, and its duration.
        text: its description; None = there is none.
    """

    path: Path
    name: str
    start: float
    seconds: float
    text: str | None = None

    def read(self) -> tuple[np.ndarray, int]:
        """Return mono samples [S] and their rate."""
        audio, sample_rate = read_audio(self.path, self.start, self.seconds)
        return audio.mean(0).numpy(), sample_rate

    def clip(self, kind: str = "", strength: float = 0.0) -> Clip:
        """Return it as a clip, degraded where there is a kind: what is drawn depends on the name and the kind alone."""
        samples, sample_rate = self.read()
        if kind:
            samples = degrade(samples, sample_rate, kind, strength, np.random.default_rng(keyed_seed(kind, self.name)))
        return Clip(self.name, torch.from_numpy(samples), sample_rate, self.text)


def cut_excerpts(
    folder: str | Path, seconds: float, clips: int | None = None, captions: str | Path | None = None
) -> list[list[Excerpt]]:
    """Return excerpts of each file of a folder, as far apart as they can be.

    Args:
        folder: of audio.
        seconds: duration of an excerpt; a shorter file is taken whole.
        clips: about how many in all: of fewer files several excerpts each, of more every n-th file; None = one of each.
        captions: see `read_captions`.
    Raises:
        ValueError: no clips, or clips of no duration.
    """
    if not (is_number(seconds) and seconds > 0) or (clips is not None and clips < 1):
        raise ValueError(f"--clip-seconds and --clips must be above 0, got {seconds:g} and {clips}")
    files = named_audio(folder)
    texts = read_captions(captions, files)
    names = list(files)
    if clips is not None and clips < len(names):
        names = [names[index * len(names) // clips] for index in range(clips)]
    each = max(1, round((clips or 0) / len(names)))
    found = []
    for name in names:
        spare = max(0.0, audio_info(files[name]).duration - seconds)
        starts = sorted({round(spare * (place + 0.5) / each, 3) for place in range(each)})
        found.append([Excerpt(files[name], f"{name}@{start:g}", start, seconds, texts.get(name)) for start in starts])
    return found


@dataclass(frozen=True)
class Response:
    """What a number did while one kind of degradation grew stronger.

    Args:
        kind: of degradation.
        measured: quantity and instrument.
        values: of the music as it is, then by strength [1 + steps].
        ci95: half of their 95 % intervals; None = there is none.
        p: probability of so large a difference to the music as it is, clip by clip, if there were none [steps].
        paired: the weakest strength from which on every step is significantly worse, clip by clip; None = there is
            none, or the number has no test (`tested`).
        unpaired: the same, where other clips had been degraded: beyond the interval of two sets of undegraded clips.
        better: how many steps are significantly better than the music as it is.
        rank_correlation: Spearman's, of strength with how bad the number is; 1 = worse with every step.
        tested: false for what compares each clip with itself, which is 0 by definition before the first step.
    """

    kind: str
    measured: str
    values: list[float]
    ci95: list[float | None]
    p: list[float | None]
    paired: float | None
    unpaired: float | None
    better: int
    rank_correlation: float
    tested: bool

    @property
    def cell(self) -> str:
        """Return it as a cell of a table: strengths with and without pairs, and the rank correlation."""
        steps = f"{_step(self.paired)} / {_step(self.unpaired)}" if self.tested else "–"
        return f"{steps} ({self.rank_correlation:.2f})"


class Measured(tp.NamedTuple):
    """Numbers of a set of clips, with their replicates (see `Metric.replicates`) and those that have no test."""

    numbers: list[Number]
    replicates: dict[str, Tensor]
    untested: frozenset[str]


def respond(kind: str, strengths: Sequence[float], steps: Sequence[Measured], index: int) -> Response:
    """Return what the number at an index did over the steps, the first of which is the music as it is."""
    numbers = [step.numbers[index] for step in steps]
    clean, measured = numbers[0], numbers[0].measured
    tested = measured not in steps[0].untested
    sign = -1 if more_is_better(measured) else 1
    changes = [_Change.of(sign, number, clean, step, steps[0]) for number, step in zip(numbers, steps, strict=True)][1:]
    return Response(
        kind,
        measured,
        [number.value for number in numbers],
        [number.ci95 for number in numbers],
        [change.p for change in changes],
        _first(strengths, [tested and change.worse and change.significant for change in changes]),
        _first(strengths, [tested and change.worse and change.apart for change in changes]),
        sum(tested and not change.worse and change.significant for change in changes),
        rank_correlation([0.0, *strengths], [sign * number.value for number in numbers]),
        tested,
    )


class _Change(tp.NamedTuple):
    """What a step did to a number: whether it got worse, by how probable a chance, and out of both intervals."""

    worse: bool
    p: float | None
    apart: bool

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANT

    @classmethod
    def of(cls, sign: int, number: Number, clean: Number, step: Measured, first: Measured) -> _Change:
        found = compare(number, clean, step.replicates, first.replicates)
        return cls(sign * found.difference > 0, found.p, _apart(number, clean))


def _apart(number: Number, clean: Number) -> bool:
    if number.ci95 is None or clean.ci95 is None:
        return False
    return abs(number.value - clean.value) > (number.ci95**2 + clean.ci95**2) ** 0.5


def _first(strengths: Sequence[float], told: Sequence[bool]) -> float | None:
    """Return the weakest strength from which on all are told."""
    first = None
    for strength, tells in zip(reversed(strengths), reversed(told), strict=True):
        if not tells:
            break
        first = strength
    return first


def rank_correlation(strengths: Sequence[float], values: Sequence[float]) -> float:
    """Return Spearman's correlation; 0 of values that are all the same."""
    from scipy.stats import spearmanr

    return 0.0 if np.ptp(values) == 0 else float(spearmanr(strengths, values).statistic)


@dataclass
class Calibration:
    """Responses of numbers to degradations.

    Args:
        generated: folder that was degraded.
        reference: folder that was compared with; None = the other half of the same one.
        clips: how many were degraded.
        strengths: of the steps.
        responses: of each number to each kind.
    """

    generated: str
    reference: str | None
    clips: int
    strengths: list[float]
    responses: list[Response]

    def to_dict(self) -> JsonObject:
        """Return the content of the JSON file."""
        return {**vars(self), "responses": [asdict(response) for response in self.responses]}

    def by_number(self) -> dict[str, dict[str, Response]]:
        """Return number → kind → response."""
        found: dict[str, dict[str, Response]] = {}
        for response in self.responses:
            found.setdefault(response.measured, {})[response.kind] = response
        return found

    def markdown(self) -> list[str]:
        """Return a table: a row for each kind, and three that sum them up."""
        columns = [list(kinds.values()) for kinds in self.by_number().values()]
        head = ["degradation", *self.by_number()]
        rows = [[row[0].kind, *(response.cell for response in row)] for row in zip(*columns, strict=True)]
        sums = [[name, *map(total, columns)] for name, total in _SUMMARY.items()]
        return table_of([head, ["---"] * len(head), *rows, *sums])


def _told(responses: Sequence[Response]) -> str:
    if not responses[0].tested:
        return "–"
    counts = (sum(getattr(one, way) is not None for one in responses) for way in ("paired", "unpaired"))
    return f"{' / '.join(map(str, counts))} of {len(responses)}"


_SUMMARY: dict[str, Callable[[Sequence[Response]], str]] = {
    "told": _told,
    "steps taken for better": lambda found: str(sum(one.better for one in found)) if found[0].tested else "–",
    "rank correlation, mean": lambda found: f"{statistics.fmean(one.rank_correlation for one in found):.2f}",
}


def calibrate(
    generated: str | Path,
    reference: str | Path | None,
    build: Callable[[], list[Metric]],
    *,
    kinds: Sequence[str] = tuple(KINDS),
    strengths: Sequence[float] = STRENGTHS,
    seconds: float = 5.0,
    clips: int | None = None,
    captions: str | Path | None = None,
    cache: Path | None = None,
) -> Calibration:
    """Degrade a folder of music step by step, and measure every step.

    Args:
        generated: its folder.
        reference: folder that distances compare with; None = every second file of the same folder, as it is.
        build: makes the metrics.
        kinds, strengths: see `playground.degradation.degrade`.
        seconds, clips, captions: see `cut_excerpts`.
        cache: where statistics of the reference folder are kept.
    Raises:
        ValueError: unknown kinds, strengths that are none, or too few clips.
    """
    strengths = _check(kinds, strengths)
    found = cut_excerpts(generated, seconds, clips, captions)
    judged = [excerpt for file in (found if reference is not None else found[::2]) for excerpt in file]
    others = [] if reference is not None else [excerpt for file in found[1::2] for excerpt in file]
    if len(judged) < LEAST or (reference is None and not others):
        raise ValueError(
            f"{generated}: too little to calibrate with, {len(judged)} clips to degrade and {len(others)} to compare "
            "with: give more files, --reference DIR, or --clips N to take several excerpts from each file"
        )
    measure = _Measure(judged, _comparison(reference, others, cache), build)
    clean, responses = measure(), list[Response]()
    for kind in tqdm(kinds, "calibrate", unit="kind"):
        steps = [clean, *(measure(kind, strength) for strength in strengths)]
        responses += [respond(kind, strengths, steps, index) for index in range(len(clean.numbers))]
    where = None if reference is None else str(reference)
    return Calibration(str(generated), where, len(judged), list(strengths), responses)


def _check(kinds: Sequence[str], strengths: Sequence[float]) -> list[float]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"--kinds: no degradation is called {', '.join(unknown)}: choose from {', '.join(KINDS)}")
    if not strengths or not all(0 < strength <= 1 for strength in strengths):
        raise ValueError(f"--strengths: each must be above 0 and at most 1, got {', '.join(map(str, strengths))}")
    return sorted(set(strengths))


def _comparison(
    reference: str | Path | None, others: Sequence[Excerpt], cache: Path | None
) -> Callable[[list[Metric]], None]:
    """Return what gives metrics the set that they compare with, whose embeddings are computed once."""
    known: dict[str, Reference] = {}

    def of(network: Network) -> Reference:
        if network.name not in known:
            if reference is not None:
                known[network.name] = read_reference(reference, network, cache)
            else:
                known[network.name] = _embedded(others, network)
        return known[network.name]

    name = "undegraded" if reference is None else Path(reference).resolve().name
    return lambda metrics: compare_with(metrics, name, of)


def _embedded(excerpts: Sequence[Excerpt], network: Network) -> Reference:
    found = Reference.empty(network.dim)
    for excerpt in excerpts:
        found.add(excerpt.name, excerpt.clip().outputs(network).embeddings)
    return found


@dataclass(frozen=True)
class _Measure:
    """Measures the excerpts at one step, holding one clip at a time."""

    judged: Sequence[Excerpt]
    comparison: Callable[[list[Metric]], None]
    build: Callable[[], list[Metric]]

    def __call__(self, kind: str = "", strength: float = 0.0) -> Measured:
        metrics = self.build()
        self.comparison(metrics)
        evaluation = Evaluation(metrics)
        paired = any("pairs" in metric.needs for metric in metrics)
        for excerpt in self.judged:
            evaluation.update(Batch([excerpt.clip(kind, strength)], [excerpt.clip()] if paired else []))
        numbers = evaluation.numbers()
        return Measured(numbers, evaluation.replicates(), frozenset(_itself(metrics)))


def _itself(metrics: Sequence[Metric]) -> Iterator[str]:
    """Return the names of the numbers that compare each clip with itself before it was degraded."""
    for metric in metrics:
        if "pairs" in metric.needs:
            yield from ("_".join(filter(None, (name, metric.instrument))) for name in metric.replicates)


def draw(calibration: Calibration, path: str | Path) -> None:
    """Draw at which strength each number first tells of each kind of degradation, clip by clip, as PNG."""
    cells = {
        measured: {kind: (_colour(one), _text(one)) for kind, one in kinds.items()}
        for measured, kinds in calibration.by_number().items()
    }
    plots.grid(cells, path, label="weakest strength that it tells (below: rank correlation with strength)")


def _colour(response: Response) -> float:
    return math.nan if response.paired is None else response.paired


def _text(response: Response) -> str:
    if not response.tested:
        return f"{response.rank_correlation:.2f}"
    return f"{_step(response.paired)}\n{response.rank_correlation:.2f}"


def _step(strength: float | None) -> str:
    return "never" if strength is None else f"{strength:g}"
