"""The table that all grids of this folder show, and the check of their overrides."""

from __future__ import annotations

import typing as tp

import treetable as tt
from dora.explore import Launcher
from dora.log import fatal

from audiocraft_qamdt.metrics.table import quantity
from audiocraft_qamdt.sweeps import overrides
from audiocraft_qamdt.utils import prepared
from audiocraft_qamdt.utils.dora import copy_of, main_of, recorded, scheduled

from audiocraft.grids._base_explorers import BaseExplorer, get_sheep_ping

COLUMNS = {
    "frechet": ("frechet", "audiocraft_fad", "fad"),
    "kl": ("kl", "audiocraft_kld", "kld"),
    "inception": ("inception",),
    "agreement": ("agreement",),
    "clap": ("clap", "audiocraft_text_consistency", "text_consistency"),
    "pmos": ("pmos",),
    "silent": ("silent",),
}
"""Column → quantities that it shows, the first that was measured: ours, then AudioCraft's (older runs: unmarked)."""


def find_metric(values: tp.Mapping[str, float], name: str) -> float | None:
    """A quantity among logged metrics, with several networks the first of them; None = not measured."""
    return next((value for key, value in values.items() if quantity(key) == name), None)


class QAMDTExplorer(BaseExplorer):
    """Explorer of a QA-MDT grid: an override that the config cannot take ends it with one line, nothing submitted."""

    def __call__(self, launcher: Launcher) -> None:
        fresh = copy_of(launcher)
        try:
            self.explore(launcher)
            experiments = scheduled(launcher)
        except Exception as error:  # Dora's pool wraps whatever Hydra raised
            try:
                self._check(fresh)
            except ValueError as clear:
                fatal(str(clear))
            raise error
        try:
            for sheep in experiments:
                overrides.check_kinds(main_of(launcher), sheep.xp)
        except ValueError as wrong:
            fatal(str(wrong))

    def _check(self, launcher: Launcher) -> None:
        for argv in recorded(self.explore, launcher):
            overrides.checked(main_of(launcher), argv)

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
