"""`dora grid` on a real SLURM: a job array to its end, and jobs that are cancelled, preempted, or fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import typing as tp
from collections.abc import Callable
from pathlib import Path

import pytest

from audiocraft_qamdt.compat import CONFIG_ROOT

from ..helpers.audio_folder import make_folder
from ..helpers.runs import TINY, history

ROOT = CONFIG_ROOT.parent
RUN = [
    *(argument for argument in TINY if not argument.startswith("solver=")),
    "optim.updates_per_epoch=2",
    "dataset.batch_size=2",
    "dataset.valid.num_samples=2",
    "dataset.evaluate.num_samples=2",
    "generate.steps=2",
    "generate.every=null",
    "evaluate.every=null",  # after the last epoch only
]
# The node has 8 declared CPUs: two runs at a time.
ASKED = "gpus=0 cpus=4 mem=1 time=30"

pytestmark = pytest.mark.slow


class Grids:
    """What a user types, in a folder and with outputs of a test's own."""

    def __init__(self, outputs: Path, folder: Path, **environment: str) -> None:
        self.outputs, self.folder = outputs, folder
        self.environment = {**os.environ, "AUDIOCRAFT_DORA_DIR": str(outputs), "QAMDT_SLURM": ASKED}
        self.environment |= {"OMP_NUM_THREADS": "1", "DORA_PACKAGE": "audiocraft_qamdt", **environment}
        # Jobs start in a folder of the test, where `audiocraft_qamdt` is not.
        self.environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])

    def __call__(self, *argv: str) -> str:
        """Output of a module's command, which must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", *argv], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dora(self, *argv: str) -> dict[str, str]:
        """State of each signature, as `dora grid` shows them at the end."""
        told = re.sub(r"\x1b\[[0-9;]*m", "", self("dora", "grid", "--no_monitoring", *argv))
        return {row[2]: row[1] for row in re.findall(r"^ *\d+ +(\S.*?)? *\b([A-Z/]{3}) +([0-9a-f]{8})", told, re.M)}

    def job(self, signature: str) -> str:
        return json.loads((self.xp(signature) / "job.json").read_text())["job_id"]

    def xp(self, signature: str) -> Path:
        return self.outputs / "xps" / signature

    def epochs(self, signature: str) -> int:
        path = self.xp(signature) / "history.json"
        return len(json.loads(path.read_text())) if path.exists() else 0

    def log(self, signature: str) -> str:
        return "".join(
            path.read_text() for path in (self.xp(signature) / "latest").glob(f"{self.job(signature)}_*log.out")
        )


def wait_for(what: Callable[[], tp.Any], seconds: float = 900) -> None:  # machines that others use are slow
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.5)


def states(job: str) -> list[str]:
    """SLURM's, for each job of an array."""
    command = ["sacct", "-X", "-n", "-P", "-o", "State", "-j", job]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def ended(job: str) -> bool:
    return not subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True).stdout


def test_four_runs_of_a_grid_of_ours_as_a_job_array(slurm, tmp_path):
    folder = make_folder(tmp_path / "audio", tracks=4)
    arguments = " ".join([*RUN, "optim.epochs=1", f"folder={folder}"])
    recipe = {"QAMDT_SOLVER": "qamdt/debug", "QAMDT_EVALUATION": "none", "QAMDT_SEEDS": "1", "QAMDT_ARGS": arguments}
    grids = Grids(tmp_path / "outputs", ROOT, **recipe)
    chosen = ["--no_git_save", "qamdt.mask_ratio", "kind=time_frequency", "!ratio=0.6"]
    started = grids.dora(*chosen)
    assert len(started) == 4
    array, *others = {grids.job(signature).split("_")[0] for signature in started}
    assert not others
    assert sorted(grids.job(one) for one in started) == [f"{array}_{index}" for index in range(4)]
    wait_for(lambda: ended(array))
    assert states(array) == ["COMPLETED"] * 4
    assert grids.dora(*chosen) == dict.fromkeys(started, "COM")
    # The same runs of the local runner are the same numbers, in folders of the same names.
    local = Grids(tmp_path / "local", ROOT, **recipe)
    local("audiocraft_qamdt.cli", "grid", "qamdt.mask_ratio", "--patterns", *chosen[2:], "ratio=0.15")
    (same,) = (path.name for path in (local.outputs / "xps").iterdir() if (path / "history.json").exists())
    assert history(local.xp(same)) == history(grids.xp(same))
    assert "evaluate" in history(local.xp(same))[-1]
    assert "4 arms, 4 of 4 runs counted" in grids(
        "audiocraft_qamdt.cli", "report", "--grid", "qamdt.mask_ratio", "--out", str(tmp_path / "report")
    )


