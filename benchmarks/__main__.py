"""`python -m benchmarks`: run the benches, each in a process of its own, and write the table, JSON and a plot."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from audiocraft_qamdt.commands.output import say

from .harness import BENCHES, PRECISIONS, Result, Settings, load_benches, measure, select
from .table import machine, markdown, report

_STDERR = 2  # file descriptor: what a library prints must not get into the table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="benches or groups; --list names them")
    parser.add_argument("--list", action="store_true", help="name the benches and stop")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="folder for JSON, table and plot")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on the CPU")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--batch", type=int, help="items of the network's benches")
    parser.add_argument("--compile", metavar="MODE", help="torch.compile's mode, as default or reduce-overhead")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in training steps")
    parser.add_argument("--repeats", type=int, default=3, help="least number of timed calls")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to spend on calls of a bench")
    parser.add_argument("--limit", type=float, default=60.0, help="no call of a bench begins after that many seconds")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace, folder: Path) -> Settings:
    """The command line's settings, with a scratch folder."""
    names = ("device", "threads", "precision", "repeats", "seconds", "limit", "batch", "compile", "checkpointing")
    return Settings(folder, **{name: getattr(options, name) for name in names})


def run_child(name: str, arguments: list[str]) -> Result | None:
    """Measure one bench in a process of its own; None where it failed, with its message on standard error."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", __package__, *arguments, "--child", name, str(file)]
        if subprocess.run(command, cwd=Path(__file__).parents[1], stdout=_STDERR).returncode:
            return None
        return Result(**json.loads(file.read_text()))


def child(name: str, file: str, options: argparse.Namespace) -> int:
    """The process of one bench."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(name, settings_of(options, Path(folder)))
    Path(file).write_text(json.dumps(result.to_dict()))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; the exit status is 1 where a bench failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    load_benches()
    if options.child:
        return child(options.child[0], options.child[1], options)
    if options.list:
        say(f"{name} (on request)" if item.on_request else name for name, item in BENCHES.items())
        return 0
    results: list[Result] = []
    failed: list[str] = []
    for name in select(options.only):
        result = run_child(name, arguments)
        if result is None:
            failed.append(name)
            continue
        results.append(result)
        sys.stderr.write(f"{markdown([result]).splitlines()[-1]}\n")
    settings = {key: value for key, value in asdict(settings_of(options, Path())).items() if key != "folder"}
    say(report(results, machine(options.device) | settings, options.out))
    say(f"failed: {name}" for name in failed)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
