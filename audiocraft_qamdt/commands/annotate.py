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
    annotate.add_argument("manifest", type=Path, nargs="?", help="folder with data.jsonl(.gz), or that file")
    annotate.add_argument("--predictor", default="acoustic", help="name, entry point or module:attribute")
    annotate.add_argument("--device", default="auto")
    annotate.add_argument("--batch-size", type=int, default=64, help="windows scored at once")
    annotate.add_argument("--workers", type=int, default=2, help="files decoded at once")
    annotate.add_argument(
        "--weights",
        nargs="?",
        const="exponential",
        metavar="KIND",
        help="write sampling weights into the manifest: exponential (default), exp(5 p-MOS); or published, "
        "min(1, exp(5 (p-MOS - 4.05)))",
    )
    annotate.add_argument("--rules", type=Path, help="YAML file: p-MOS and caption of the tracks of a source")
    annotate.add_argument("--overwrite", action="store_true", help="replace another predictor's scores")
    add_shard_options(annotate)
    annotate.set_defaults(run=_annotate)


def _annotate(args: argparse.Namespace) -> int:
    from ..quality.annotate import summarise
    from ..quality.rules import apply_rules, read_rules

    _settle(args)
    rules = read_rules(args.rules) if args.rules else []
    shards = run_shards(args, functools.partial(_score, args))
    if not shards.results:
        say(shards.lines)
        return shards.status
    report = shards.results[0]
    for other in shards.results[1:]:
        report.merge(other)
    ruled = apply_rules(report.manifest, rules) if rules else []
    report.statistics = summarise(report, weights=args.weights or False)
    say([*report.lines(), *ruled, *shards.lines])
    return 1 if report.unreadable else shards.status


def _settle(args: argparse.Namespace) -> None:
    """Tell `--weights FOLDER`, which names no kind, from `--weights KIND`."""
    from ..data.weights import KINDS

    if args.manifest is None and args.weights not in (None, *KINDS):
        args.manifest, args.weights = Path(args.weights), KINDS[0]
    if args.manifest is None:
        raise ValueError("which data set? Give the folder with data.jsonl(.gz), or that file")
    if args.weights not in (None, *KINDS):
        raise ValueError(f"--weights {args.weights} is unknown: choose one of {', '.join(KINDS)}")


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
