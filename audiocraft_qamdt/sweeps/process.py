"""One experiment of a grid as a process on this machine: whether it is finished, who runs it, start and stop."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing as tp
from pathlib import Path

from dora.hydra import HydraMain
from dora.shep import Sheep
from dora.xp import XP

LOG = "local.log"
LOCK = ".local.lock"
GRACE = 10.0
"""Seconds between asking a process to end and ending it."""


class LocalSheep(Sheep):
    """Dora's view of an experiment (state, log, job) where a process of this machine runs it.

    The process itself holds a lock on a file of the experiment's folder: whatever is killed, the next runner finds
    the lock taken exactly as long as the process lives.

    Args:
        xp: Dora's experiment.
        main: that defines it.
    """

    def __init__(self, xp: XP, main: HydraMain) -> None:
        super().__init__(xp)
        self.main = main
        self.process: subprocess.Popen | None = None
        self.place = ""
        self.failures = 0
        self.gave_up = False

    # ---- what Dora's table asks

    def state(self, mode: str = "standard") -> str | None:
        if self.finished:
            return "COMPLETED"
        if self.running or self.owner() is not None:
            return "RUNNING"
        if self.gave_up:
            return "FAILED"
        return "PENDING"

    def is_done(self, mode: str = "standard") -> bool:
        return self.state(mode) in ("COMPLETED", "FAILED")

    @property
    def current_job_id(self) -> str | None:
        if self.running:
            return str(tp.cast(subprocess.Popen, self.process).pid)
        owner = None if self.finished else self.owner()
        return None if owner is None else str(owner.get("pid", "?"))

    @property
    def log(self) -> Path:
        return self.xp.folder / LOG

    # ---- what the runner asks

    @property
    def history(self) -> list[dict]:
        """Return the metrics by epoch and stage, of the epochs that are complete."""
        return self.main.get_xp_history(self.xp)

    @property
    def finished(self) -> bool:
        """Return whether the history holds all epochs and the last evaluation, or the only stage that is to run."""
        history, only = self.history, self.xp.cfg.get("execute_only")
        if only:
            return bool(history) and only in history[-1]
        epochs = self.xp.cfg.optim.epochs
        return len(history) >= epochs and "evaluate" in history[epochs - 1]

    @property
    def running(self) -> bool:
        """Return whether a process of this runner runs it."""
        return self.process is not None and self.process.poll() is None

    def owner(self) -> dict[str, object] | None:
        """Return who else runs it: pid, host and place of another runner's process, or SLURM's job; None = no other."""
        if self.job is not None and shutil.which("sacct") and not super().is_done():
            return {"pid": self.job.job_id}
        path = self.xp.folder / LOCK
        if self.running or not path.exists():
            return None
        with open(path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = lock.read()
                return json.loads(text) if text else {}
        return None

    def start(self, place: str, threads: int) -> bool:
        """Start it, from its checkpoint where there is one; False where it turns out to be another's, or finished.

        Args:
            place: device for CUDA_VISIBLE_DEVICES; "" = as the environment has it.
            threads: most that it may compute with.
        """
        self.main.init_xp(self.xp)
        with open(self.xp.folder / LOCK, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            if self.finished:
                return False
            self.process, self.place = self._open(place, threads, lock.fileno()), place
            lock.truncate(0)
            lock.write(json.dumps({"pid": self.process.pid, "host": socket.gethostname(), "place": place}))
        return True  # the process has the lock; closing our copy does not give it up

    def _open(self, place: str, threads: int, lock: int) -> subprocess.Popen:
        threads = max(1, min(threads, self.xp.cfg.num_threads))  # not in the signature
        command = [sys.executable, "-m", "dora", "run", *self.xp.argv, f"num_threads={threads}"]
        environment = {
            **os.environ,
            "DORA_PACKAGE": self.main.package,
            "DORA_MAIN_MODULE": self.main.main_module,
            "AUDIOCRAFT_DORA_DIR": str(self.main.dora.dir.resolve()),
            **({"CUDA_VISIBLE_DEVICES": place} if place else {}),
        }
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        with open(self.log, "ab") as log:
            # A session of its own: Ctrl-C reaches the runner alone, which ends it with all its worker processes.
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, pass_fds=(lock,), start_new_session=True
            )

    def tail(self, lines: int = 12) -> list[str]:
        """Return the last lines of the log."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 20_000))
            return log.read().decode(errors="replace").rstrip().splitlines()[-lines:]


def stop(sheep: tp.Iterable[LocalSheep]) -> int:
    """End the processes of ours that run, and their workers; what they have saved is whole.

    Returns:
        How many ran.
    """
    running = [one for one in sheep if one.running]
    deadline = time.monotonic() + GRACE
    for one in running:
        _signal(one, signal.SIGTERM)
    for one in running:
        try:
            tp.cast(subprocess.Popen, one.process).wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        _signal(one, signal.SIGKILL)  # the session's other processes too, if any is left
        tp.cast(subprocess.Popen, one.process).wait()
    return len(running)


def _signal(one: LocalSheep, number: signal.Signals) -> None:
    try:
        os.killpg(tp.cast(subprocess.Popen, one.process).pid, number)
    except ProcessLookupError:
        pass
