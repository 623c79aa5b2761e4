"""`qamdt grid`: a Dora grid on this machine, in the folders in which `dora grid` runs it on SLURM."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import signal
import sys
import time
import typing as tp
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dora.explore import Explorer, Herd, Launcher
from dora.grid import RunGridArgs, monitor
from dora.hydra import HydraMain
from dora.shep import Shepherd

from ..compat import CONFIG_ROOT
from ..utils.dora import grids_folder, select_experiments
from . import overrides
from .process import LocalSheep, stop

SIGNATURE = "//sig/"
"""Before a signature in `continue_from`."""

POLL = 1.0
"""Seconds between two looks at the processes."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Options:
    """Settings of a grid's run.

    Args:
        jobs: experiments at once; with devices, on each of them.
        devices: for CUDA_VISIBLE_DEVICES, one process each; none = whatever the environment lets a process see.
        patterns: Dora's: parts of names, `!part` to exclude, or indices.
        retries: how often a failed experiment is started again.
        init: make the experiments' folders, so that their signatures can be referred to.
        dry_run: show what there is and start nothing.
    """

    jobs: int = 1
    devices: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    retries: int = 0
    init: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.retries < 0:
            raise ValueError(f"--jobs {self.jobs} --retries {self.retries}: give at least 1 and 0")
        if len(set(self.devices)) < len(self.devices):
            raise ValueError(f"--devices {','.join(self.devices)} names a device twice: --jobs runs several on each")

    @property
    def places(self) -> list[str]:
        """Return a device for each experiment that runs at the same time."""
        return (self.devices or [""]) * self.jobs

    @property
    def threads(self) -> int:
        """Return the threads of each experiment: all experiments together have one for each core."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // len(self.places))


# ---- which experiments


def find_explorer(main: HydraMain, name: str) -> Explorer:
    """Return the explorer of a grid file of `dora.grid_package`, from the working directory or else this checkout.

    Raises:
        ValueError: there is no such file, or no explorer in it.
    """
    for folder in (str(CONFIG_ROOT.parent), os.getcwd()):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    package = main.dora.grid_package or f"{main.package}.grids"
    root = Path(tp.cast(str, importlib.import_module(package).__file__)).parent
    if not (root / f"{name.replace('.', '/')}.py").exists():
        raise ValueError(f"{root} has no grid {name}: choose one of {', '.join(grid_names(root))}")
    explorer = getattr(importlib.import_module(f"{package}.{name}"), "explorer", None)
    if not isinstance(explorer, Explorer):
        raise ValueError(f"{package}.{name} has no `explorer` that is a dora.Explorer")
    return explorer


def grid_names(root: Path) -> list[str]:
    """Return names of the grid files under a folder; those with an underscore are none."""
    paths = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py") if not path.name.startswith("_"))
    return sorted(".".join(path.parts) for path in paths)


class _LocalShepherd(Shepherd):
    def get_sheep_from_argv(self, argv: tp.Sequence[str]) -> LocalSheep:
        main = tp.cast(HydraMain, self.main)
        return LocalSheep(overrides.checked(main, argv), main)


def collect(main: HydraMain, explorer: Explorer) -> list[LocalSheep]:
    """Return all experiments of a grid, each once.

    Raises:
        ValueError: naming an override that is none of the config.
    """
    herd = Herd()
    explorer(Launcher(_LocalShepherd(main), main.get_slurm_config(), herd))
    return tp.cast(list[LocalSheep], list(herd.sheeps.values()))


def link(main: HydraMain, name: str, sheep: tp.Sequence[LocalSheep]) -> None:
    """Let the grid's folder hold a link to each experiment's folder and to no other, as `dora grid` does.

    The links' times say in which order the grid launched them: a file system's own clock gives many the same time.
    """
    folder = grids_folder(main) / name
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {one.xp.sig: one.xp.folder.resolve() for one in sheep}
    for child in folder.iterdir():
        if child.is_symlink() and (child.name not in wanted or child.resolve() != wanted[child.name]):
            child.unlink(missing_ok=True)
    now = time.time_ns()
    for place, (sig, target) in enumerate(wanted.items()):
        try:
            (folder / sig).symlink_to(target)
        except FileExistsError:  # right already, or another runner was faster
            pass
        os.utime(folder / sig, ns=(now, now + place * 1_000_000), follow_symlinks=False)


# ---- running them


class Runner:
    """Runs the unfinished experiments of a grid, as many at once as there are places.

    Args:
        main: decorated by Dora.
        name: of the grid.
        explorer: that has its table.
        sheep: its experiments.
        options: how to run them.
        screen: what shows events and the table.
    """

    def __init__(
        self,
        main: HydraMain,
        name: str,
        explorer: Explorer,
        sheep: list[LocalSheep],
        options: Options,
        screen: Screen,
    ) -> None:
        self.main, self.name, self.explorer, self.sheep = main, name, explorer, sheep
        self.options, self.screen = options, screen
        self.queue = [one for one in sheep if not one.finished]

    def run(self) -> int:
        """Run until every experiment is finished or has failed.

        Returns:
            Number of failed ones.
        Raises:
            KeyboardInterrupt: when interrupted or asked to end; the processes are stopped by then.
        """
        self.screen.event(f"{self.name}: {len(self.queue)} of {len(self.sheep)} experiments to run")
        with _signals_interrupt():
            try:
                while self.queue or any(one.process for one in self.sheep):
                    self._reap()
                    self._fill()
                    self.screen.show(self)
                    time.sleep(POLL)
            finally:
                if stopped := stop(self.sheep):
                    self.screen.event(f"stopped {stopped}; the same command resumes from their last checkpoints")
        self.screen.show(self, last=True)
        return sum(one.gave_up for one in self.sheep)

    def _reap(self) -> None:
        for one in self.sheep:
            if one.process is None or one.running:
                continue
            status, one.process = one.process.returncode, None
            if one.finished:
                self.screen.event(f"finished {self.label(one)}")
                continue
            one.failures += 1
            how = f"ended with exit status {status}" if status else "ended before it was finished"
            self.screen.event(f"FAILED {self.label(one)}: {how}. Last lines of {one.log}:", *one.tail())
            if one.failures <= self.options.retries:
                self.queue.append(one)
            else:
                one.gave_up = True

    def _fill(self) -> None:
        for one in list(self.queue):
            if one.owner() is not None:
                continue
            if one.finished:  # by another runner
                self.queue.remove(one)
                continue
            if self._waits(one):
                continue
            places = self._free()
            if not places:
                return
            if one.start(places[0], self.options.threads):
                self.queue.remove(one)
                where = f" on device {places[0]}" if places[0] else ""
                self.screen.event(f"started {self.label(one)}{where}, log {one.log}")

    def _waits(self, one: LocalSheep) -> bool:
        """Return whether it continues from an experiment of this grid that is not finished; give up if that one did."""
        name = str(one.xp.cfg.get("continue_from")).removeprefix(SIGNATURE)
        source = next((other for other in self.sheep if other.xp.sig == name), None)
        if source is None or source.finished:
            return False
        if source.gave_up:
            self.queue.remove(one)
            one.gave_up = True
            self.screen.event(f"FAILED {self.label(one)}: {name}, which it continues from, failed")
        return True

    def _free(self) -> list[str]:
        """Return places where nothing of this grid runs, started by us or by another runner of this machine."""
        taken = Counter(one.place for one in self.sheep if one.running)
        owners = (one.owner() for one in self.sheep if not one.running)
        host = os.uname().nodename
        taken.update(str(owner.get("place", "")) for owner in owners if owner and owner.get("host") == host)
        return list((Counter(self.options.places) - taken).elements())

    def label(self, one: LocalSheep) -> str:
        """Return the signature and name of an experiment, without what all of the grid have in common."""
        names, _ = self.main.get_names([other.xp for other in self.sheep])
        return f"{one.xp.sig} {names[self.sheep.index(one)]}".rstrip()

    def table(self) -> list[str]:
        """Return the lines of Dora's table."""
        lines: list[str] = []

        def collect_line(*parts: object, **_: object) -> None:
            lines.extend(" ".join(map(str, parts)).splitlines())

        monitor(RunGridArgs(), self.main, self.explorer, tp.cast(list, self.sheep), collect_line)
        return lines

    def progress(self) -> list[tuple]:
        """Return the values that the table depends on."""
        files = (one.xp.history for one in self.sheep)
        return [
            (one.state(), file.stat().st_mtime_ns if file.exists() else 0)
            for one, file in zip(self.sheep, files, strict=True)
        ]


