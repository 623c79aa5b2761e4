"""`qamdt annotate`: p-MOS of a data set's tracks."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ..slurm.shards import Shard, add_shard_options, run_shards
from .output import say

if TYPE_CHECKING:
    from ..quality.annotate import AnnotateReport


def add_parsers(commands: argparse._SubParsersAction) -> None:
    annotate = commands.add_parser("annotate", help="score the quality (p-MOS) of a data set's tracks")
    annotate.add_argument("manifest", type=Path, help="folder with data.jsonl(.gz), or that file")
    annotate.add_argument("--predictor", default="acoustic", help="name, entry point or module:attribute")
    annotate.add_argument("--device", default="auto")
    annotate.add_argument("--batch-size", type=int, default=64, help="windows scored at once")
    annotate.add_argument("--workers", type=int, default=2, help="files decoded at once")
    annotate.add_argument(
        "--weights", action="store_true", help="write sampling weights exp(5 p-MOS) into the manifest"
    )
    annotate.add_argument("--overwrite", action="store_true", help="replace another predictor's scores")
    add_shard_options(annotate)
    annotate.set_defaults(run=_annotate)


def _annotate(args: argparse.Namespace) -> int:
    from ..quality.annotate import summarise

    shards = run_shards(args, functools.partial(_score, args))
    if not shards.results:
        say(shards.lines)
        return shards.status
    report = shards.results[0]
    for other in shards.results[1:]:
        report.merge(other)
    report.statistics = summarise(report, weights=args.weights)
    say([*report.lines(), *shards.lines])
    return 1 if report.unreadable else shards.status


def _score(args: argparse.Namespace, shard: Shard) -> AnnotateReport:
    from ..quality.annotate import score

    return score(
        args.manifest,
        args.predictor,
        device=args.device,
        batch_size=args.batch_size,
        workers=args.workers,
        shard=shard,
        overwrite=args.overwrite,
    )
