"""`qamdt generate`: music from text."""

from __future__ import annotations

import argparse
from pathlib import Path

from .output import say


def add_parsers(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser("generate", help="music from text")
    generate.add_argument("prompt", nargs="+")
    generate.add_argument("--model", required=True, help="export, checkpoint, or //sig/<signature>")
    generate.add_argument("--out", type=Path, default=Path("generated"))
    generate.add_argument("--quality", type=float, help="level 1 to 5")
    generate.add_argument("--device", default="auto")
    for name, kind in (("duration", float), ("steps", int), ("seed", int), ("guidance-scale", float), ("sampler", str)):
        generate.add_argument(f"--{name}", type=kind)
    generate.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from ..compat import prepare

    prepare()
    from audiocraft.data.audio import audio_write

    from ..generate import QAMDT

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
        say([str(audio_write(stem, clip, model.sample_rate, strategy="loudness", loudness_compressor=True))])
    return 0
