"""The runs of a Dora grid as arms: runs that differ in nothing but their seed, over which metrics have a mean."""

from __future__ import annotations

import json
import logging
import math
import shutil
import statistics
import typing as tp
from dataclasses import dataclass, field
from pathlib import Path

from dora.hydra import HydraMain
from dora.shep import Sheep
from dora.xp import XP
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from ..metrics.base import AUDIOCRAFT, comparable, evaluations
from ..metrics.stage import read_intervals
from ..metrics.table import AUDIOCRAFT_QUANTITIES, more_is_better
from ..utils.dora import grids_folder
from ..utils.reading import JsonObject
from . import overrides
from .process import LocalSheep
from .runner import SIGNATURE

logger = logging.getLogger(__name__)

Settings: tp.TypeAlias = JsonObject
"""Keys of the config, or of the command line, and values of whatever type the config gives them."""

SEEDS = ("seed", "generate.seed")
"""Keys whose values make runs repeats of each other: of the weights and the training, and of the noise of clips."""
STORES = ("cache.path",)
"""Keys that say where a run reads what it would compute otherwise: they make no arm."""
DEFAULT = "default"
SOURCE = "continue_from"


@dataclass
class GridRun:
    """A run of a grid.

    Args:
        signature: Dora's.
        given: what it was started with, without seeds: key → value as on the command line.
        parts: what the signature is made of, without seeds: key → value that differs from the configuration's default.
        config: all of its settings; None = they cannot be read.
        history: metrics by epoch and stage.
        problem: why it is not finished, for the reader; "" = it is.
        intervals: half the 95 % interval, over its clips, of what the last evaluation measured; names as in `measured`.
    """

    signature: str
    given: Settings = field(default_factory=dict)
    parts: Settings = field(default_factory=dict)
    config: DictConfig | None = None
    history: list[dict[str, dict[str, float]]] = field(default_factory=list)
    problem: str = ""
    intervals: dict[str, float] = field(default_factory=dict)

    @property
    def seed(self) -> str:
        """Return its seeds as text, the noise's only where it was set."""
        chosen = [(key, self._configured(key)) for key in SEEDS]
        return " ".join(str(value) for key, value in chosen if key == SEEDS[0] or value)

    def _configured(self, key: str) -> object:
        return None if self.config is None else OmegaConf.select(self.config, key)

    def setting(self, key: str) -> float | str:
        """Return the run's value of a key: a number, the text that was given, or `DEFAULT` where it was not set."""
        value = self._configured(key)
        if isinstance(value, int | float):
            return value
        text = self.given.get(key, self.parts.get(key, value))
        return DEFAULT if text is None or isinstance(text, DictConfig) else str(text)

    @property
    def measured(self) -> dict[str, float]:
        """Return the results of the last evaluation, by the names under which runs are compared (see `comparable`)."""
        found = self.evaluations
        return found[max(found)] if found else {}

    @property
    def evaluations(self) -> dict[int, dict[str, float]]:
        """Return the results of all evaluations by epoch, named as in `measured`."""
        return {epoch: _compared(found) for epoch, found in evaluations(self.history).items()}


def _compared(found: tp.Mapping[str, float]) -> dict[str, float]:
    """Name results as they are compared, without what AudioCraft's evaluation gives a second time."""
    named = {key.split("/")[0] for key in found if "/" in key}
    marked = {name.removeprefix(AUDIOCRAFT) for name in named}
    twice = {key for key in AUDIOCRAFT_QUANTITIES if any(name.startswith(f"{key}_") for name in marked)}
    numbers = {key: value for key, value in found.items() if isinstance(value, int | float)}
    return {comparable(key): value for key, value in numbers.items() if key not in twice}


class Statistic(tp.NamedTuple):
    """Values of one metric over the runs of an arm, and half the 95 % intervals over clips of those that have one."""

    values: tuple[float, ...]
    intervals: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Return the mean of the values."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Return the sample's standard deviation (n - 1); None = there is a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> float | None:
        """Return half the 95 % interval of one run over its clips, as root mean square; None = no run has one."""
        if not self.intervals:
            return None
        return math.sqrt(statistics.fmean(half**2 for half in self.intervals))

    def relative(self, baseline: Statistic) -> float | None:
        """Return by how many % the mean is above the baseline's; None = that one is zero."""
        return (self.mean - baseline.mean) / abs(baseline.mean) * 100 if baseline.mean else None

    def overlaps(self, other: Statistic) -> bool | None:
        """Return whether the ±1 standard deviation intervals overlap; None = one of them has no deviation."""
        if self.deviation is None or other.deviation is None:
            return None
        return abs(self.mean - other.mean) <= self.deviation + other.deviation


