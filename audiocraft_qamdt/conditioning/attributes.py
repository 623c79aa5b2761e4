"""The attributes of an item: from a segment's metadata, or a request, to what the conditioners are given.

Attributes hold the description, and quality in levels (`data.attributes`). `drop_conditions` forgets some of them in
training; `write_prefix` puts the quality's word before the description. `attributes_for` makes them from a request.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from audiocraft_qamdt.utils import prepared

from ..data.attributes import QUALITY, Curve, level_names, quality_attributes, to_levels
from ..data.dataset import CURVE_RATE
from ..quality.levels import LevelRule, prefixed, unprefixed
from ..utils.checks import is_number
from ..utils.reading import JsonObject

from audiocraft.modules.conditioners import ConditioningAttributes


def drop_conditions(
    attributes: list[ConditioningAttributes], probabilities: dict[str, float], generator: torch.Generator
) -> list[ConditioningAttributes]:
    """Forget conditions in training, each item and each condition on its own.

    Args:
        attributes: of a batch; not changed.
        probabilities: by attribute name; "quality" drops every quality attribute, the prefix included.
        generator: CPU generator.
    """
    attributes = [_own_text(item) for item in attributes]
    for item in attributes:
        for name, probability in sorted(probabilities.items()):
            if torch.rand((), generator=generator) < probability:
                forget(item, name)
    return attributes


def _own_text(item: ConditioningAttributes) -> ConditioningAttributes:
    # The text alone: the attributes hold the segment's audio too, which nothing here changes.
    return replace(item, text=dict(item.text))


def forget(item: ConditioningAttributes, name: str) -> None:
    """Set the attribute `name` (or, for "quality", all of quality) to unknown, in place.

    Raises:
        ValueError: the item has no such attribute.
    """
    names = [key for key in item.text if key == name or (name == QUALITY and key.startswith(f"{QUALITY}_"))]
    if not names:
        raise ValueError(f"condition_dropout.{name}: there is no such condition, choose among {', '.join(item.text)}")
    item.text.update(dict.fromkeys(names))


def write_prefix(item: ConditioningAttributes) -> ConditioningAttributes:
    """Write the quality of an item in levels before its description: "high quality, slow piano"."""
    word: str | None = item.text[f"{QUALITY}_prefix"]
    if word is None:
        return item
    item = _own_text(item)
    item.text["description"] = prefixed(item.text["description"], word)
    return item


def null_attributes(
    item: ConditioningAttributes, null_level: float, negative_prompt: str | None = None
) -> ConditioningAttributes:
    """Return the attributes of guidance's unconditional branch, in levels.

    Args:
        item: attributes of the conditional branch, in levels.
        null_level: quality; 0 = unknown.
        negative_prompt: what to lead away from, in place of no text.
    """
    item = _own_text(item)
    item.text = {**dict.fromkeys(item.text), "description": negative_prompt, **_null_levels(item, null_level)}
    return item


def text_attributes(
    item: ConditioningAttributes, null_level: float, prefix: bool, null_prefix: str | None = None
) -> ConditioningAttributes:
    """Return attributes with the text of `item` and the null quality (see `Guidance.quality_scale`).

    Args:
        prefix: whether `item` has a quality prefix before its description.
        null_prefix: the prefix word of the null quality; None = no prefix.
    """
    description = item.text["description"]
    item = _own_text(item)
    item.text.update(_null_levels(item, null_level))
    description = unprefixed(description) if prefix and description else description
    item.text["description"] = prefixed(description, null_prefix)
    return item


def curve_of(item: ConditioningAttributes) -> list[float] | None:
    """Return the levels along a clip that an item asks for; None = one level throughout, or unknown quality."""
    curve = item.text[f"{QUALITY}_frame"]
    return curve if isinstance(curve, list) else None


def without_curve(item: ConditioningAttributes) -> ConditioningAttributes:
    """Return attributes without the levels along a clip; its one level stays."""
    item = _own_text(item)
    item.text[f"{QUALITY}_frame"] = None
    return item


def at_level(item: ConditioningAttributes, level: int, word: str | None, prefix: bool) -> ConditioningAttributes:
    """Attributes of an item that asks for levels along a clip, at one level throughout; others stay as they are.

    Args:
        word: prefix word of this level; None = no word.
        prefix: whether `item` has a quality prefix before its description.
    """
    if curve_of(item) is None:
        return item
    return text_attributes(_own_text(item), level, prefix, word)


def _null_levels(item: ConditioningAttributes, null_level: float) -> JsonObject:
    # A curve stays one: branches are stacked, and a shorter one would be filled up with unknown.
    curves = {name: item.text.get(name) for name in level_names()}
    return {
        name: [null_level] * len(curve) if isinstance(curve, list) else null_level for name, curve in curves.items()
    }


def attributes_for(
    description: str | None,
    quality: float | Curve | None,
    pmos: float | Curve | None,
    *,
    rule: LevelRule | None,
    prefix: bool,
    duration: float,
) -> ConditioningAttributes:
    """Return the attributes, in levels, of one clip.

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
    value = _mean(name, asked, curve)
    if pmos is not None:
        if rule is None:
            raise ValueError(f"pmos={pmos!r}: the model knows no quality statistics, so only levels can be asked for")
        levels = to_levels(value, curve, value, rule)
    else:
        word = None if value is None or rule is None else rule.level_word(math.floor(value + 0.5))
        levels = quality_attributes(value, curve, value, word)
    item = ConditioningAttributes(text={"description": description, **levels})
    return write_prefix(item) if prefix else item


def _mean(name: str, asked: float | Curve | None, curve: list[float] | None) -> float | None:
    if curve is not None:
        return float(np.mean(curve))
    return None if asked is None else _on_scale(name, asked)


def sample_curve(name: str, points: Curve, duration: float) -> list[float]:
    """Sample a curve of (seconds, value) points at `CURVE_RATE` values per second.

    Raises:
        ValueError: no points, points that are no pairs, times that are no numbers, values off the scale 1 to 5.
    """
    if not points or not all(isinstance(point, (list, tuple)) and len(point) == 2 for point in points):
        raise ValueError(f"{name}={points!r}: a curve is a list of (seconds, {name}) points")
    for second, value in points:
        _on_scale(name, value)
        if not (is_number(second) and second >= 0):
            raise ValueError(f"{name}: {second!r} is no time of a curve, give seconds from the start")
    seconds, values = zip(*sorted(points), strict=True)
    times = (np.arange(max(1, round(duration * CURVE_RATE))) + 0.5) / CURVE_RATE
    return np.interp(times, seconds, values).tolist()


def _on_scale(name: str, value: object) -> float:
    what = "levels go from 1 to 5" if name == "quality" else "p-MOS goes from 1 to 5"
    if not (is_number(value) and 1 <= value <= 5):
        raise ValueError(f"{name}={value!r}: {what}")
    return float(value)
