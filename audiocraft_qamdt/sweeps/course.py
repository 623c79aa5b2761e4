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
    found: dict[str, dict[str, list[Moment]]] = {}
    for arm in sweep.arms:
        for metric, moments in _moments(arm).items():
            found.setdefault(metric, {})[arm.name] = moments
    return {metric: arms for metric, arms in found.items() if any(len(moments) > 1 for moments in arms.values())}


def _values(run: GridRun) -> dict[str, dict[int, float]]:
    """Return the finite values of each metric by epoch."""
    found: dict[str, dict[int, float]] = {LOSS: {}}
    for epoch, stages in enumerate(run.history, 1):
        found[LOSS][epoch] = stages.get("valid", {}).get("loss", math.nan)
    for epoch, measured in run.evaluations.items():
        for metric, value in measured.items():
            found.setdefault(metric, {})[epoch] = value
    return {
        metric: {epoch: value for epoch, value in values.items() if math.isfinite(value)}
        for metric, values in found.items()
    }


def _minutes(run: GridRun) -> list[float]:
    """Return the minutes of training at the end of each epoch; NaN from the first that says no duration."""
    seconds = (stages.get("train", {}).get("duration", math.nan) for stages in run.history)
    return [total / 60 for total in accumulate(seconds)]


def _moments(arm: Arm) -> dict[str, list[Moment]]:
    """Return the moments of each metric that has one."""
    values, minutes = [_values(run) for run in arm.runs], [_minutes(run) for run in arm.runs]
    spent = [sum(at) / len(at) for at in zip(*minutes, strict=False)]  # as far as the shortest run got
    moments: dict[str, list[Moment]] = {}
    for metric in values[0]:
        shared = set.intersection(*(set(run.get(metric, {})) for run in values))
        for epoch in sorted(epoch for epoch in shared if math.isfinite(spent[epoch - 1])):
            found = Statistic(tuple(run[metric][epoch] for run in values))
            moments.setdefault(metric, []).append(Moment(epoch, spent[epoch - 1], found))
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
