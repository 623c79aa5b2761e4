"""`qamdt import-official`: models from elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from .output import say


def add_parsers(commands: argparse._SubParsersAction) -> None:
    official = commands.add_parser("import-official", help="the authors' checkpoint to an export")
    official.add_argument("checkpoint", type=Path, help="published Lightning checkpoint")
    official.add_argument("overrides", nargs="*", help="settings of solver=qamdt, e.g. the text encoder's folder")
    official.add_argument("--out", type=Path, required=True, help="folder to write")
    official.add_argument("--vae", type=Path, help="the VAE's checkpoint, default: in the published one")
    official.add_argument("--vocoder", type=Path, help="the HiFi-GAN's checkpoint, default: in the published one")
    official.add_argument("--no-ema", dest="ema", action="store_false", help="the last weights, not their average")
    official.add_argument("--num-heads", type=int, default=16)
    official.set_defaults(run=_import_official)


def _import_official(args: argparse.Namespace) -> int:
    from ..importing import import_official

    folder = import_official(
        args.checkpoint,
        args.out,
        vae=args.vae,
        vocoder=args.vocoder,
        ema=args.ema,
        num_heads=args.num_heads,
        overrides=args.overrides,
    )
    say([f"{folder}: load it with QAMDT.get_pretrained, `qamdt generate --model`, or continue_from="])
    return 0
