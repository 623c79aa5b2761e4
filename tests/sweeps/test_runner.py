"""`qamdt grid` with real, tiny experiments: same runs as Dora's, resumable, each run once, failures reported."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.sweeps.arms import find_grid
from audiocraft_qamdt.sweeps.process import LOCK, LocalSheep
from audiocraft_qamdt.sweeps.runner import collect, find_explorer, link

from ..helpers.audio_folder import make_folder
from ..helpers.forked import start
from ..helpers.runs import TINY, dora, history, log_of, main_in, solver_in

SHORT = "optim.epochs=3 optim.updates_per_epoch=6 generate.every=null evaluate.every=null generate.steps=2".split()


def environment(folder: Path, outputs: Path, **more: str) -> dict[str, str]:
    arguments = [*(part for part in TINY if not part.startswith(("solver=", "dset="))), f"folder={folder}", *SHORT]
    return {
        "AUDIOCRAFT_DORA_DIR": str(outputs),
        "OMP_NUM_THREADS": "1",
        "QAMDT_SOLVER": "qamdt/debug",
        "QAMDT_DSET": "folder",
        "QAMDT_ARGS": shlex.join(arguments),
        "QAMDT_SEEDS": "0",
        **more,
    }


class Grid:
    """`qamdt grid` in a process of its own; its output in a file of the folder of outputs."""

    def __init__(self, variables: dict[str, str], *arguments: str) -> None:
        self.log = Path(variables["AUDIOCRAFT_DORA_DIR"]) / f"grid{time.monotonic_ns()}.log"
        self.process = start("qamdt", "grid", *arguments, log=self.log, **variables)

    def wait_for(self, condition) -> None:
        deadline = time.time() + 300
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.time() < deadline, self.log.read_text()
            time.sleep(0.1)

    def finish(self) -> tuple[int, str]:
        """Status and output."""
        return self.process.wait(timeout=900), self.log.read_text()


def pids(outputs: Path) -> list[int]:
    """Processes that the runner has started, as their locks say."""
    texts = [path.read_text() for path in outputs.glob(f"xps/*/{LOCK}")]
    return [json.loads(text)["pid"] for text in texts if text]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("audio"), tracks=8)


@pytest.fixture(scope="module")
def killed_and_resumed(folder, tmp_path_factory):
    """Outputs of a grid that everything of was killed in the middle, and that was called again; what that printed."""
    outputs = tmp_path_factory.mktemp("grid")
    variables = environment(folder, outputs)
    first = Grid(variables, "qamdt.levels", "--jobs", "2")
    first.wait_for(lambda: list(outputs.glob("xps/*/history.json")))
    first.process.kill()
    for pid in pids(outputs):
        os.killpg(pid, signal.SIGKILL)
    first.finish()
    lengths = [len(json.loads(path.read_text())) for path in outputs.glob("xps/*/history.json")]
    assert sum(lengths) < 9, "it was killed before the end"
    status, printed = Grid(variables, "qamdt.levels", "--jobs", "2").finish()
    assert status == 0, printed
    return outputs, variables, printed


@pytest.mark.slow
def test_killed_grid_ends_with_the_numbers_and_folders_of_plain_dora_runs(killed_and_resumed, tmp_path):
    outputs, _, printed = killed_and_resumed
    folders = sorted(path.resolve() for path in outputs.glob("grids/qamdt.levels/*"))
    assert len(folders) == 4
    assert all(path.parent == outputs / "xps" for path in folders)
    assert "\x1b" not in printed
    assert printed.count("COM") == 4
    for path in folders:
        argv = json.loads((path / ".argv.json").read_text())
        assert dora(tmp_path, *argv).returncode == 0, log_of(tmp_path)[-3000:]
        assert history(tmp_path / "xps" / path.name) == history(path)
        assert len(history(path)) == 3


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_a_failure_is_reported(killed_and_resumed):
    outputs, variables, _ = killed_and_resumed
    status, printed = Grid(variables, "qamdt.levels").finish()
    assert status == 0
    assert "0 of 4 experiments to run" in printed
    assert "started" not in printed
    # An overlap as large as the patch composes, and cannot be built; the recipe's own is finished already.
    overlaps = {**variables, "QAMDT_OVERLAPS": "0,9"}
    status, printed = Grid(overlaps, "qamdt.patch_overlap", "--retries", "1").finish()
    assert status == 1
    assert "1 of 2 experiments to run" in printed
    assert printed.count("FAILED") == 2
    assert "overlap" in printed.split("FAILED")[1]
    assert "FAI" in printed


@pytest.mark.slow
def test_the_table_shows_what_a_real_history_holds(killed_and_resumed):
    outputs, _, _ = killed_and_resumed
    main = main_in(outputs)
    explorer = find_explorer(main, "qamdt.levels")
    path = next(outputs.glob("grids/qamdt.levels/*"))
    sheep = LocalSheep(main.get_xp_from_sig(path.name), main)
    shown = explorer.process_sheep(sheep, sheep.history)
    assert shown["train"]["epoch"] == 3
    assert shown["train"]["minutes"] > 0
    assert shown["train"]["ping"]
    assert shown["valid"]["loss"] == history(path)[-1]["valid"]["loss"]
    assert set(shown["evaluate"]) == {"frechet", "kl", "inception", "agreement", "pmos", "silent"}
    frechet = [value for key, value in history(path)[-1]["evaluate"].items() if key.startswith("frechet_playground")]
    assert [shown["evaluate"]["frechet"]] == frechet


@pytest.mark.slow
def test_interrupted_it_stops_everything_and_says_how_to_go_on(folder, tmp_path):
    grid = Grid(environment(folder, tmp_path), "qamdt.levels", "--patterns", "official")
    grid.wait_for(lambda: pids(tmp_path))
    (pid,) = pids(tmp_path)
    grid.process.send_signal(signal.SIGINT)
    status, printed = grid.finish()
    assert status == 130
    assert "the same command resumes" in printed
    assert not lives(pid)


@pytest.mark.slow
def test_two_at_once_run_each_experiment_once(folder, tmp_path):
    variables = environment(folder, tmp_path)
    grids = [Grid(variables, "qamdt.levels", "--patterns", "official") for _ in range(2)]
    ended = [grid.finish() for grid in grids]
    assert [status for status, _ in ended] == [0, 0], ended
    assert sum(printed.count("started ") for _, printed in ended) == 1


@pytest.mark.slow
def test_on_a_terminal_the_table_is_redrawn_and_each_device_has_one_process(folder, tmp_path):
    variables = environment(folder, tmp_path, TERM="xterm", COLUMNS="120")
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "audiocraft_qamdt.cli", "grid", "qamdt.levels", "--patterns", "!paper"]
    runner = subprocess.Popen(
        [*command, "--devices", "3,5"],
        cwd=CONFIG_ROOT.parent,
        env={**os.environ, **variables},
        stdout=theirs,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    shown, devices = [], {}
    while chunk := read_terminal(ours):
        shown.append(chunk)
        for pid in filter(lives, pids(tmp_path)):
            # A process that has just ended has no environment any more.
            if inherited := environment_of(pid):
                devices[pid] = inherited.get("CUDA_VISIBLE_DEVICES")
    os.close(ours)
    screens = b"".join(shown).decode(errors="replace").split("\x1b[H\x1b[2J")
    assert runner.wait(60) == 0, screens[-1]
    assert len(devices) == 3
    assert set(devices.values()) == {"3", "5"}
    assert "on device 3" in screens[-1]
    assert "on device 5" in screens[-1]
    assert len(screens) > 4
    assert screens[-1].count("COM") == 3
    assert screens[-1].count("finished") == 3
    assert max(screen.count("RUN") for screen in screens) == 2, "one process on each device"


def read_terminal(terminal: int) -> bytes:
    """What a process wrote to its terminal; nothing once it is gone."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that nobody has the other side open
        return b""


