"""Experiments in tests: through `dora run` as a subprocess, or a solver in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as tp
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import torch

from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.utils.randomness import seed_libraries

from .forked import Process, start

TINY = [
    "solver=qamdt/debug",
    "mdt.dim=32",
    "mdt.depth=4",
    "mdt.decoder_depth=2",
    "mdt.num_heads=2",
    "num_threads=1",
    "dset=folder",
    "conditioners.description.words.dim=16",
    "mdt.context_dim=16",
    "diffusion.schedule.prediction=epsilon",  # falls fastest where a network is this small
    "logging.log_updates=100",
]

FINE_TUNED = [
    "dset=folder",
    "device=cpu",
    "autocast=false",
    "num_threads=1",
    "dataset.batch_size=4",
    "dataset.valid.num_samples=4",
    "dataset.evaluate.num_samples=2",
    "dataset.generate.num_samples=2",
    "optim.epochs=2",
    "schedule.lr_scheduler=null",
    "generate.every=null",
    "evaluate.every=null",
    "logging.log_updates=100",
]
"""Small runs of the recipes that start from a trained model, which gives them its own settings."""


def one_epoch(folder: Path, *more: str) -> list[str]:
    """The arguments of four updates, without generation and evaluation."""
    short = ["optim.epochs=1", "optim.updates_per_epoch=4", "generate.every=null", "evaluate.every=null"]
    return [*TINY, f"folder={folder}", *short, *more]


def dora(outputs: Path, *argv: str, wait: bool = True) -> Process:
    """`dora run` from the checkout in a process of its own; output in `outputs/log`."""
    process = start("dora", "run", *argv, log=outputs / "log", AUDIOCRAFT_DORA_DIR=outputs)
    if wait:
        process.wait(timeout=600)
    return process


def dora_command(outputs: Path, *argv: str, ddp: int = 0, wait: bool = True) -> subprocess.Popen:
    """`dora run` from the checkout, as a user types it; output in `outputs/log`."""
    outputs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dora", "run"]
    if ddp:
        command += ["-d", "--ddp_workers", str(ddp), "--"]
    environment = {**os.environ, "AUDIOCRAFT_DORA_DIR": str(outputs), "OMP_NUM_THREADS": "1"}
    with open(outputs / "log", "ab") as log:
        process = subprocess.Popen([*command, *argv], cwd=CONFIG_ROOT.parent, env=environment, stdout=log, stderr=log)
    if wait:
        process.wait(timeout=600)
    return process


def log_of(outputs: Path) -> str:
    return (outputs / "log").read_text()


def experiment(outputs: Path, *argv: str) -> Path:
    """Folder of the experiment with these arguments."""
    return main_in(outputs).get_xp(list(argv)).folder


def history(folder: Path) -> list[dict]:
    """Metrics by epoch and stage, without what measures time."""
    epochs = json.loads((folder / "history.json").read_text())
    return [
        {
            stage: {key: value for key, value in metrics.items() if key.split("/")[0] not in ("duration", "rtf")}
            for stage, metrics in epoch.items()
        }
        for epoch in epochs
    ]


def main_in(outputs: Path) -> tp.Any:
    from audiocraft_qamdt.train import main

    main.dora.dir = outputs
    return main


@contextmanager
def solver_in(outputs: Path, *argv: str) -> tp.Iterator[tp.Any]:
    """A solver of this configuration in this process, inside its experiment."""
    from audiocraft_qamdt.train import get_solver

    main = main_in(outputs)
    xp = main.get_xp(list(argv))
    xp.dora = copy(main.dora)  # its folder stays where it is when the next one sets `main.dora.dir`
    main.init_xp(xp)
    with xp.enter():
        seed_libraries(xp.cfg.seed)  # weights are drawn from the global generators, which `train.main` seeds
        yield get_solver(xp.cfg)


@contextmanager
def stopped_and_resumed(outputs: Path, *argv: str) -> tp.Iterator[tp.Any]:
    """A solver whose run ended after its first epoch, and that another one ran to its end."""
    with solver_in(outputs, *argv) as solver:
        solver.restore()
        solver.run_epoch()
        solver.commit()
    with solver_in(outputs, *argv) as solver:
        solver.run()
        yield solver


def checkpoint(folder: Path) -> dict[str, tp.Any]:
    """What an experiment saved last."""
    return torch.load(folder / "checkpoint.th", weights_only=True)


def valid_losses(saved: dict[str, tp.Any]) -> list[float]:
    """The validation losses of a checkpoint's history."""
    return [epoch["valid"]["loss"] for epoch in saved["history"]]
