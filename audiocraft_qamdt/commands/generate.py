"""`qamdt generate`: music from text."""

from __future__ import annotations

import argparse
import os
import typing as tp
from pathlib import Path

from ..generation.params import CLAP, KNOBS, scorer_names
from ..utils.reading import JsonObject
from .output import say

Parsed = tp.TypeVar("Parsed")

CLAP_MODEL = "laion/larger_clap_music"
_OWN = ("candidates", "clap", "rerank")
"""Knobs that this command has options of its own for: without --rerank, all candidates are kept."""


def add_parsers(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser("generate", help="generate music from text")
    generate.add_argument("prompt", nargs="*", help='descriptions; "" = none')
    generate.add_argument(
        "--file", type=Path, help="prompts: a line each, or .jsonl with a prompt and settings in each"
    )
    add_model(generate)
    generate.add_argument("--out", type=Path, default=Path("generated"), help="file of one clip, or folder")
    generate.add_argument("--format", help="wav, flac, mp3 or ogg; default: --out's, wav in a folder")
    add_knobs(generate, [name for name in KNOBS if name not in _OWN])
    generate.add_argument("--candidates", type=int, default=1, help="clips of each prompt")
    add_rerank(generate, "keep only the best candidate")
    generate.add_argument("--batch-size", type=int, help="clips made at once; default: as many as fit into memory")
    generate.add_argument("--overwrite", action="store_true", help="replace clips made with other settings")
    generate.set_defaults(run=_generate)


def add_rerank(parser: argparse.ArgumentParser, effect: str) -> None:
    """Add the options that name what chooses among candidates."""
    knob = KNOBS["rerank"].metadata
    parser.add_argument("--rerank", metavar="SCORE", type=_typed(knob["parse"]), help=f"{effect}; {knob['help']}")
    parser.add_argument("--clap", help=f"hub id or folder for --rerank, default: the model's own, or {CLAP_MODEL}")


def rerank_settings(args: argparse.Namespace, own_clap: str | None) -> JsonObject:
    """Return the settings of `--rerank` and `--clap`; `own_clap` is the model's."""
    clap = args.clap or own_clap or (CLAP_MODEL if CLAP in scorer_names(args.rerank) else None)
    return {"rerank": args.rerank, "clap": clap}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a model and where it computes."""
    parser.add_argument(
        "--model",
        help="export, hub id, checkpoint, //sig/<signature>, or fast (the embedded model in 4 steps); "
        "default: $QAMDT_MODEL, else the embedded model",
    )
    add_adapter(parser)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add the option that names adapters to merge."""
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR[:WEIGHT]",
        help="adapter (LoRA) to add to the weights: its folder, or a run of solver=qamdt/lora; may be repeated",
    )


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


def add_knobs(parser: argparse.ArgumentParser, names: tp.Iterable[str]) -> None:
    """Add an option for each of these settings of generation; None = the model's own."""
    for name in names:
        knob = KNOBS[name].metadata
        parser.add_argument(f"--{name.replace('_', '-')}", type=_typed(knob["parse"]), help=knob["help"])


def given_knobs(args: argparse.Namespace, names: tp.Iterable[str]) -> JsonObject:
    """Return the settings of generation that the command line names."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _typed(parse: tp.Callable[[str], Parsed]) -> tp.Callable[[str], Parsed]:
    """Return `parse` with errors that argparse shows."""

    def typed(text: str) -> Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


def _generate(args: argparse.Namespace) -> int:
    from ..compat import prepare

    prepare()
    from ..generation.files import check_writable, make_jobs, run_jobs
    from ..generation.prompts import read_prompts
    from ..utils.reading import warn_once

    for name in ("candidates", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: give at least 1")
    if args.rerank and args.candidates < 2 and not args.file:
        warn_once(f"--rerank {args.rerank} has nothing to choose among: give --candidates of at least 2")
    rows = [{"prompt": prompt} for prompt in args.prompt] + (read_prompts(args.file) if args.file else [])
    if not rows:
        raise ValueError('nothing to generate: give a prompt ("" = none) or --file')
    settings = given_knobs(args, [name for name in KNOBS if name not in _OWN])
    jobs = make_jobs(rows, args.out, args.format, settings, 1 if args.rerank else args.candidates)
    check_writable(jobs)
    name = model_name(args.model)
    model = _load(name, args)
    named = " + ".join([name, *args.adapter])
    for path in run_jobs(model, named, jobs, batch_size=args.batch_size, overwrite=args.overwrite):
        say([str(path)])
    return 0


def _load(name: str, args: argparse.Namespace):  # noqa: ANN202  (importing QAMDT for the hint takes seconds)
    from ..generation.qamdt import QAMDT

    model = QAMDT.get_pretrained(name, args.device, args.dtype, adapters=args.adapter)
    if args.rerank:
        model.set_generation_params(candidates=args.candidates, **rerank_settings(args, model.params.clap))
    else:
        model.set_generation_params(candidates=1)
    return model
