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
    from ..metrics.table import Setup

logger = logging.getLogger(__name__)

OLD_NAMES = {"fad": "frechet", "is": "inception"}
"""Names of --metrics that metrics had before → the names that they have everywhere."""
DEFAULT_METRICS = "frechet:playground,inception:playground,pmos:acoustic,silence"
CALIBRATED_METRICS = (
    "frechet:playground,kad:playground,coverage:playground,inception:playground,kl:playground,pmos:acoustic,"
    "pmos:playground,silence"
)


def add_parsers(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a folder of audio, made by any system")
    evaluate.add_argument("--generated", type=Path, required=True, help="folder of audio to measure")
    evaluate.add_argument("--reference", type=Path, help="folder to compare with; files of the same name are pairs")
    evaluate.add_argument("--against", type=Path, help="second folder to measure; each difference gets a p-value")
    evaluate.add_argument(
        "--metrics",
        help="comma-separated: frechet:NETWORK, kad:NETWORK, coverage:NETWORK, inception:NETWORK, kl:NETWORK, "
        "agreement:NETWORK, clap:clap, pmos:PREDICTOR, aesthetics, silence; "
        "NETWORK is playground, vggish, passt, panns, clap, encodec, mert, openl3 or another package's, with "
        f"=CHECKPOINT for other weights (default: {DEFAULT_METRICS}; with --calibrate more)",
    )
    evaluate.add_argument(
        "--protocol",
        default="ours",
        help="whose conventions networks follow: ours (the default), audiocraft, fadtk, frechet-audio-distance, "
        "audioldm_eval or stable-audio",
    )
    evaluate.add_argument("--captions", type=Path, help="JSON, JSON lines or CSV; default: sidecars beside the files")
    evaluate.add_argument(
        "--out",
        type=Path,
        required=True,
        help="JSON to write; a Markdown table goes beside it: x.md of x.json, NAME.md of any other NAME",
    )
    evaluate.add_argument("--cache", type=Path, help="folder of reference statistics, default: in the user's cache")
    evaluate.add_argument("--no-extrapolate", action="store_true", help="skip the distance at infinite N")
    evaluate.add_argument("--best-of", type=int, help="candidates that each clip was chosen from; recorded in the key")
    evaluate.add_argument("--seed", type=int, help="seed that the clips were generated with; recorded in the key")
    evaluate.add_argument("--device", default="auto")
    _add_calibration(evaluate)
    evaluate.set_defaults(run=_evaluate)

    train = commands.add_parser("playground-classifier", help="train the network of the playground's metrics")
    train.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    train.add_argument("--pieces", type=int, default=3000)
    train.add_argument("--epochs", type=int, default=8)
    train.set_defaults(run=_train_classifier)


def _add_calibration(evaluate: argparse.ArgumentParser) -> None:
    group = evaluate.add_argument_group("calibration", "how far to trust the metrics: see docs/evaluation.md")
    group.add_argument(
        "--calibrate",
        action="store_true",
        help="degrade the folder of --generated (real music) step by step, and tell from which step on each metric "
        "notices; distances compare with --reference, or else with every second file",
    )
    group.add_argument("--kinds", help="comma-separated kinds of degradation (default: all)")
    group.add_argument("--strengths", help="comma-separated, above 0 up to 1 (default: 0.1,0.2,0.4,0.6,0.8,1)")
    group.add_argument("--clip-seconds", type=float, help="duration of the excerpt of each file (default: 5)")
    group.add_argument("--clips", type=int, help="excerpts to take in all (default: one of each file)")


_CALIBRATION = ("kinds", "strengths", "clip_seconds", "clips")
_EVALUATION = ("against", "best_of", "seed")


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
    from ..metrics.networks import Networks
    from ..metrics.table import Setup
    from ..utils.outputs import check_beside, check_file, check_ours

    _check_options(args)
    table = _table_path(args.out)
    # JSON goes to the path as it was typed, so that the table beside it can never be what replaces it.
    check_file(args.out, (".json", ".md"))
    check_ours(args.out, _is_result, "the results")
    check_beside(args.out, table, *([table.with_suffix(".png")] if args.calibrate else []))
    switches, settings = parse_metrics(args.metrics or (CALIBRATED_METRICS if args.calibrate else DEFAULT_METRICS))
    device = resolve_device(args.device)
    options = {"frechet": {"extrapolate": not args.no_extrapolate, "per_clip": not args.calibrate}}
    setup = Setup(Networks(settings, device, args.protocol), options, device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    (_calibrate if args.calibrate else _measure)(args, table, switches, setup)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    without = _EVALUATION if args.calibrate else _CALIBRATION
    given = [f"--{name.replace('_', '-')}" for name in without if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: {'not with' if args.calibrate else 'only with'} --calibrate")


def _is_result(content: JsonObject) -> bool:
    return {"generated", "numbers", "scores"} <= content.keys() or {"generated", "responses"} <= content.keys()


def _measure(args: argparse.Namespace, table: Path, switches: dict[str, list[str]], setup: Setup) -> None:
    from ..metrics.folders import cache_folder, evaluate_folders
    from ..metrics.table import build_metrics

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
    _write(args.out, table, reports)


def _calibrate(args: argparse.Namespace, table: Path, switches: dict[str, list[str]], setup: Setup) -> None:
    from ..metrics.calibration import calibrate, draw
    from ..metrics.folders import cache_folder
    from ..metrics.table import build_metrics
    from ..utils.files import write_json, write_lines

    chosen: JsonObject = {"seconds": args.clip_seconds, "clips": args.clips}
    if args.kinds is not None:
        chosen["kinds"] = args.kinds.split(",")
    if args.strengths is not None:
        chosen["strengths"] = _strengths(args.strengths)
    found = calibrate(
        args.generated,
        args.reference,
        lambda: build_metrics(switches, setup),
        captions=args.captions,
        cache=args.cache or cache_folder(),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    write_json(args.out, found.to_dict())
    draw(found, table.with_suffix(".png"))
    write_lines(table, found.markdown())
    say([*found.markdown(), f"{found.clips} clips degraded; plot: {table.with_suffix('.png')}"])


def _strengths(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--strengths {text}: give numbers with commas between them, e.g. 0.2,0.5,1") from error


def _write(out: Path, table: Path, reports: list[FolderReport]) -> None:
    """Write one or two folders' numbers and their table, and show the table."""
    from ..utils.files import write_json, write_lines

    first, *more = reports
    content, lines = first.to_dict(), first.markdown()
    for other in more:
        comparison = [asdict(found) for found in first.against(other)]
        content |= {"against": other.to_dict(), "comparison": comparison}
        lines = first.markdown_against(other)
    write_json(out, content)
    write_lines(table, lines)
    spent = [f"{one.clips} clips, {one.audio_seconds:.0f} s of audio in {one.seconds:.1f} s" for one in reports]
    say([*lines, *spent])


def _table_path(out: Path) -> Path:
    """Return the table's file: two results never share one, whatever their names end with."""
    return out.with_suffix(".md") if out.suffix.lower() == ".json" else out.with_name(f"{out.name}.md")


def _train_classifier(args: argparse.Namespace) -> int:
    from ..playground.classifier import evaluate_classifier, save_classifier, train_classifier

    classifier, losses = train_classifier(pieces=args.pieces, epochs=args.epochs)
    save_classifier(classifier, args.out)
    measured = evaluate_classifier(classifier)
    say([f"{args.out}: loss {losses[-1]:.3f}", *(f"held out, {name}: {value:.3f}" for name, value in measured.items())])
    return 0
