"""`qamdt quality-curve`: judge clips at every quality level."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..generation.params import PMOS, scorer_names
from ..utils.files import claim, holds_only, refuse_foreign
from .generate import add_knobs, add_rerank, given_knobs, rerank_settings
from .output import say

_CANDIDATES = 8
_CHOSEN = ("duration", "steps", "sampler", "guidance_scale", "quality_scale")

_OWN = ("qamdt quality-curve", holds_only("quality_curve.json", "quality_curve.*"))


def add_parsers(commands: argparse._SubParsersAction) -> None:
    curve = commands.add_parser("quality-curve", help="judge clips generated at every quality level")
    curve.add_argument("model", help="export, checkpoint, experiment's folder or //sig/<signature>")
    curve.add_argument("--data", type=Path, required=True, help="manifest whose descriptions are the prompts")
    curve.add_argument("--out", type=Path, default=Path("quality_curve"), help="folder for the figures and the plot")
    curve.add_argument("--judge", default="playground", help="predictor that judges, not the training data's")
    curve.add_argument("--clips", type=int, default=64, help="clips at each level")
    curve.add_argument("--batch-size", type=int, default=16)
    curve.add_argument("--seed", type=int, default=0)
    curve.add_argument("--device", default="auto")
    add_knobs(curve, [*_CHOSEN, "candidates"])
    add_rerank(curve, "judge the best of 1, 2, 4, ... --candidates (default: 8) at level 5, too")
    curve.set_defaults(run=_quality_curve)


def _quality_curve(args: argparse.Namespace) -> int:
    from ..checkpoints import loading
    from ..data.manifest import read_descriptions
    from ..generation.qamdt import QAMDT
    from ..quality.predictors.base import load_predictor
    from ..reports.quality_curve import along_rise, by_candidates, by_level, write_curves

    refuse_foreign(args.out, *_OWN)
    if args.rerank and f"{PMOS}:{args.judge}" in scorer_names(args.rerank):
        raise ValueError(f"--judge {args.judge} chooses among the candidates of --rerank {args.rerank}: choose another")
    model = QAMDT.get_pretrained(args.model, args.device)
    labels = loading.load(args.model).quality_statistics.get("predictor")
    judge = load_predictor(args.judge, args.device)
    if judge.name == labels:
        raise ValueError(f"--judge {judge.name} labelled the training data of {args.model}: choose another judge")
    model.set_generation_params(candidates=1, **given_knobs(args, _CHOSEN))
    prompts = read_descriptions(args.data)
    options = {"clips": args.clips, "batch_size": args.batch_size, "seed": args.seed}
    curves = {"level": by_level(model, prompts, judge, **options)}
    if "frame" in model.model.backbone.quality:
        curves["rise"] = along_rise(model, prompts, judge, **options)
    if args.rerank:
        chosen = rerank_settings(args, model.params.clap)
        model.set_generation_params(candidates=args.candidates or _CANDIDATES, **chosen)
        curves["best_of"] = by_candidates(model, prompts, judge, **options)
    say([*write_curves(curves, judge, labels or "an unknown predictor", claim(args.out, *_OWN)), "", str(args.out)])
    return 0