def environment_of(pid: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def test_a_lock_is_taken_as_long_as_the_process_lives(tmp_path):
    main = main_in(tmp_path)
    sheep = LocalSheep(main.init_xp(main.get_xp(["solver=qamdt/debug"])), main)
    assert sheep.owner() is None
    with open(sheep.xp.folder / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        json.dump({"pid": 1, "host": "elsewhere", "place": ""}, lock)
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    assert sheep.owner() == {"pid": 1, "host": "elsewhere", "place": ""}
    assert sheep.state() == "RUNNING"
    assert not sheep.start("", 1), "what another one runs is not started"
    process.kill()
    process.communicate()
    assert sheep.owner() is None
    assert sheep.state() == "PENDING"


def test_the_grids_folder_holds_its_runs_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("QAMDT_SOLVER", "qamdt/debug")
    for seed in ("0", "1"):
        monkeypatch.setenv("QAMDT_SEEDS", seed)
        main = main_in(tmp_path)
        sheep = collect(main, find_explorer(main, "qamdt.levels"))
        link(main, "qamdt.levels", sheep)
        links = {path.name: path.resolve() for path in (tmp_path / "grids" / "qamdt.levels").iterdir()}
        assert links == {one.xp.sig: one.xp.folder.resolve() for one in sheep}
        for launched in (sheep, sheep[::-1]):
            link(main, "qamdt.levels", launched)
            assert [run.signature for run in find_grid("qamdt.levels")] == [one.xp.sig for one in launched]


def test_killed_between_checkpoint_and_history_it_is_finished_by_calling_again(folder, tmp_path):
    argv = [*TINY, f"folder={folder}", "optim.epochs=1", "optim.updates_per_epoch=2", "generate.steps=2"]
    with solver_in(tmp_path, *argv) as solver:
        solver.run()
    before = history(solver.folder)
    (solver.folder / "history.json").unlink()
    main = main_in(tmp_path)
    sheep = LocalSheep(main.get_xp(argv), main)
    assert not sheep.finished
    with solver_in(tmp_path, *argv) as solver:
        solver.run()
    assert sheep.finished
    assert history(solver.folder) == before
