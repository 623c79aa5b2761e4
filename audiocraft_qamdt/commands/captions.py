"""`qamdt captions`: better descriptions from a captioner, CLAP and a language model."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ..slurm.shards import Shard, add_shard_options, run_shards
from ..utils.files import claim, holds_only, refuse_foreign
from .output import say

if TYPE_CHECKING:
    from ..captions.report import CaptionReport

SHOWN = 20  # tracks of a dry run

_OWN = ("qamdt captions compare", holds_only("compare.json", "compare.*"))


def add_parsers(commands: argparse._SubParsersAction) -> None:
    captions = commands.add_parser(
        "captions",
        help="refine the descriptions of a data set's tracks",
        usage="qamdt captions [compare] MANIFEST [KEY=VALUE ...] [options]",
    )
    captions.add_argument("words", nargs="+", metavar="MANIFEST", help="folder with data.jsonl(.gz), or that file")
    captions.add_argument("--config", help="YAML file, or the name of one in config/captions; see default.yaml there")
    captions.add_argument("--stages", default="caption,match,rewrite", help="of caption, match, rewrite; default: all")
    one = captions.add_mutually_exclusive_group()
    one.add_argument("--dry-run", action="store_true", help=f"show what would become of {SHOWN} tracks, write nothing")
    one.add_argument("--undo", action="store_true", help="restore the tracks' original descriptions")
    captions.add_argument("--out", type=Path, default=Path("compare"), help="folder for the results of `compare`")
    captions.add_argument("--tracks", type=int, default=100, help="number of tracks to `compare` over")
    add_shard_options(captions)
    captions.set_defaults(run=_captions)


def _captions(args: argparse.Namespace) -> int:
    comparing = args.words[0] == "compare"  # a folder of that name is ./compare
    words = args.words[1:] if comparing else args.words
    if not words:
        raise ValueError("qamdt captions compare: name a manifest, or a folder with one")
    args.manifest, args.overrides = Path(words[0]), words[1:]
    if comparing:
        return _compare(args)
    return _dry_run(args) if args.dry_run else _refine(args)


def _refine(args: argparse.Namespace) -> int:
    shards = run_shards(args, functools.partial(_undo if args.undo else _work, args))
    if not shards.results:
        say(shards.lines)
        return shards.status
    report: CaptionReport = shards.results[0]
    for other in shards.results[1:]:
        report.merge(other)
    if not args.undo:
        report.write()
    say([*report.lines(), *shards.lines])
    return report.status or shards.status


def _work(args: argparse.Namespace, shard: Shard) -> CaptionReport:
    from ..captions.refine import refine
    from ..captions.settings import load_settings

    settings = load_settings(args.config, args.overrides)
    return refine(args.manifest, settings, shard=shard, stages=args.stages.split(","))


def _undo(args: argparse.Namespace, shard: Shard) -> CaptionReport:
    from ..captions.refine import undo

    return undo(args.manifest, shard)


def _dry_run(args: argparse.Namespace) -> int:
    from ..captions.refine import diff_lines, refine
    from ..captions.settings import load_settings

    report = refine(
        args.manifest,
        load_settings(args.config, args.overrides),
        shard=args.shard,
        stages=args.stages.split(","),
        write=False,
        sample=SHOWN,
        visit=lambda track: say(diff_lines(track)),
    )
    say([*report.lines(), "nothing was written"])
    return report.status


def _compare(args: argparse.Namespace) -> int:
    from ..captions.compare import compare
    from ..captions.settings import load_settings

    refuse_foreign(args.out, *_OWN)
    comparison = compare(args.manifest, load_settings(args.config, args.overrides), tracks=args.tracks)
    comparison.write(claim(args.out, *_OWN))
    say([*comparison.lines(), str(args.out / "compare.png")])
    return 1 if any(outcome.failed for outcome in comparison.outcomes) else 0