class Screen:
    """Shows events and the table: on a terminal redrawn in place when something changes; else line by line, with the
    table at the end.

    Args:
        say: prints lines.
        terminal: whether they go to a terminal.
    """

    def __init__(self, say: Callable[[tp.Iterable[str]], None], terminal: bool) -> None:
        self.say, self.terminal = say, terminal
        self._events: list[str] = []
        self._shown: object = None

    def event(self, *lines: str) -> None:
        """Print lines about an event."""
        stamped = [f"[{time.strftime('%H:%M:%S')}] {lines[0]}", *(f"    {line}" for line in lines[1:])]
        self._events = [*self._events, *stamped][-20:]
        self._shown = None
        self.say(stamped)

    def show(self, runner: Runner, last: bool = False) -> None:
        """Print the table if it is due."""
        if not self.terminal and not last:
            return
        progress = runner.progress()
        if progress == self._shown and not last:
            return
        self._shown = progress
        table = runner.table()
        if self.terminal:
            self.say(["\x1b[H\x1b[2J" + table[0], *table[1:], "", *self._events])
        else:
            self.say(_COLOURS.sub("", line) for line in table)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let what asks a process to end be what Ctrl-C is; what the parent chose to ignore stays ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_grid(main: HydraMain, name: str, options: Options, screen: Screen) -> int:
    """Run a grid to its end on this machine; what is finished is not run again.

    Args:
        main: decorated by Dora.
        name: of a grid file, e.g. qamdt.mask_ratio.
        options: how to run it.
        screen: what shows how it goes.
    Returns:
        Number of experiments that failed.
    Raises:
        ValueError: an unknown grid or override, before anything is started; nothing that matches the patterns.
    """
    explorer = find_explorer(main, name)
    everything = collect(main, explorer)
    chosen: list[LocalSheep] = select_experiments(options.patterns, main, everything)
    if not chosen:
        raise ValueError(f"no experiment of {name} matches {' '.join(options.patterns)}")
    if options.init:
        for one in chosen:
            main.init_xp(one.xp)
    runner = Runner(main, name, explorer, chosen, options, screen)
    if options.dry_run:
        screen.show(runner, last=True)
        return 0
    link(main, name, everything)
    return runner.run()
