"""What is asked of generation: settings, and the attributes that one clip's description and quality become."""

from __future__ import annotations

import math
import typing as tp
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..compat import prepare
from ..conditioning.conditioners import to_levels
from ..data.attributes import quality_attributes
from ..data.dataset import CURVE_RATE
from ..diffusion.guidance import Guidance
from ..diffusion.samplers import SAMPLERS
from ..quality.levels import LevelRule, prefixed
from ..utils.randomness import keyed_seed

prepare()

from audiocraft.modules.conditioners import ConditioningAttributes  # noqa: E402

Curve = list[tuple[float, float]]
"""Quality along a clip: (seconds, level or p-MOS) points, linear between them, held beyond the ends."""

EXTENSIONS = ("windows", "rope")


@dataclass(frozen=True)
class GenerationParams:
    """Settings of generation.

    Args:
        duration: seconds.
        steps, sampler: see `diffusion.samplers.sample`.
        guidance: see `diffusion.guidance.Guidance`.
        null_level: quality level of the unconditional branch; 0 = unknown (published sampler: 3, paper: 1).
        seed: same seed, same clip, whatever the batch it is in; see `item_seeds`.
        num_candidates: clips made for each description, of which the one that CLAP prefers is kept (published: 3).
        clap: hub id or folder of that CLAP model.
        quality: level 1 to 5, fractions interpolate; or a curve; None = unknown.
        pmos: the same as a p-MOS (see `attributes_for`), instead of `quality`.
        negative_prompt: description that guidance leads away from; None = from no description.
        extend: how clips longer than the training segment are made: "windows" that overlap, denoised together; or
            "rope", all at once (rotary positions only; memory and time grow with the length).
        extend_stride: seconds from one window to the next; None = half a window.
    """

    duration: float
    steps: int = 25
    sampler: str = "dpmsolver++"
    guidance: Guidance = Guidance()
    null_level: float = 0.0
    seed: int = 0
    num_candidates: int = 1
    clap: str | None = None
    quality: float | Curve | None = None
    pmos: float | Curve | None = None
    negative_prompt: str | None = None
    extend: str = "windows"
    extend_stride: float | None = None

    def __post_init__(self) -> None:
        if not (_is_number(self.duration) and self.duration > 0):
            raise ValueError(f"duration={self.duration!r}: give a number of seconds above 0")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r} is unknown: choose one of {', '.join(SAMPLERS)}")
        for name in ("steps", "num_candidates"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name}={getattr(self, name)!r}: give a whole number above 0")
        if not isinstance(self.seed, int):
            raise ValueError(f"seed={self.seed!r}: give a whole number")
        if self.extend not in EXTENSIONS:
            raise ValueError(f"extend={self.extend!r} is unknown: choose one of {', '.join(EXTENSIONS)}")
        if self.extend_stride is not None and not (_is_number(self.extend_stride) and self.extend_stride > 0):
            raise ValueError(f"extend_stride={self.extend_stride!r}: give a number of seconds above 0")


def item_seeds(descriptions: tp.Sequence[str | None], seed: int) -> list[int]:
    """Seed of each clip's noise: of its description, so that its place in a batch does not matter.

    The second clip of the same description is the one that `seed + 1` would give, and so on.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for description in descriptions:
        text = description or ""
        seeds.append(keyed_seed(seed + seen[text], text))
        seen[text] += 1
    return seeds


def attributes_for(
    description: str | None,
    quality: float | Curve | None,
    pmos: float | Curve | None,
    *,
    rule: LevelRule | None,
    prefix: bool,
    duration: float,
) -> ConditioningAttributes:
    """Attributes, in levels, of one clip.

    A level with a fraction interpolates embeddings. A p-MOS becomes what it was in training: an integer level, and the
    prefix word, by the rule and the statistics of the training data.

    Args:
        description: what to play; None = unconditional.
        quality, pmos: one of them, or None = unknown; a number or a curve.
        rule: levels of the training data; None if unknown.
        prefix: whether the model's text carries quality.
        duration: of the clip, in seconds.
    Raises:
        ValueError: values that are no levels or no p-MOS; both given; a p-MOS without a rule.
    """
    if quality is not None and pmos is not None:
        raise ValueError(f"quality={quality!r} and pmos={pmos!r}: give one of them")
    name, asked = ("quality", quality) if pmos is None else ("pmos", pmos)
    curve = sample_curve(name, asked, duration) if isinstance(asked, (list, tuple)) else None
    value = float(np.mean(curve)) if curve else None if asked is None else _on_scale(name, asked)
    if pmos is None:
        if prefix and rule is not None and value is not None:
            description = prefixed(description, rule.level_prefix(math.floor(value + 0.5)))
        return ConditioningAttributes(text={"description": description, **quality_attributes(value, curve, value)})
    if rule is None:
        raise ValueError(f"pmos={pmos!r}: the model knows no quality statistics, so only levels can be asked for")
    item = ConditioningAttributes(text={"description": description, **quality_attributes(value, curve, value)})
    return to_levels(item, rule, prefix)


def sample_curve(name: str, points: Curve, duration: float) -> list[float]:
    """A curve of (seconds, value) points at `CURVE_RATE` values per second.

    Raises:
        ValueError: no points, points that are no pairs, times that are no numbers, values off the scale 1 to 5.
    """
    if not points or not all(isinstance(point, (list, tuple)) and len(point) == 2 for point in points):
        raise ValueError(f"{name}={points!r}: a curve is a list of (seconds, {name}) points")
    for second, value in points:
        _on_scale(name, value)
        if not (_is_number(second) and second >= 0):
            raise ValueError(f"{name}: {second!r} is no time of a curve, give seconds from the start")
    seconds, values = zip(*sorted(points), strict=True)
    times = (np.arange(max(1, round(duration * CURVE_RATE))) + 0.5) / CURVE_RATE
    return np.interp(times, seconds, values).tolist()


def _on_scale(name: str, value: tp.Any) -> float:
    what = "levels go from 1 to 5" if name == "quality" else "p-MOS goes from 1 to 5"
    if not (_is_number(value) and 1 <= value <= 5):
        raise ValueError(f"{name}={value!r}: {what}")
    return float(value)


def _is_number(value: tp.Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
