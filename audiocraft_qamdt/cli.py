"""The `qamdt` command: data, quality and trying things out. Training is `dora run solver=qamdt/...`."""

from __future__ import annotations

import argparse
import logging
import sys
import typing as tp
from pathlib import Path

logger = logging.getLogger("qamdt")


def _manifest(args: argparse.Namespace) -> int:
    from .data.manifest import build_manifest

    report = build_manifest(
        args.folder, args.out, workers=args.workers, min_duration=args.min_duration, silence_db=args.silence_db
    )
    _say(report.lines())
    return 1 if report.unreadable else 0


def _playground(args: argparse.Namespace) -> int:
    from .playground.dataset import make_dataset

    make_dataset(args.folder, tracks=args.tracks, duration=args.duration, seed=args.seed, sample_rate=args.sample_rate)
    _say([f"{args.folder}: ready for dset=playground"])
    return 0


def _annotate(args: argparse.Namespace) -> int:
    from .quality.annotate import annotate
    from .quality.predictors.base import load_predictor

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
    _say(report.lines())
    return 1 if report.unreadable else 0


def _import_official(args: argparse.Namespace) -> int:
    from .importing import import_official

    folder = import_official(
        args.checkpoint,
        args.out,
        vae=args.vae,
        vocoder=args.vocoder,
        ema=args.ema,
        num_heads=args.num_heads,
        overrides=args.overrides,
    )
    _say([f"{folder}: load it with QAMDT.get_pretrained, `qamdt generate --model`, or continue_from="])
    return 0


def _generate(args: argparse.Namespace) -> int:
    from .compat import prepare

    prepare()
    from audiocraft.data.audio import audio_write

    from .generate import QAMDT

    model = QAMDT.get_pretrained(args.model, args.device)
    settings = {
        key: getattr(args, key)
        for key in ("duration", "steps", "sampler", "seed", "guidance_scale")
        if getattr(args, key) is not None
    }
    model.set_generation_params(**settings)
    audio = model.generate(args.prompt, args.quality)
    for index, clip in enumerate(audio):
        stem = args.out / f"{index:03d}"
        _say([str(audio_write(stem, clip, model.sample_rate, strategy="loudness", loudness_compressor=True))])
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    run_demo(args.out, epochs=args.epochs)
    return 0


def _say(lines: tp.Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qamdt", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    manifest = commands.add_parser("manifest", help="list the audio of a folder for training (data.jsonl.gz)")
    manifest.add_argument("folder", type=Path)
    manifest.add_argument("--out", type=Path, help="folder of the manifest, default: FOLDER itself")
    manifest.add_argument("--workers", type=int, default=4)
    manifest.add_argument("--min-duration", type=float, default=1.0, help="seconds; shorter files are left out")
    manifest.add_argument("--silence-db", type=float, default=-60.0, help="dBFS; files with a lower peak are left out")
    manifest.set_defaults(run=_manifest)

    playground = commands.add_parser("playground", help="make the synthetic, labelled data set")
    playground.add_argument("folder", type=Path)
    playground.add_argument("--tracks", type=int, default=400)
    playground.add_argument("--duration", type=float, default=8.0, help="seconds of each track")
    playground.add_argument("--seed", type=int, default=0)
    playground.add_argument("--sample-rate", type=int, default=16000)
    playground.set_defaults(run=_playground)

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

    generate = commands.add_parser("generate", help="music from text")
    generate.add_argument("prompt", nargs="+")
    generate.add_argument("--model", required=True, help="export, checkpoint, or //sig/<signature>")
    generate.add_argument("--out", type=Path, default=Path("generated"))
    generate.add_argument("--quality", type=float, help="level 1 to 5")
    generate.add_argument("--device", default="auto")
    for name, kind in (("duration", float), ("steps", int), ("seed", int), ("guidance-scale", float), ("sampler", str)):
        generate.add_argument(f"--{name}", type=kind)
    generate.set_defaults(run=_generate)

    official = commands.add_parser("import-official", help="the authors' checkpoint to an export")
    official.add_argument("checkpoint", type=Path, help="published Lightning checkpoint")
    official.add_argument("overrides", nargs="*", help="settings of solver=qamdt, e.g. the text encoder's folder")
    official.add_argument("--out", type=Path, required=True, help="folder to write")
    official.add_argument("--vae", type=Path, help="the VAE's checkpoint, default: in the published one")
    official.add_argument("--vocoder", type=Path, help="the HiFi-GAN's checkpoint, default: in the published one")
    official.add_argument("--no-ema", dest="ema", action="store_false", help="the last weights, not their average")
    official.add_argument("--num-heads", type=int, default=16)
    official.set_defaults(run=_import_official)

    demo = commands.add_parser("demo", help="playground from data to generated audio, in minutes")
    demo.add_argument("--out", type=Path, default=Path("demo"))
    demo.add_argument("--epochs", type=int, default=4, help="of 100 updates each")
    demo.set_defaults(run=_demo)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a `qamdt` command; errors of the user end with one line and exit status 1."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        return args.run(args)
    except (OSError, ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
