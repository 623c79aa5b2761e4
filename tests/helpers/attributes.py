"""Attributes of an item in levels, and the rule that turns its p-MOS into them."""

from __future__ import annotations

from audiocraft_qamdt.data.attributes import to_levels
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule

from audiocraft.modules.conditioners import ConditioningAttributes

RULE = level_rule(
    "official",
    QualityStatistics.from_dict(
        {
            "mean": 3.8,
            "std": 0.2,
            "count": 100,
            "quantiles": [3.0, 3.5, 3.8, 4.0, 4.5],
            "predictor": "test",
            "version": "1",
            "unscored": 0,
        },
        "test",
    ),
)


def in_levels(description="a warm piano", pmos=3.8, curve=None, track=4.3):
    return ConditioningAttributes(text={"description": description, **to_levels(pmos, curve, track, RULE)})
