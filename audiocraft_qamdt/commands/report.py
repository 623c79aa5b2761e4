"""`qamdt report`: what experiments came to, or the arms of a grid, as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..utils.files import claim, holds_only, refuse_foreign
from .output import say

_OWN = ("qamdt report", holds_only("report.html", "report.md", "*.csv", "*.png"))


def add_parsers(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser(
        "report", help="show losses, metrics and samples of experiments, or a grid's table over seeds, as an HTML page"
    )
    report.add_argument("signatures", nargs="*", help="Dora signatures, e.g. 3f2a9c41")
    report.add_argument("--grid", metavar="NAME", help="a grid that was started, e.g. qamdt.mask_ratio")
    report.add_argument("--out", type=Path, default=Path("report"), help="folder for report.html and its pictures")
    report.add_argument("--samples", type=int, default=4, help="clips for each quality level of each experiment")
    report.add_argument(
        "--baseline", metavar="ARM", help="with --grid: compare with this arm (its name, or a part that no other has)"
    )
    report.add_argument("--unfinished", action="store_true", help="with --grid: also count unfinished runs")
    report.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    if bool(args.signatures) == bool(args.grid):
        raise ValueError("report: give signatures, or --grid NAME, and not both")
    refuse_foreign(args.out, *_OWN)
    return _report_grid(args) if args.grid else _report_runs(args)


def _report_runs(args: argparse.Namespace) -> int:
    from ..reports.runs import find_run, write_report

    if args.baseline or args.unfinished:
        raise ValueError("report: --baseline and --unfinished are about the arms of a grid: give --grid NAME")
    runs = [find_run(signature) for signature in args.signatures]
    say([str(write_report(runs, claim(args.out, *_OWN), samples_per_level=args.samples))])
    return 0


def _report_grid(args: argparse.Namespace) -> int:
    from ..sweeps.arms import find_grid, make_sweep
    from ..sweeps.report import markdown, write_grid_report

    sweep = make_sweep(args.grid, find_grid(args.grid), unfinished=args.unfinished)
    reference = sweep.arm(args.baseline) if args.baseline else None
    written = write_grid_report(sweep, claim(args.out, *_OWN), baseline=args.baseline)
    say(
        [
            *markdown(sweep, reference),
            *map(str, (written.text, written.table, written.runs, written.course, written.page)),
        ]
    )
    return 0
