"""Everything that reaches into Dora's private names: Dora 0.1 has no public ones for these."""

from __future__ import annotations

import typing as tp
from pathlib import Path

from dora.explore import Herd, Launcher
from dora.grid import _filter_grid_sheeps
from dora.hydra import HydraMain
from dora.shep import Sheep, Shepherd
from omegaconf import DictConfig

S = tp.TypeVar("S", bound=Sheep)


def base_config(main: HydraMain) -> DictConfig:
    """Return the config of a decorated `main` without overrides."""
    return main._base_cfg


def config_groups(main: HydraMain) -> tp.Collection[str]:
    """Return the names of the config's groups, whose overrides choose a file."""
    return main._config_groups


def read_arguments_by(main: HydraMain, read: tp.Callable[[], list[str]]) -> None:
    """Let a decorated `main` take its overrides from a function, not from `sys.argv`."""
    vars(main)["_get_argv"] = read


def compose_bases_once(main: HydraMain) -> None:
    """Let a decorated `main` compose each base config once: Dora compares every experiment with that of its groups."""
    compose, known = main._get_base_config, {}

    def base_of(overrides: tp.Sequence[str] = ()) -> tuple[DictConfig, list[tuple[str, str]]]:
        chosen = tuple(one for one in overrides if one.split("=", 1)[0] in main._config_groups)
        if chosen not in known:
            known[chosen] = compose(list(chosen))
        config, delta = known[chosen]
        return config, list(delta)

    vars(main)["_get_base_config"] = base_of


def grids_folder(main: HydraMain) -> Path:
    """Return the folder that holds a folder of links to experiments for each grid."""
    return main.dora.dir / main.dora._grids


def select_experiments(patterns: tp.Sequence[str], main: HydraMain, experiments: tp.Iterable[S]) -> list[S]:
    """Select experiments of a grid as `dora grid` does: by parts of names, `!part` to exclude, or indices."""
    return tp.cast("list[S]", _filter_grid_sheeps(list(patterns), main, list(experiments)))


def main_of(launcher: Launcher) -> HydraMain:
    """Return the decorated `main` whose experiments a grid's launcher schedules."""
    return tp.cast(HydraMain, launcher._main)


def argv_of(launcher: Launcher) -> list[str]:
    """Return the overrides that a launcher gives every experiment."""
    return list(launcher._argv)


def copy_of(launcher: Launcher) -> Launcher:
    """Return a launcher with the same overrides, which further ones do not change."""
    return launcher._copy()


def scheduled(launcher: Launcher) -> list[Sheep]:
    """Wait until all experiments of a launcher are scheduled, and return them.

    Raises:
        Exception: whatever Hydra raised for an override, in the wrapping of Dora's process pool.
    """
    for pending in launcher._herd._pendings:
        pending.result()
    return list(launcher._herd.sheeps.values())


class _Recorder(Herd):
    """Keeps what a grid would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.argvs: list[list[str]] = []

    def add_sheep(self, shepherd: Shepherd, argv: list[str], *args: object, **kwargs: object) -> None:
        self.argvs.append(argv)


def recorded(explore: tp.Callable[[Launcher], None], launcher: Launcher) -> list[list[str]]:
    """Return the overrides of every experiment that `explore` would launch; none is scheduled."""
    recorder = _Recorder()
    explore(Launcher(launcher._shepherd, launcher._slurm, recorder, launcher._argv))
    return recorder.argvs
