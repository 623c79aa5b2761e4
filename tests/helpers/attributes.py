"""Attributes of an item in p-MOS, and the rule that turns them into levels."""

from __future__ import annotations

from audiocraft.modules.conditioners import ConditioningAttributes

from audiocraft_qamdt.data.attributes import quality_attributes
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule

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


def attributes(description="a warm piano", pmos=3.8, curve=None, track=4.3):
    return ConditioningAttributes(text={"description": description, **quality_attributes(pmos, curve, track)})
