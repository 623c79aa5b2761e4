"""`qamdt export`, `push` and `import-official`: models to and from elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from .generate import add_adapter
from .output import say


def add_parsers(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="write a trained model to a folder: safetensors, config and model card")
    export.add_argument("model", help="//sig/<signature>, an experiment's folder, a checkpoint or an export")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    add_adapter(export)
    export.add_argument("--title", help="title of the model card, default: the folder's name")
    export.add_argument("--license", default="unknown", help="licence of the weights, e.g. mit or cc-by-nc-4.0")
    export.add_argument("--data", default="", help="what the model was trained on, for the model card")
    export.set_defaults(run=_export)

    push = commands.add_parser("push", help="upload an export to the Hugging Face hub")
    push.add_argument("folder", type=Path, help="folder that `qamdt export` wrote")
    push.add_argument("hub_id", help="owner/name")
    push.add_argument("--private", action="store_true")
    push.add_argument("--revision", help="branch, default: main")
    push.set_defaults(run=_push)

    official = commands.add_parser("import-official", help="convert the authors' checkpoint to an export")
    official.add_argument(
        "checkpoint", help="published Lightning checkpoint, or owner/name or owner/name/FILE on the hub"
    )
    official.add_argument("overrides", nargs="*", help="settings of solver=qamdt, e.g. the text encoder's folder")
    official.add_argument("--out", type=Path, required=True, help="folder to write")
    official.add_argument("--vae", type=Path, help="the VAE's checkpoint, default: that in the published file")
    official.add_argument("--vocoder", type=Path, help="the HiFi-GAN's checkpoint, default: that in the published file")
    official.add_argument("--no-ema", dest="ema", action="store_false", help="use the last weights, not their average")
    official.add_argument("--num-heads", type=int, default=16)
    official.set_defaults(run=_import_official)


def _export(args: argparse.Namespace) -> int:
    from ..generation.export import Card, export_model

    folder = export_model(
        args.model, args.out, Card(args.title or args.out.name, args.license, args.data), args.adapter
    )
    say([f"{folder}: loads again and generates the same audio, bit for bit"])
    if args.license == "unknown":
        say(["The model card says license: unknown; give --license before you publish it"])
    return 0


def _push(args: argparse.Namespace) -> int:
    from ..generation.export import push

    say([push(args.folder, args.hub_id, private=args.private, revision=args.revision)])
    return 0


def _import_official(args: argparse.Namespace) -> int:
    from ..checkpoints.official import import_official

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
