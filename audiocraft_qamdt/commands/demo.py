"""`qamdt demo`: the playground from data to generated audio."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parsers(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser("demo", help="run the playground from data to generated audio, in minutes")
    demo.add_argument("--out", type=Path, default=Path("demo"))
    demo.add_argument("--epochs", type=int, default=3, help="epochs of 100 updates each")
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from ..reports.demo import run_demo

    run_demo(args.out, epochs=args.epochs)
    return 0