@dataclass
class Arm:
    """Runs that differ only in their seed.

    Args:
        name: what makes it differ from the other arms.
        settings: the same, key → value.
        runs: those that count.
    """

    name: str
    settings: Settings
    runs: list[GridRun]

    @property
    def metrics(self) -> dict[str, Statistic]:
        """Return each metric's statistic over the runs that have a finite value of it."""
        found: dict[str, list[tuple[float, float | None]]] = {}
        for run in self.runs:
            for name, value in run.measured.items():
                if math.isfinite(value):
                    found.setdefault(name, []).append((value, run.intervals.get(name)))
        return {
            name: Statistic(tuple(value for value, _ in some), tuple(half for _, half in some if half is not None))
            for name, some in found.items()
        }


@dataclass
class Sweep:
    """A grid's arms, in the order in which it launched them.

    Args:
        name: the grid's.
        common: settings that all runs share and that are not defaults.
        arms: those with a run that counts.
        left_out: runs that do not count, with the name of their arm.
    """

    name: str
    common: Settings
    arms: list[Arm]
    left_out: list[tuple[str, GridRun]]

    @property
    def metrics(self) -> list[str]:
        """Return the names of all metrics."""
        return list(dict.fromkeys(name for arm in self.arms for name in arm.metrics))

    def best(self, metric: str) -> float | None:
        """Return the best mean of a metric; None = the direction is not known, or one arm alone has it."""
        means = [arm.metrics[metric].mean for arm in self.arms if metric in arm.metrics]
        more = more_is_better(metric)
        if more is None or len(means) < 2:
            return None
        return max(means) if more else min(means)

    def arm(self, text: str) -> Arm:
        """Return the arm of that name, or the only one whose name holds the text.

        Raises:
            ValueError: there is none, or there are several.
        """
        exact = [arm for arm in self.arms if text == arm.name or text in _choices(arm)]
        found = exact or [arm for arm in self.arms if text in arm.name]
        if len(found) != 1:
            names = "; ".join(arm.name for arm in found or self.arms)
            raise ValueError(f"{'several arms are' if found else 'no arm is'} called {text!r}: choose one of {names}")
        return found[0]


def _choices(arm: Arm) -> set[str]:
    """Return short names of an arm: its only setting's value, or the last part of it ("none" of qamdt/none)."""
    if len(arm.settings) != 1:
        return set()
    value = str(next(iter(arm.settings.values())))
    return {value, value.split("/")[-1]}


def find_grid(name: str) -> list[GridRun]:
    """Read the runs of a grid that was started, in the order in which it launched them.

    Raises:
        ValueError: there is no such grid in Dora's folder, or nothing in it.
    """
    from ..train import main

    grids = grids_folder(main)
    started = {folder.name: list(folder.iterdir()) for folder in sorted(grids.glob("*")) if folder.is_dir()}
    links = sorted(started.get(name, []), key=lambda link: (link.lstat().st_mtime_ns, link.name))
    if not links:
        raise ValueError(
            f"no grid {name!r} was started in {main.dora.dir} (there: {', '.join(started) or 'none'}): start it with "
            f"`qamdt grid {name}`, or set AUDIOCRAFT_DORA_DIR to where it ran"
        )
    return [_read(main, link) for link in tqdm(links, "reading runs", leave=False)]


def _read(main: HydraMain, link: Path) -> GridRun:
    try:
        xp = main.get_xp_from_sig(link.name)
        given, parts = (_without_seeds(main, settings) for settings in (_given(xp), dict(xp.delta or [])))
    except RuntimeError:
        return GridRun(link.name, problem="was not started")
    except overrides.ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        return GridRun(link.name, problem=f"its arguments do not fit the configuration any more: {reason}")
    if xp.sig != link.name:
        logger.warning("%s: the configuration changed since it ran, its signature would be %s now", link.name, xp.sig)
        xp = XP(xp.dora, xp.cfg, xp.argv, xp.delta, link.name)
    sheep = LocalSheep(xp, main)
    return GridRun(link.name, given, parts, xp.cfg, sheep.history, _problem(sheep), _intervals(sheep))


def _intervals(sheep: LocalSheep) -> dict[str, float]:
    measured = evaluations(sheep.history)
    found = read_intervals(sheep.xp.folder, max(measured)) if measured else {}
    return {comparable(key): half for key, half in found.items()}


def _given(xp: XP) -> Settings:
    """Return overrides that the experiment was started with, but for those that do not change what it computes."""
    pairs = (argument.lstrip("+").split("=", 1) for argument in xp.argv if "=" in argument)
    return {key: value.strip("'\"") for key, value in pairs if not xp.dora.is_excluded(key)}


