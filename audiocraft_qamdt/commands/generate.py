"""`qamdt generate`: music from text."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from .output import say

CLAP = "laion/larger_clap_music"
SETTINGS = {
    "duration": (float, "seconds; any length"),
    "steps": (int, "of the sampler"),
    "sampler": (str, "dpmsolver++, ddim, unipc, euler or heun"),
    "eta": (float, "noise that each step of ddim adds: 0 = none, 1 = as published"),
    "seed": (int, "same seed, same clip"),
    "negative-prompt": (str, "what to lead away from"),
    "guidance-scale": (float, "weight of the prompt, 1 = no guidance"),
    "quality-scale": (float, "weight of quality by itself, --guidance-scale is then the text's"),
    "guidance-rescale": (float, "share of the rescaling, 0 to 1"),
    "apg-eta": (float, "projected guidance: weight of the parallel part, 1 = plain"),
    "extend": (str, "clips longer than the model's: windows (default), or rope"),
}


def add_parsers(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser("generate", help="generate music from text")
    generate.add_argument("prompt", nargs="*", help='descriptions; "" = none')
    generate.add_argument(
        "--file", type=Path, help="prompts: a line each, or .jsonl with a prompt and settings in each"
    )
    add_model(generate)
    generate.add_argument("--out", type=Path, default=Path("generated"), help="file of one clip, or folder")
    generate.add_argument("--format", help="wav, flac, mp3 or ogg; default: --out's, wav in a folder")
    generate.add_argument("--quality", type=curve, help="level 1 to 5, or a curve 0:1,8:5 of seconds:level")
    generate.add_argument("--pmos", type=curve, help="the same as p-MOS, made to levels as in training")
    for name, (kind, text) in SETTINGS.items():
        generate.add_argument(f"--{name}", type=kind, help=text)
    generate.add_argument("--candidates", type=int, default=1, help="clips of each prompt")
    generate.add_argument("--rerank", choices=["clap"], help="keep only the candidate that agrees best with the prompt")
    generate.add_argument("--clap", help=f"hub id or folder for --rerank, default: the model's own, or {CLAP}")
    generate.add_argument("--batch-size", type=int, default=4, help="clips made at once")
    generate.add_argument("--overwrite", action="store_true", help="replace clips made with other settings")
    generate.set_defaults(run=_generate)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that name a model and where it computes."""
    parser.add_argument(
        "--model",
        help="export, hub id, checkpoint, or //sig/<signature>; default: $QAMDT_MODEL, else the embedded model",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")


def model_name(given: str | None) -> str:
    """Return the name of the model to use: `--model`, else `QAMDT_MODEL`, else the embedded one.

    Raises:
        ValueError: none is named, and the package holds none.
    """
    from ..checkpoints.store import EMBEDDED, is_export

    name = given or os.environ.get("QAMDT_MODEL")
    if not name and not is_export(EMBEDDED):
        raise ValueError("no model: give --model, set QAMDT_MODEL, or run `make pretrained` for the embedded one")
    return name or str(EMBEDDED)


def curve(text: str) -> float | list[tuple[float, float]]:
    """Return the quality as typed: `4`, or `0:1,8:5` for a curve of seconds:value points."""
    try:
        if ":" not in text:
            value = float(text)
            return int(value) if value.is_integer() else value
        points = [tuple(float(part) for part in point.split(":")) for point in text.split(",")]
        if any(len(point) != 2 or not all(map(math.isfinite, point)) for point in points):
            raise ValueError
        return [(point[0], point[1]) for point in points]
    except (ValueError, OverflowError):
        message = f"{text!r} is neither a number from 1 to 5 nor a curve like 0:1,8:5 (seconds:value)"
        raise argparse.ArgumentTypeError(message) from None


def _generate(args: argparse.Namespace) -> int:
    from ..compat import prepare

    prepare()
    from ..generation.files import check_writable, make_jobs, read_prompts, run_jobs

    for name in ("candidates", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: give at least 1")
    rows = [{"prompt": prompt} for prompt in args.prompt] + (read_prompts(args.file) if args.file else [])
    if not rows:
        raise ValueError('nothing to generate: give a prompt ("" = none) or --file')
    names = ["quality", "pmos", *(name.replace("-", "_") for name in SETTINGS)]
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    jobs = make_jobs(rows, args.out, args.format, settings, 1 if args.rerank else args.candidates)
    check_writable(jobs)
    name = model_name(args.model)
    model = _load(name, args)
    for path in run_jobs(model, name, jobs, batch_size=args.batch_size, overwrite=args.overwrite):
        say([str(path)])
    return 0


def _load(name: str, args: argparse.Namespace):  # noqa: ANN202  (importing QAMDT for the hint takes seconds)
    from ..generation.qamdt import QAMDT

    model = QAMDT.get_pretrained(name, args.device, args.dtype)
    if args.rerank:
        clap = args.clap or model.params.clap or CLAP
        model.set_generation_params(num_candidates=args.candidates, clap=clap)
    else:
        model.set_generation_params(num_candidates=1)
    return model
