"""`qamdt evaluate`: the solver's metrics on folders of audio; and the classifier that the playground is judged with."""

from __future__ import annotations

import argparse
import logging
import typing as tp
from dataclasses import asdict
from pathlib import Path

from ..utils.reading import JsonObject
from .output import say

if tp.TYPE_CHECKING:
    from ..metrics.folders import FolderReport

logger = logging.getLogger(__name__)

OLD_NAMES = {"fad": "frechet", "is": "inception"}
"""Names of --metrics that metrics had before → the names that they have everywhere."""
DEFAULT_METRICS = "frechet:playground,inception:playground,pmos:acoustic,silence"


def add_parsers(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a folder of audio, made by any system")
    evaluate.add_argument("--generated", type=Path, required=True, help="folder of audio to measure")
    evaluate.add_argument("--reference", type=Path, help="folder to compare with; files of the same name are pairs")
    evaluate.add_argument("--against", type=Path, help="second folder to measure; each difference gets a p-value")
    evaluate.add_argument(
        "--metrics",
        default=DEFAULT_METRICS,
        help="comma-separated: frechet:NETWORK, kad:NETWORK, coverage:NETWORK, inception:NETWORK, kl:NETWORK, "
        "clap:clap, pmos:PREDICTOR, silence; "
        "NETWORK is playground, vggish, passt, clap or encodec, with =CHECKPOINT for other weights (default: "
        f"{DEFAULT_METRICS})",
    )
    evaluate.add_argument("--captions", type=Path, help="JSON, JSON lines or CSV; default: sidecars beside the files")
    evaluate.add_argument(
        "--out",
        type=Path,
        required=True,
        help="JSON to write (x.json, x.v1; of x.md, too); a Markdown table goes beside it (x.md, x.v1.md, x.md.md)",
    )
    evaluate.add_argument("--cache", type=Path, help="folder of reference statistics, default: in the user's cache")
    evaluate.add_argument("--no-extrapolate", action="store_true", help="skip the distance at infinite N")
    evaluate.add_argument("--best-of", type=int, help="candidates that each clip was chosen from; recorded in the key")
    evaluate.add_argument("--seed", type=int, help="seed that the clips were generated with; recorded in the key")
    evaluate.add_argument("--device", default="auto")
    evaluate.set_defaults(run=_evaluate)

    train = commands.add_parser("playground-classifier", help="train the network of the playground's metrics")
    train.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    train.add_argument("--pieces", type=int, default=3000)
    train.add_argument("--epochs", type=int, default=8)
    train.set_defaults(run=_train_classifier)


def parse_metrics(text: str) -> tuple[dict[str, list[str]], dict[str, JsonObject]]:
    """Return switches and networks' settings from "frechet:vggish=model.pth,pmos:acoustic".

    Returns:
        Metric → networks or predictors, as `evaluate.metrics`; network → settings, as in `metrics`.
    Raises:
        ValueError: the same network with two checkpoints.
    """
    switches: dict[str, list[str]] = {}
    settings: dict[str, JsonObject] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        metric, _, rest = item.partition(":")
        network, _, checkpoint = rest.partition("=")
        if metric in OLD_NAMES:
            logger.warning("--metrics %s: this metric is called %s", metric, OLD_NAMES[metric])
            metric = OLD_NAMES[metric]
        switches.setdefault(metric, []).append(network)
        known = settings.setdefault(network, {"checkpoint": checkpoint}) if checkpoint else {}
        if known.get("checkpoint", checkpoint) != checkpoint:
            raise ValueError(f"--metrics names two checkpoints of {network}: one at a time")
    return switches, settings


def _evaluate(args: argparse.Namespace) -> int:
    from ..builders import resolve_device
    from ..metrics.folders import cache_folder, evaluate_folders
    from ..metrics.networks import Networks
    from ..metrics.table import Setup, build_metrics
    from ..utils.outputs import check_file, check_ours

    table = _table_path(args.out)
    # JSON goes to the path as it was typed, so that the table beside it can never be what replaces it.
    check_file(args.out, (".json", ".md"))
    check_ours(args.out, lambda content: {"generated", "numbers", "scores"} <= content.keys(), "the results")
    if table.exists() and not args.out.exists():
        raise FileExistsError(f"{table} is there without {args.out}: the table would replace it, choose another --out")
    switches, settings = parse_metrics(args.metrics)
    device = resolve_device(args.device)
    setup = Setup(Networks(settings, device), {"frechet": {"extrapolate": not args.no_extrapolate}}, device)
    reports = [
        evaluate_folders(
            folder,
            args.reference,
            lambda: build_metrics(switches, setup),
            captions=args.captions,
            cache=args.cache or cache_folder(),
            best_of=args.best_of,
            seed=args.seed,
        )
        for folder in (args.generated, args.against)
        if folder is not None
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    _write(args.out, table, reports)
    return 0


def _write(out: Path, table: Path, reports: list[FolderReport]) -> None:
    """Write one or two folders' numbers and their table, and show the table."""
    from ..utils.files import replacing, write_json

    first, *more = reports
    content, lines = first.to_dict(), first.markdown()
    for other in more:
        comparison = [asdict(found) for found in first.against(other)]
        content |= {"against": other.to_dict(), "comparison": comparison}
        lines = first.markdown_against(other)
    write_json(out, content)
    with replacing(table) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spent = [f"{one.clips} clips, {one.audio_seconds:.0f} s of audio in {one.seconds:.1f} s" for one in reports]
    say([*lines, *spent])


def _table_path(out: Path) -> Path:
    """Where the table goes: two results never share one, whatever their names end with."""
    return out.with_suffix(".md") if out.suffix.lower() == ".json" else out.with_name(f"{out.name}.md")


def _train_classifier(args: argparse.Namespace) -> int:
    from ..playground.classifier import evaluate_classifier, save_classifier, train_classifier

    classifier, losses = train_classifier(pieces=args.pieces, epochs=args.epochs)
    save_classifier(classifier, args.out)
    measured = evaluate_classifier(classifier)
    say([f"{args.out}: loss {losses[-1]:.3f}", *(f"held out, {name}: {value:.3f}" for name, value in measured.items())])
    return 0
