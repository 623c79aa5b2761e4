"""The table that all grids of this folder show, and the check of their overrides."""

from __future__ import annotations

import typing as tp

import treetable as tt
from dora.explore import Herd, Launcher
from dora.log import fatal

from audiocraft_qamdt.compat import prepare
from audiocraft_qamdt.metrics.table import quantity
from audiocraft_qamdt.sweeps import overrides

prepare()

from audiocraft.grids._base_explorers import BaseExplorer, get_sheep_ping  # noqa: E402

COLUMNS = {
    "fad": ("frechet", "fad"),
    "kl": ("kl", "kld"),
    "is": ("inception",),
    "clap": ("clap", "text_consistency"),
    "pmos": ("pmos",),
    "silent": ("silent",),
}
"""Column → quantities that it shows, the first that was measured: ours, then AudioCraft's."""


def find_metric(values: tp.Mapping[str, float], name: str) -> float | None:
    """A quantity among logged metrics, with several networks the first of them; None = not measured."""
    return next((value for key, value in values.items() if quantity(key) == name), None)


class _Recorder(Herd):
    """Keeps what a grid would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.argvs: list[list[str]] = []

    def add_sheep(self, shepherd: tp.Any, argv: list[str], *args: tp.Any, **kwargs: tp.Any) -> None:
        self.argvs.append(argv)


class QAMDTExplorer(BaseExplorer):
    """Explorer of a QA-MDT grid: an override that the config cannot take ends it with one line, nothing submitted."""

    def __call__(self, launcher: Launcher) -> None:
        fresh = launcher._copy()
        try:
            self.explore(launcher)
            for pending in launcher._herd._pendings:
                pending.result()
        except Exception as error:  # Dora's pool wraps whatever Hydra raised
            try:
                self._check(fresh)
            except ValueError as clear:
                fatal(str(clear))
            raise error
        try:
            for sheep in launcher._herd.sheeps.values():
                overrides.check_kinds(launcher._main, sheep.xp)
        except ValueError as wrong:
            fatal(str(wrong))

    def _check(self, launcher: Launcher) -> None:
        recorder = _Recorder()
        self.explore(Launcher(launcher._shepherd, launcher._slurm, recorder, launcher._argv))
        for argv in recorder.argvs:
            overrides.checked(launcher._main, argv)

    def get_grid_metrics(self) -> list[tp.Any]:
        train = [tt.leaf("epoch"), tt.leaf("loss", ".4f"), tt.leaf("minutes", ".2f"), tt.leaf("ping")]
        evaluate = [tt.leaf(name, ".3f") for name in COLUMNS]
        return [
            tt.group("train", train, align=">"),
            tt.group("valid", [tt.leaf("loss", ".4f")], align=">"),
            tt.group("evaluate", evaluate, align=">"),
        ]

    def process_sheep(self, sheep: tp.Any, history: list[dict]) -> dict:
        last: dict[str, dict[str, float]] = {}
        for epoch in history:
            last.update(epoch)
        train: dict[str, tp.Any] = {"epoch": len(history)}
        durations = [sum(stage.get("duration", 0.0) for stage in epoch.values()) for epoch in history]
        if durations:
            train["minutes"] = sum(durations) / len(durations) / 60  # of all stages, for each epoch
        parts = {"train": train, "valid": {}, "evaluate": {}}
        for stage in ("train", "valid"):
            if "loss" in last.get(stage, {}):
                parts[stage]["loss"] = last[stage]["loss"]
        for column, quantities in COLUMNS.items():
            found = (find_metric(last.get("evaluate", {}), quantity) for quantity in quantities)
            value = next((value for value in found if value is not None), None)
            if value is not None:
                parts["evaluate"][column] = value
        if ping := get_sheep_ping(sheep):
            train["ping"] = ping
        return parts
