"""The best weights of a training by a metric of its evaluate stage (`checkpoint.best_metric`)."""

from __future__ import annotations

import logging
import math
import re
import typing as tp
from collections.abc import Sequence

from .base import Metric, Stages, safe
from .table import more_is_better, quantity

logger = logging.getLogger(__name__)

STAGE = "evaluate"
LOSS = "loss"


class BestMetric:
    """Metric of the evaluate stage that decides whether weights are the best so far.

    Args:
        name: a number's key, or what it starts with: `pmos`, `frechet_playground`.
        metrics: those that the stage measures.
        with_loss: whether the stage measures the loss, too.
    Raises:
        ValueError: a number that the stage does not measure, or several of that name.
    """

    def __init__(self, name: str, metrics: Sequence[Metric], with_loss: bool) -> None:
        if not isinstance(name, str):
            raise ValueError(f"checkpoint.best_metric={name}: give one name, such as pmos")
        self.name = name
        measured = ["_".join(filter(None, (own, metric.instrument))) for metric in metrics for own in metric.quantities]
        names = [LOSS] * with_loss + [safe(own) for own in measured]
        found = self._matching(names) or ([name] if name.split("/")[0] in names else [])
        if len(found) != 1 or more_is_better(name) is None:
            problem = f"fits {', '.join(found)}" if found else "is not measured by evaluate.metrics"
            raise ValueError(f"checkpoint.best_metric={name} {problem}: choose one of {', '.join(names) or 'none'}")

    def improves(self, history: Sequence[Stages], pending: Stages) -> bool:
        """Return whether the weights of an epoch are the best so far; before the first evaluation all newer ones are.

        Args:
            history: metrics by stage of the epochs before.
            pending: metrics by stage of this epoch.
        """
        past = [value for stages in history if (value := self._value(stages)) is not None]
        value = self._value(pending)
        if value is None:
            return not past
        best = max(past, default=-math.inf) if more_is_better(self.name) else min(past, default=math.inf)
        is_best = value >= best if more_is_better(self.name) else value <= best
        if is_best:
            logger.info("New best state with %s=%.3f (was %.3f)", self.name, value, best)
        return is_best

    def _value(self, stages: Stages) -> float | None:
        """Return the number in the metrics of an epoch; None = it was not measured."""
        measured = stages.get(STAGE, {})
        keys = [self.name] if self.name in measured else self._matching(measured)
        return None if not keys or math.isnan(measured[keys[0]]) else measured[keys[0]]

    def _matching(self, keys: tp.Iterable[str]) -> list[str]:
        """Return the keys that start with the name: whole words of it, and of the same quantity."""
        start = re.compile(rf"{re.escape(self.name)}(?![A-Za-z0-9])")
        return [key for key in keys if start.match(key) and quantity(key) == quantity(self.name)]
