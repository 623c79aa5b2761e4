"""`qamdt manifest`, `qamdt benchmark` and `qamdt playground`: data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from .output import say


def add_parsers(commands: argparse._SubParsersAction) -> None:
    manifest = commands.add_parser("manifest", help="list the audio of a folder for training (data.jsonl.gz)")
    manifest.add_argument("folder", type=Path)
    manifest.add_argument("--out", type=Path, help="folder of the manifest, default: FOLDER itself")
    manifest.add_argument("--workers", type=int, default=4)
    manifest.add_argument("--min-duration", type=float, default=1.0, help="seconds; shorter files are left out")
    manifest.add_argument("--silence-db", type=float, default=-60.0, help="dBFS; files with a lower peak are left out")
    manifest.set_defaults(run=_manifest)

    benchmark = commands.add_parser("benchmark", help="make a set and prompts of MusicCaps or Song Describer")
    benchmark.add_argument("name", choices=("musiccaps", "song-describer"))
    benchmark.add_argument("folder", type=Path, help="holds the published table and the audio that you have")
    benchmark.add_argument("--out", type=Path, help="folder of the set, default: FOLDER/set")
    benchmark.set_defaults(run=_benchmark)

    playground = commands.add_parser("playground", help="make the synthetic, labelled data set")
    playground.add_argument("folder", type=Path)
    playground.add_argument("--tracks", type=int, default=400, help="of all splits together")
    playground.add_argument("--duration", type=float, default=8.0, help="seconds of each track")
    playground.add_argument("--seed", type=int, default=0, help="sets of different seeds share no track")
    playground.add_argument("--sample-rate", type=int, default=16000, help="Hz")
    playground.add_argument("--degraded", type=float, default=0.7, help="share of degraded tracks")
    playground.add_argument(
        "--changing",
        type=float,
        default=0.3,
        help="share of the degraded tracks whose quality changes along them",
    )
    playground.add_argument(
        "--splits",
        type=_splits,
        help="relative share of each split, e.g. evaluate=1; default: train=0.7, the others 0.1 each",
    )
    playground.set_defaults(run=_playground)


def _splits(text: str) -> dict[str, float]:
    try:
        splits = {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=SHARE,NAME=SHARE") from error
    for name in splits:
        if name in ("", "..") or name != Path(name).name:
            raise argparse.ArgumentTypeError(f"{name!r}: a split is a folder's name, without separators")
    return splits


def _manifest(args: argparse.Namespace) -> int:
    from ..data.manifest import build_manifest

    report = build_manifest(
        args.folder, args.out, workers=args.workers, min_duration=args.min_duration, silence_db=args.silence_db
    )
    say(report.lines())
    return 1 if report.unreadable else 0


def _benchmark(args: argparse.Namespace) -> int:
    from ..data.benchmarks import make_benchmark

    say(make_benchmark(args.name, args.folder, args.out).lines())
    return 0


def _playground(args: argparse.Namespace) -> int:
    from ..playground.dataset import SPLITS, make_dataset

    make_dataset(
        args.folder,
        tracks=args.tracks,
        duration=args.duration,
        seed=args.seed,
        sample_rate=args.sample_rate,
        degraded=args.degraded,
        changing=args.changing,
        splits=args.splits or SPLITS,
    )
    settings = " ".join(f"datasource.{split}={args.folder / split}" for split in args.splits or SPLITS)
    say([f"{args.folder}: ready for dset=playground {settings}"])
    return 0
