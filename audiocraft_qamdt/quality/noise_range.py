"""Where a degraded clip may teach: noise levels at which it cannot be told from a clean one.

After Ambient Diffusion Omni (arXiv 2506.10038). A noise level is the ratio σ/α of noise to signal, which no schedule
changes; a schedule turns it into its own timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..data.attributes import STATISTICS_FILE
from ..utils.checks import is_number
from ..utils.files import write_json
from ..utils.reading import JsonObject, JsonValue, read_json
from .levels import LEVELS

KEY = "noise_range"
"""Of `quality.json`."""
MEASURED = "measured"
"""Value of `quality.noise_range` that takes what `quality.json` holds."""
RATIOS = tuple(np.geomspace(0.04, 60.0, 24).round(4).tolist())
"""σ/α at which clips are compared, from the published schedule's first timestep to its last."""
FALSE_POSITIVES = tuple(step / 10 for step in range(11))
AUC = 0.75
"""Largest area under the ROC at which a level counts as not to be told from clean clips: halfway from chance (0.5) to
always, well outside the error of an area over a few dozen tracks (about 0.1)."""
_AGAIN = "run `qamdt noise-range` again"


@dataclass(frozen=True)
class NoiseRange:
    """How well each level is told from the best one at each noise level, and the lowest one that it may teach at.

    Args:
        codec, rule: config values `latents.codec` and `quality.rule` that it was measured with.
        segment: seconds of a clip.
        threshold: largest area under the ROC that counts as "cannot be told".
        clips: number of held-out clips of each level, 1 to 5.
        ratios: noise levels σ/α, rising.
        auc: level → area under the ROC at each noise level.
        roc: level → noise level → share of clean clips recognised at the shares `FALSE_POSITIVES` of degraded ones.
        lowest: σ/α from which on the clips of each level teach; 0 = always.
    """

    codec: str
    rule: str
    segment: float
    threshold: float
    clips: list[int]
    ratios: list[float]
    auc: dict[str, list[float]]
    roc: dict[str, list[list[float]]]
    lowest: list[float]

    @classmethod
    def from_dict(cls, fields: JsonValue, source: str | Path) -> NoiseRange:
        """Return what `to_dict` gave.

        Raises:
            ValueError: naming `source` and what is missing or wrong.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"{source}: no {KEY!r}: run `qamdt noise-range`, or give quality.noise_range as numbers")
        names = list(cls.__dataclass_fields__)
        if missing := [name for name in names if name not in fields]:
            raise ValueError(f"{source}: {KEY} has no field {missing[0]!r}: {_AGAIN}")
        found = cls(**{name: fields[name] for name in names})
        if not _are_ratios(found.lowest):
            raise ValueError(f"{source}: {KEY}.lowest cannot be {found.lowest!r}: {_AGAIN}")
        return found

    def to_dict(self) -> JsonObject:
        """Return what `quality.json` keeps."""
        return asdict(self)

    def lines(self, timestep_at: Callable[[float], float]) -> list[str]:
        """Return the measurement as a table of text.

        Args:
            timestep_at: from a noise level to a schedule's timestep.
        """
        levels = [level for level in LEVELS if str(level) in self.auc]
        lines = ["timestep   σ/α      " + " ".join(f"level {level}" for level in levels)]
        for index, ratio in enumerate(self.ratios):
            areas = " ".join(f"{self.auc[str(level)][index]:7.3f}" for level in levels)
            lines.append(f"{timestep_at(ratio):8.0f} {ratio:7.3f}  {areas}")
        lowest = (f"{timestep_at(ratio) if ratio else 0:.0f}" for ratio in self.lowest)
        lines.append(f"Lowest timestep of levels 1 to 5, for an area of {self.threshold:g}: {', '.join(lowest)}")
        return [*lines, *self._taken()]

    def _taken(self) -> list[str]:
        """Return a line for each level that has another one's value."""
        lines = []
        for level, (_, source) in zip(LEVELS, _settled(self.auc, self.threshold), strict=True):
            if source == level:
                continue
            too_few = f"too few held-out clips to measure it ({self.clips[level - 1]})"
            why = "its own would be below a better level's" if str(level) in self.auc else too_few
            lines.append(f"Level {level} takes the value of level {source}: {why}")
        return lines


def _are_ratios(values: object) -> bool:
    return (
        isinstance(values, list) and len(values) == len(LEVELS) and all(is_number(one) and one >= 0 for one in values)
    )


def roc_curve(clean: np.ndarray, degraded: np.ndarray) -> tuple[float, list[float]]:
    """Return the area under the ROC, and the share of clean clips recognised at each of `FALSE_POSITIVES`.

    Args:
        clean, degraded: scores, higher = held to be clean; ties count half.
    """
    below = (degraded[:, None] < clean[None]).mean() + 0.5 * (degraded[:, None] == clean[None]).mean()
    limits = np.quantile(degraded, 1 - np.array(FALSE_POSITIVES))
    shares = [float((clean > limit).mean()) for limit in limits[:-1]]
    return float(below), [*shares, 1.0]


def falling(values: Sequence[float]) -> list[float]:
    """Return the closest values, by squares, that never rise: more noise cannot make clips easier to tell apart.

    Pool adjacent violators (Barlow et al. 1972).
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (last, few), (before, many) = pools.pop(), pools.pop()
            pools.append(((last * few + before * many) / (few + many), few + many))
    return [mean for mean, count in pools for _ in range(count)]


def lowest_ratios(auc: Mapping[str, Sequence[float]], threshold: float = AUC) -> list[float]:
    """Return the noise level from which on each level, 1 to 5, cannot be told from the best one; 0 = from the first on.

    A worse level never teaches below a better one. One that was not measured, for want of clips, takes the next better
    one's. A level that can be told at every noise level keeps the last.
    """
    return [ratio for ratio, _ in _settled(auc, threshold)]


def _settled(auc: Mapping[str, Sequence[float]], threshold: float) -> list[tuple[float, int]]:
    """Return the values of `lowest_ratios`, each with the level that it is of."""
    found, source, settled = 0.0, LEVELS[-1], []
    for level in reversed(LEVELS):
        areas = falling(auc.get(str(level), ()))
        told = sum(area > threshold for area in areas)
        own = RATIOS[min(told, len(RATIOS) - 1)] if told else 0.0
        if level == LEVELS[-1] or (areas and own >= found):
            found, source = own, level
        settled.append((found, source))
    return settled[::-1]


def checked_timesteps(values: object, num_steps: int) -> list[float]:
    """Return the lowest timesteps of levels 1 to 5 that a config gives.

    Raises:
        ValueError: anything but five numbers in [0, num_steps).
    """
    numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if len(numbers) != len(LEVELS) or not all(is_number(one) and 0 <= one < num_steps for one in numbers):
        raise ValueError(
            f"quality.noise_range={values!r}: give the lowest timestep of each level 1 to 5, numbers from 0 to below "
            f"{num_steps}, or {MEASURED} (`qamdt noise-range`), or null"
        )
    return [float(one) for one in numbers]


def write_noise_range(folder: Path, measured: NoiseRange) -> Path:
    """Write the measurement into a data set's `quality.json` and return that file."""
    path = folder / STATISTICS_FILE
    write_json(path, {**read_json(path), KEY: measured.to_dict()})
    return path
