"""`qamdt annotate`: p-MOS of a data set's tracks."""

from __future__ import annotations

import argparse
from pathlib import Path

from .output import say


def add_parsers(commands: argparse._SubParsersAction) -> None:
    annotate = commands.add_parser("annotate", help="score the quality (p-MOS) of a data set's tracks")
    annotate.add_argument("manifest", type=Path, help="folder with data.jsonl(.gz), or that file")
    annotate.add_argument("--predictor", default="acoustic", help="name, entry point or module:attribute")
    annotate.add_argument("--device", default="auto")
    annotate.add_argument("--batch-size", type=int, default=64, help="windows scored at once")
    annotate.add_argument("--workers", type=int, default=2, help="files decoded at once")
    annotate.add_argument("--shard", default="0/1", help="i/n: every n-th track, beginning with the i-th")
    annotate.add_argument(
        "--weights", action="store_true", help="write sampling weights exp(5 p-MOS) into the manifest"
    )
    annotate.add_argument("--overwrite", action="store_true", help="replace another predictor's scores")
    annotate.set_defaults(run=_annotate)


def _annotate(args: argparse.Namespace) -> int:
    from ..quality.annotate import annotate
    from ..quality.predictors.base import load_predictor

    index, count = (int(part) for part in args.shard.split("/"))
    report = annotate(
        args.manifest,
        load_predictor(args.predictor, args.device),
        device=args.device,
        batch_size=args.batch_size,
        workers=args.workers,
        shard=(index, count),
        weights=args.weights,
        overwrite=args.overwrite,
    )
    say(report.lines())
    return 1 if report.unreadable else 0
