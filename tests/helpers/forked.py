"""`dora` and `qamdt` as processes that are forked from one that has imported everything: they start in no time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import typing as tp
from importlib import import_module
from pathlib import Path

from audiocraft_qamdt.compat import CONFIG_ROOT, point_to_configs

MODULES = {"dora": "dora.__main__", "qamdt": "audiocraft_qamdt.cli"}
"""The module whose `main` is the program."""

# What a short training imports on its way, too: it takes longer than the training.
IMPORTED = [
    *MODULES.values(),
    "audiocraft_qamdt.train",
    "audiocraft_qamdt.solver",
    "audiocraft_qamdt.metrics.networks",
    "audiocraft_qamdt.playground.classifier",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "torch._dynamo",
    "torch.distributed.checkpoint",
]


class Forked:
    """A process, leader of its session, with the part of `subprocess.Popen` that tests of commands need."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str], folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self.args = command
        self._process = context.Process(target=_run, args=(command, log, environment, folder))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = tp.Union[Forked, subprocess.Popen]  # noqa: UP007


def start(
    program: str, *argv: object, log: Path, folder: Path = CONFIG_ROOT.parent, **environment: str | Path
) -> Process:
    """Start `dora` or `qamdt`.

    Args:
        program: which of the two.
        argv: its arguments.
        log: file that its output is appended to.
        folder: where it runs, by default the checkout.
        environment: what differs from this process's.
    """
    command = [program, *map(str, argv)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}}
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    if sys.platform != "darwin":  # whose frameworks do not survive a fork
        return Forked(command, log, variables, folder)
    command = [sys.executable, "-m", MODULES[program].removesuffix(".__main__"), *command[1:]]
    with open(log, "ab") as file:
        return subprocess.Popen(command, cwd=folder, env=variables, stdout=file, stderr=file, start_new_session=True)


def _run(command: list[str], log: Path, environment: dict[str, str], folder: Path) -> None:
    os.setsid()
    with open(log, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's children ignore it
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # as `python -m` has it
    sys.argv[:] = command
    os.environ.clear()
    os.environ.update(environment)
    _read_environment()
    sys.exit(import_module(MODULES[command[0]]).main())


def _read_environment() -> None:
    """Let AudioCraft and Dora read again what they read when they were imported."""
    from audiocraft_qamdt import train

    from audiocraft.environment import AudioCraftEnvironment

    point_to_configs()
    AudioCraftEnvironment.reset()
    train.main.dora.dir = AudioCraftEnvironment.get_dora_dir()
