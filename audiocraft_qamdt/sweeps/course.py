"""How the arms of a grid converge: losses and metrics against the minutes that were spent on training."""

from __future__ import annotations

import math
import typing as tp
from itertools import accumulate

from ..utils.plots import Point
from .arms import Arm, GridRun, Statistic, Sweep

LOSS = "valid loss"
"""Name of the validation loss among the metrics, which is there for each epoch."""


class Moment(tp.NamedTuple):
    """What an arm has reached at the end of an epoch.

    Args:
        epoch: its number, from 1.
        minutes: of training until then, without validation and evaluation; mean over the runs.
        found: values of the runs that have one.
    """

    epoch: int
    minutes: float
    found: Statistic

    @property
    def point(self) -> Point:
        """Return its place in a plot against time."""
        return Point(self.minutes, self.found.mean, self.found.deviation)


def courses(sweep: Sweep) -> dict[str, dict[str, list[Moment]]]:
    """Return each metric's moments by arm, for metrics that some arm has at two epochs or more.

    An arm's epoch counts if all of its runs have a finite value and durations of their epochs until then.
    """
    names = dict.fromkeys((LOSS, *(name for arm in sweep.arms for run in arm.runs for name in _names(run))))
    found = {name: {arm.name: _moments(arm, name) for arm in sweep.arms} for name in names}
    several = {name for name, arms in found.items() if any(len(moments) > 1 for moments in arms.values())}
    return {name: {arm: some for arm, some in arms.items() if some} for name, arms in found.items() if name in several}


def _names(run: GridRun) -> tp.Iterator[str]:
    for measured in run.evaluations.values():
        yield from measured


def _values(run: GridRun, metric: str) -> dict[int, float]:
    if metric == LOSS:
        losses = {epoch: stages.get("valid", {}).get("loss") for epoch, stages in enumerate(run.history, 1)}
        return {epoch: value for epoch, value in losses.items() if value is not None and math.isfinite(value)}
    found = {epoch: measured.get(metric, math.nan) for epoch, measured in run.evaluations.items()}
    return {epoch: value for epoch, value in found.items() if math.isfinite(value)}


def _minutes(run: GridRun) -> list[float]:
    """Return the minutes of training at the end of each epoch; NaN from the first that says no duration."""
    seconds = (stages.get("train", {}).get("duration", math.nan) for stages in run.history)
    return [total / 60 for total in accumulate(seconds)]


def _moments(arm: Arm, metric: str) -> list[Moment]:
    values, minutes = [_values(run, metric) for run in arm.runs], [_minutes(run) for run in arm.runs]
    moments = []
    for epoch in sorted(set.intersection(*map(set, values))):
        spent = sum(one[epoch - 1] for one in minutes) / len(minutes)
        if math.isfinite(spent):
            moments.append(Moment(epoch, spent, Statistic(tuple(one[epoch] for one in values))))
    return moments


def equal_time(course: tp.Mapping[str, tp.Sequence[Moment]]) -> tuple[float, dict[str, float]] | None:
    """Return the minutes that every arm was trained for, and each arm's mean at that time, between two moments.

    None = they have no time in common: one arm's first moment is after another's last.
    """
    if len(course) < 2:
        return None
    minutes = min(moments[-1].minutes for moments in course.values())
    if minutes < max(moments[0].minutes for moments in course.values()):
        return None
    return minutes, {arm: _at(minutes, moments) for arm, moments in course.items()}


def _at(minutes: float, moments: tp.Sequence[Moment]) -> float:
    before = [moment for moment in moments if moment.minutes <= minutes][-1]
    after = next((moment for moment in moments if moment.minutes > minutes), before)
    share = (minutes - before.minutes) / ((after.minutes - before.minutes) or 1.0)
    return before.found.mean + share * (after.found.mean - before.found.mean)