USERS_GRID = """
import json, os
from dora import Explorer

@Explorer
def explorer(launcher):
    with launcher.job_array():
        for argv in json.loads(os.environ["RUNS"]):
            launcher(*argv)
"""


@pytest.fixture
def users_grid(tmp_path):
    """A folder with a grid of the user's own: runs from the environment."""
    folder = tmp_path / "project"
    (folder / "grids").mkdir(parents=True)
    (folder / "grids" / "__init__.py").touch()
    (folder / "grids" / "mine.py").write_text(USERS_GRID)
    return folder


def test_cancelled_preempted_and_failing_runs(slurm, tmp_path, users_grid):
    common = ["solver=qamdt/debug", *RUN, f"folder={make_folder(tmp_path / 'audio', tracks=4)}"]
    runs = [[*common, "seed=1", "optim.epochs=40"], [*common, "seed=2", "optim.epochs=4000"]]
    runs.append([*common, "seed=3", "optim.epochs=3", "optim.lr=1e30", "optim.max_norm=0"])
    grids = Grids(tmp_path / "outputs", users_grid, RUNS=json.dumps(runs))
    started = list(grids.dora("--no_git_save", "mine"))
    preempted, cancelled, failing = started
    wait_for(lambda: grids.epochs(preempted) >= 2)
    subprocess.run(["scancel", "--signal=USR2", grids.job(preempted)], check=True)  # what a preemption sends
    wait_for(lambda: "Requeued job" in grids.log(preempted))
    at = grids.epochs(preempted)
    assert 2 <= at < 40
    wait_for(lambda: grids.epochs(cancelled) >= 1)
    subprocess.run(["scancel", grids.job(cancelled)], check=True)
    wait_for(lambda: ended(grids.job(preempted).split("_")[0]))

    assert grids.dora("--no_git_save", "mine") == {preempted: "COM", cancelled: "CAN", failing: "FAI"}
    assert "the model diverged; lower optim.lr" in grids.log(failing)
    log = grids.log(preempted)
    assert log.count("SubmitItTarget starting") == 2
    assert "this job is preempted" in log
    local = Grids(tmp_path / "local", users_grid, RUNS=json.dumps(runs[:1]))
    local("audiocraft_qamdt.cli", "grid", "mine")
    assert len(history(local.xp(preempted))) == 40
    assert history(local.xp(preempted)) == history(grids.xp(preempted))

    told = grids("audiocraft_qamdt.cli", "report", "--grid", "mine", "--out", str(tmp_path / "report"))
    assert re.search(rf"{failing} .*: 0 of 3 epochs done, job \S+ FAILED, log \S*/{grids.job(failing)}_0_log.out", told)
    assert re.search(rf"{cancelled} .* of 4000 epochs done, job \S+ CANCELLED, log ", told)


def test_grid_is_cancelled_and_retried_from_a_clone_of_the_commit(slurm, tmp_path):
    clone = tmp_path / "checkout"  # a clean one: Dora refuses to clone what has changes
    subprocess.run(["git", "clone", "-q", f"file://{ROOT}", clone], check=True)
    arguments = [*RUN, "optim.epochs=150", f"folder={make_folder(tmp_path / 'audio', tracks=4)}"]
    recipe = {"QAMDT_SOLVER": "qamdt/debug", "QAMDT_EVALUATION": "none", "QAMDT_SEEDS": "1"}
    grids = Grids(tmp_path / "outputs", clone, QAMDT_ARGS=" ".join(arguments), **recipe)
    grids.environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "").replace(str(ROOT), "")
    chosen = ["qamdt.mask_ratio", "kind=time_frequency", "ratio=0.15"]
    (run,) = grids.dora(*chosen)
    wait_for(lambda: grids.epochs(run) >= 1)
    first = grids.job(run)
    grids.dora("--cancel", *chosen)
    wait_for(lambda: ended(first))
    assert [state.split()[0] for state in states(first)] == ["CANCELLED"]
    assert grids.dora(*chosen) == {run: "CAN"} and grids.job(run) == first  # left alone unless asked
    grids.dora("--retry", *chosen)
    assert grids.job(run) != first
    wait_for(lambda: ended(grids.job(run)))
    assert grids.dora(*chosen) == {run: "COM"}
    assert grids.epochs(run) == 150
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True)
    code = grids.outputs / "codes" / commit.stdout.strip()
    assert (grids.xp(run) / "code").resolve() == code
    assert f"CWD is {code}" in grids.log(run)
