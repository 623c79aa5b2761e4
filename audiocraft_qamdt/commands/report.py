"""`qamdt report`: what experiments came to, as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from .output import say


def add_parsers(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="losses, metrics and samples of experiments as one HTML page")
    report.add_argument("signatures", nargs="+", help="Dora signatures, e.g. 3f2a9c41")
    report.add_argument("--out", type=Path, default=Path("report"), help="folder for report.html and its pictures")
    report.add_argument("--samples", type=int, default=4, help="clips of each quality level and experiment")
    report.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from ..report import find_run, write_report

    runs = [find_run(signature) for signature in args.signatures]
    say([str(write_report(runs, args.out, samples_per_level=args.samples))])
    return 0