def _without_seeds(main: HydraMain, settings: Settings) -> Settings:
    """Return the settings that make an arm; an experiment that a run continues from counts as its settings."""
    left = {key: value for key, value in settings.items() if key not in (*SEEDS, *STORES)}
    source = str(left.get(SOURCE))
    if source.startswith(SIGNATURE):
        other = _without_seeds(main, _given(main.get_xp_from_sig(source.removeprefix(SIGNATURE))))
        left[SOURCE] = f"({' '.join(f'{key}={value}' for key, value in other.items())})"
    return left


def _problem(sheep: LocalSheep) -> str:
    """Return why a run is not finished or has no results; "" = it is finished and has some."""
    if sheep.finished:
        return "" if evaluations(sheep.history) else "finished, but nothing was evaluated (evaluate.metrics)"
    epochs = 1 if sheep.xp.cfg.execute_only else sheep.xp.cfg.optim.epochs
    done = f"{len(sheep.history)} of {epochs} epochs done"
    if owner := sheep.owner():
        return f"{done}, running as {owner.get('pid', 'another process')}"
    job = Sheep(sheep.xp)
    if job.job is not None and shutil.which("sacct"):
        return f"{done}, job {job.current_job_id} {job.state()}, log {job.log}"
    return f"{done}, log {sheep.log}" if sheep.log.exists() else done


def make_sweep(name: str, runs: list[GridRun], *, unfinished: bool = False) -> Sweep:
    """Sort runs into arms.

    Args:
        name: the grid's.
        runs: its runs.
        unfinished: count also those that are not finished, as far as they were evaluated.
    Raises:
        ValueError: no run counts, naming what is the matter with the first.
    """
    readable = [run for run in runs if run.config is not None]
    grouped: dict[str, list[GridRun]] = {}
    for run in readable:
        grouped.setdefault(json.dumps(run.parts, sort_keys=True), []).append(run)
    arms, common = _name([group[0] for group in grouped.values()])
    left_out = [("", run) for run in runs if run.config is None]
    for arm, group in zip(arms, grouped.values(), strict=True):
        for run in group:
            if run.problem and not (unfinished and run.measured):
                left_out.append((arm.name, run))
            else:
                arm.runs.append(run)
    counted = [arm for arm in arms if arm.runs]
    if not counted:
        title, run = left_out[0]
        raise ValueError(f"grid {name}: none of its {len(runs)} runs counts; {run.signature} ({title}): {run.problem}")
    return Sweep(name, common, counted, left_out)


def _name(runs: list[GridRun]) -> tuple[list[Arm], Settings]:
    """Return arms, still empty, for runs that differ in more than seeds, and what they have in common.

    They are named by what they were started with. A choice that some did not make counts only where nothing else tells
    them apart (two grids may start one experiment, each naming what it varies), and the whole configuration after that.
    """
    for source, known in (("given", True), ("given", False), ("parts", False)):
        keys = dict.fromkeys(key for run in runs for key in getattr(run, source))
        varying = [key for key in keys if len({run.setting(key) for run in runs} - ({DEFAULT} if known else set())) > 1]
        settings = [{key: run.setting(key) for key in varying} for run in runs]
        names = [" ".join(f"{key}={value}" for key, value in chosen.items()) or "all runs" for chosen in settings]
        if len(set(names)) == len(names):
            break
    common = {key: run.setting(key) for run in reversed(runs) for key in getattr(run, source) if key not in varying}
    return [Arm(name, chosen, []) for name, chosen in zip(names, settings, strict=True)], common


def remarks(sweep: Sweep) -> list[str]:
    """Return caveats of the means: missing seeds, metrics that do not compare, values that are not numbers."""
    found = []
    seeds: dict[int, list[str]] = {}
    for arm in sweep.arms:
        seeds.setdefault(len(arm.runs), []).append(arm.name)
    if len(seeds) > 1:
        number = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(seeds.items()))
        found.append(f"Arms have unequal numbers of seeds ({number}).")
    if 1 in seeds:
        found.append("Where an arm has one seed there is no standard deviation (–).")
    conditions: dict[str, list[str]] = {}
    for metric in sweep.metrics:
        name, _, condition = metric.partition("/")
        conditions.setdefault(name, []).append(condition)
    differing = dict.fromkeys(" and ".join(some) for some in conditions.values() if len(some) > 1)
    found += [f"Numbers of {names} do not compare: each has columns of its own." for names in differing]
    for arm in sweep.arms:
        for run in arm.runs:
            bad = [name for name, value in run.measured.items() if not math.isfinite(value)]
            if bad:
                found.append(f"Left out of {arm.name}, not finite in {run.signature}: {', '.join(bad)}.")
            if run.problem:
                found.append(f"Counted though not finished: {run.signature} ({arm.name}), {run.problem}.")
    return found
