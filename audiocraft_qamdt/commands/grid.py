"""`qamdt grid`: a Dora grid on this machine, without SLURM."""

from __future__ import annotations

import argparse
import sys

from .output import say


def add_parsers(commands: argparse._SubParsersAction) -> None:
    grid = commands.add_parser("grid", help="run a Dora grid on this machine; run it again to resume")
    grid.add_argument("name", help="grid file under grids/, e.g. qamdt.mask_ratio")
    grid.add_argument("--jobs", type=int, default=1, help="experiments at once; with --devices, on each of them")
    grid.add_argument("--devices", default="", help="GPUs, e.g. 0,1: one process each")
    grid.add_argument(
        "--patterns", nargs="+", default=[], help="only experiments whose names match all of these, as `dora grid`"
    )
    grid.add_argument("--retries", type=int, default=0, help="times to start a failed experiment again")
    grid.add_argument("--init", action="store_true", help="create the experiments' folders, to refer to them")
    grid.add_argument("--dry-run", action="store_true", help="list the experiments and their folders; start nothing")
    grid.set_defaults(run=_grid)


def _grid(args: argparse.Namespace) -> int:
    from ..sweeps.runner import Options, Screen, run_grid
    from ..train import main

    devices = [device.strip() for device in args.devices.split(",") if device.strip()]
    options = Options(args.jobs, devices, args.patterns, args.retries, args.init, args.dry_run)
    return int(run_grid(main, args.name, options, Screen(say, sys.stdout.isatty())) > 0)
