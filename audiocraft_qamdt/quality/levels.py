"""p-MOS (1 to 5) → quality level (integer 1 to 5) and prefix word, relative to the statistics of a data set.

Pure functions of numbers. What distinguishes the rules is data: the table `PRESETS`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np

from ..data.attributes import STATISTICS_FILE
from ..utils.checks import is_number
from ..utils.reading import JsonObject, JsonValue, read_json

LEVELS = (1, 2, 3, 4, 5)
WORDS = ("low", "medium", "high")
# A constant predictor gives a standard deviation of 0: the cuts must stay in order around the mean all the same.
SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class QualityStatistics:
    """Distribution of p-MOS over the tracks of a data set; kept in `quality.json` beside the manifest.

    Args:
        mean: mean p-MOS of the scored tracks.
        std: their (population) standard deviation.
        count: number of scored tracks.
        quantiles: p-MOS at evenly spaced shares of the tracks, from the lowest (share 0) to the highest (share 1).
        predictor: name of the predictor that gave the scores.
        version: its version.
        unscored: number of tracks without a score.
    """

    mean: float
    std: float
    count: int
    quantiles: list[float]
    predictor: str
    version: str
    unscored: int = 0

    @classmethod
    def from_scores(cls, scores: Sequence[float], predictor: str, version: str, unscored: int = 0) -> QualityStatistics:
        """Return statistics of the p-MOS of scored tracks, with 101 quantiles.

        Raises:
            ValueError: without a single score.
        """
        if not len(scores):
            raise ValueError(f"no track has a score by {predictor}: there are no statistics to take")
        quantiles = np.quantile(scores, np.linspace(0, 1, 101)).tolist()
        return cls(float(np.mean(scores)), float(np.std(scores)), len(scores), quantiles, predictor, version, unscored)

    @classmethod
    def from_dict(cls, fields: Mapping[str, object], source: str | Path) -> QualityStatistics:
        """Return statistics from the content of `quality.json`.

        Raises:
            ValueError: naming `source` and the field that is missing or has an impossible value.
        """
        checked = {name: _field(fields, name, source, check) for name, check in _FIELD_CHECKS.items()}
        return cls(**checked)

    @classmethod
    def load(cls, path: str | Path) -> QualityStatistics:
        """Read `quality.json`, given by itself or by the folder that holds it (`qamdt annotate` writes it).

        Raises:
            FileNotFoundError: where there is none.
            ValueError: naming the file, and the field that is wrong.
        """
        path = Path(path)
        path = path / STATISTICS_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: `qamdt annotate` writes it beside the manifest")
        try:
            fields = read_json(path)
        except ValueError as error:
            raise ValueError(f"{error}: run `qamdt annotate` again") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{path}: expected an object, got {type(fields).__name__}")
        return cls.from_dict(fields, path)

    def to_dict(self) -> JsonObject:
        """Return the content of `quality.json`."""
        return asdict(self)

    def quantile(self, share: float) -> float:
        """Return p-MOS that `share` (0 to 1) of the tracks stay below, by linear interpolation."""
        return float(np.interp(share, np.linspace(0, 1, len(self.quantiles)), self.quantiles))


def _is_on_scale(value: object) -> TypeGuard[float]:
    return is_number(value) and 1 <= value <= 5


def _is_deviation(value: object) -> TypeGuard[float]:
    return is_number(value) and value >= 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_quantiles(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(_is_on_scale, value)) and value == sorted(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


_FIELD_CHECKS: dict[str, Callable[[object], bool]] = {
    "mean": _is_on_scale,
    "std": _is_deviation,
    "count": _is_count,
    "quantiles": _are_quantiles,
    "predictor": _is_text,
    "version": _is_text,
    "unscored": _is_count,
}


def _field(
    fields: Mapping[str, JsonValue], name: str, source: str | Path, check: Callable[[object], bool]
) -> JsonValue:
    if name not in fields:
        raise ValueError(f"{source}: no field {name!r}: run `qamdt annotate` again")
    if not check(fields[name]):
        raise ValueError(f"{source}: field {name!r} cannot be {fields[name]!r}: run `qamdt annotate` again")
    return fields[name]


class Cut(Protocol):
    """Threshold between one class of p-MOS and the next."""

    def value(self, statistics: QualityStatistics) -> float:
        """Return the smallest p-MOS that belongs to the upper class."""
        ...


@dataclass(frozen=True)
class Sigma:
    """A cut at `multiple` standard deviations from the mean.

    Args:
        multiple: signed number of standard deviations.
        above: the upper class begins just above the cut, instead of at it.
    """

    multiple: float
    above: bool = False

    def value(self, statistics: QualityStatistics) -> float:
        """Return the smallest p-MOS that belongs to the upper class."""
        cut = statistics.mean + self.multiple * max(statistics.std, SMALLEST_STD)
        return math.nextafter(cut, math.inf) if self.above else cut


@dataclass(frozen=True)
class Share:
    """A cut that a share (0 to 1) of the tracks stay below."""

    share: float

    def value(self, statistics: QualityStatistics) -> float:
        """Return the smallest p-MOS that belongs to the upper class."""
        return statistics.quantile(self.share)


@dataclass(frozen=True)
class Part:
    """A cut at a part (0 to 1) of the way from the worst to the best p-MOS, but for 2 % of the tracks at each end."""

    part: float

    def value(self, statistics: QualityStatistics) -> float:
        """Return the smallest p-MOS that belongs to the upper class."""
        worst, best = statistics.quantile(0.02), statistics.quantile(0.98)
        return worst + self.part * (best - worst)


@dataclass(frozen=True)
class Preset:
    """A rule before it meets a data set: four cuts between the levels, and the cuts between the prefix words.

    Args:
        names: the words from the lowest to the highest; None = no prefix.
    """

    levels: tuple[Cut, Cut, Cut, Cut]
    words: tuple[Cut, ...]
    names: tuple[str | None, ...] = WORDS


# "official" is what the published code does (its 3.55 and 4.05 are mean 3.80 ∓ 1.25 · 0.20). "paper" is the paper's
# Q(s) = ⌊(s − (μ − 2σ)) / σ⌋ + r, r = 2 if s > μ else 1, clamped to 1…5: as printed, level 3 is s = μ alone.
# The paper's words leave gaps, in which a description has no prefix: from μ − 2σ to μ − σ, and from μ + σ to μ + 2σ.
PRESETS: dict[str, Preset] = {
    "official": Preset((Sigma(-2), Sigma(-1), Sigma(1), Sigma(2)), (Sigma(-1.25, above=True), Sigma(1.25))),
    "paper": Preset(
        (Sigma(-1), Sigma(0), Sigma(0, above=True), Sigma(1)),
        (Sigma(-2), Sigma(-1), Sigma(1, above=True), Sigma(2, above=True)),
        ("low", None, "medium", None, "high"),
    ),
    "quantile": Preset((Share(0.2), Share(0.4), Share(0.6), Share(0.8)), (Share(0.2), Share(0.8))),
    # Equal steps of p-MOS: where many tracks are about equally good, equal shares would separate inaudible differences.
    "even": Preset((Part(0.2), Part(0.4), Part(0.6), Part(0.8)), (Part(0.2), Part(0.8))),
}


@dataclass(frozen=True)
class LevelRule:
    """p-MOS → level 1 to 5 and prefix word. Build it with `level_rule`.

    Args:
        boundaries: the smallest p-MOS of levels 2, 3, 4 and 5, for plots too.
        word_boundaries: the smallest p-MOS of the second word and of those after it.
        centres: a p-MOS that stands for each level; the outer ones may lie outside the scale.
        words: one more than `word_boundaries`; None = no prefix.
    """

    boundaries: tuple[float, ...]
    word_boundaries: tuple[float, ...]
    centres: tuple[float, ...]
    words: tuple[str | None, ...] = WORDS

    def level(self, pmos: float) -> int:
        """Return the level 1 to 5 of a p-MOS.

        Raises:
            ValueError: when the p-MOS is NaN.
        """
        return LEVELS[_class_of(pmos, self.boundaries)]

    def levels(self, curve: Iterable[float]) -> list[int]:
        """Return the level of each p-MOS of a curve."""
        return [self.level(pmos) for pmos in curve]

    def word(self, pmos: float) -> str | None:
        """Return "low", "medium" or "high": the word that `prefixed` puts before a description; None = no prefix."""
        return self.words[_class_of(pmos, self.word_boundaries)]

    def centre(self, level: int) -> float:
        """Return the p-MOS that stands for a level, for inference: `rule.level(rule.centre(n)) == n`.

        Raises:
            ValueError: when the level is not one of 1 to 5.
        """
        if level not in LEVELS:
            raise ValueError(f"a quality level is an integer from 1 to 5, got {level!r}")
        return self.centres[level - 1]

    def level_word(self, level: int) -> str | None:
        """Return the prefix word of an integer level, for inference: the word at the level's centre."""
        return self.word(self.centre(level))


