"""Grids in Dora's own format, as `dora grid` leaves them: real experiments, of which a test writes the histories."""

from __future__ import annotations

import typing as tp
from pathlib import Path

from .runs import main_in

RECIPE = ["solver=qamdt/debug", "dset=folder", "folder=nowhere", "optim.epochs=2"]


def evaluated(epochs: int = 2, size: int = 64, **metrics: float) -> list[dict[str, dict[str, float]]]:
    """A history with the solver's keys, whose last epoch was evaluated on `size` clips."""
    suffix = f"evaluate_n{size}/best1_seed0"
    names = {name: name if name == "loss" else f"{name}_playground/{suffix}" for name in metrics}
    values = {names[name]: value for name, value in metrics.items()}
    epoch = {"train": {"loss": 1.0, "duration": 1.0}, "valid": {"loss": 1.0}}
    return [*({**epoch} for _ in range(epochs - 1)), {**epoch, "evaluate": {**values, "duration": 2.0}}]


def add_run(outputs: Path, grid: str, history: list[dict[str, tp.Any]] | None, *argv: str) -> str:
    """Link an experiment into a grid; None = it was only scheduled.

    Returns:
        Its signature.
    """
    main = main_in(outputs)
    xp = main.get_xp([*RECIPE, *argv])
    main.init_xp(xp)
    link = outputs / "grids" / grid / xp.sig
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(xp.folder)
    if history is not None:
        xp.link.update_history(history)
    return xp.sig