def level_rule(preset: str, statistics: QualityStatistics) -> LevelRule:
    """Return the rule named `preset` (a key of `PRESETS`) for a data set with these statistics.

    Raises:
        ValueError: for an unknown preset, or where the statistics leave a level no p-MOS (equal quantiles).
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown level preset {preset!r}: choose one of {', '.join(PRESETS)}")
    levels = tuple(cut.value(statistics) for cut in PRESETS[preset].levels)
    words = tuple(cut.value(statistics) for cut in PRESETS[preset].words)
    if any(lower >= upper for lower, upper in pairwise(levels)):
        raise ValueError(
            f"preset {preset!r} needs increasing boundaries, but {statistics.predictor}'s scores give "
            f"{', '.join(f'{cut:.3f}' for cut in levels)}: choose the preset 'official'"
        )
    centres = _centres(levels, words, max(statistics.std, SMALLEST_STD) / 2)
    return LevelRule(levels, words, centres, PRESETS[preset].names)


def prefixed(description: str | None, word: str | None) -> str | None:
    """Return the description with its quality prefix, as the paper writes it: "high quality, " before the text.

    Args:
        word: of `WORDS`; None = no prefix.
    """
    if word is None:
        return description
    return f"{word} quality, {description}" if description else f"{word} quality"


def unprefixed(description: str) -> str | None:
    """Undo `prefixed`: return the description without its prefix, None where nothing else is there."""
    first, mark, rest = description.partition(" quality")
    return rest.removeprefix(", ") or None if mark and first in WORDS else description


def _class_of(pmos: float, boundaries: Sequence[float]) -> int:
    if math.isnan(pmos):
        raise ValueError("p-MOS is NaN: a track without a score has quality None, not NaN")
    return bisect_right(boundaries, pmos)


def _centres(levels: tuple[float, ...], words: tuple[float, ...], margin: float) -> tuple[float, ...]:
    # Levels 1 and 5 are open: what stands for them lies outside the word boundaries too, so that asking for level 1 or
    # 5 always says "low" or "high". The paper's level 3 is one number wide, hence the minimum.
    inner = (min((lower + upper) / 2, math.nextafter(upper, -math.inf)) for lower, upper in pairwise(levels))
    return min(levels + words) - margin, *inner, max(levels + words) + margin
