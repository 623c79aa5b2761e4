"""`python -m benchmarks.evaluation`: the cost of an evaluation beside one pass of its networks, and its memory.

For each number of clips, of 10 s against as many references, processes of their own measure processor time on one
thread and peak memory: `networks` reads every clip and hands it to every network once, `evaluation` is
`evaluate_folders` with all metrics that need no download, and `metrics` measures random outputs of a network.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.compat import prepare
from audiocraft_qamdt.metrics.base import Batch, Clip, Network, Outputs
from audiocraft_qamdt.metrics.folders import evaluate_folders, named_audio, read_clip, table_of
from audiocraft_qamdt.metrics.networks import Networks
from audiocraft_qamdt.metrics.signal import normalize
from audiocraft_qamdt.metrics.table import Evaluation, Setup, Switch, build_metrics
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.annotate import score_clip
from audiocraft_qamdt.utils.files import write_json

SAMPLE_RATE, SECONDS = 16000, 10.0
PIECES = 12  # that clips are mixed from
PREDICTORS = ("acoustic", "playground")
SWITCHES: dict[str, Switch] = {
    **dict.fromkeys(("frechet", "kad", "coverage", "inception", "kl"), "playground"),
    "pmos": list(PREDICTORS),
    "silence": True,
}


def write_clips(folder: Path, count: int) -> None:
    """Write clips to `folder`/generated and /reference, each another mixture of a few pieces."""
    pieces = np.stack([render(compose(3, index), SECONDS, SAMPLE_RATE) for index in range(PIECES)])
    for side, noise in enumerate((0.02, 0.002)):
        target = folder / ("generated", "reference")[side]
        target.mkdir()
        for index in range(count):
            draw = np.random.default_rng((side, index))
            chosen = np.roll(pieces[draw.integers(PIECES)], draw.integers(pieces.shape[1]))
            clip = chosen + 0.3 * pieces[draw.integers(PIECES)] + noise * draw.normal(size=pieces.shape[1])
            soundfile.write(target / f"{index:05d}.wav", 0.5 * clip / np.abs(clip).max(), SAMPLE_RATE)


def pass_networks(folder: Path, _: int) -> None:
    """Read every clip and hand it to every network once."""
    setup = Setup(Networks({}))
    network, predictors = setup.networks.get("playground"), [setup.predictor(name) for name in PREDICTORS]
    for side in ("generated", "reference"):
        for path in named_audio(folder / side).values():
            clip = read_clip(path)
            clip.outputs(network)
            for predictor in predictors if side == "generated" else []:
                score_clip(predictor, normalize(clip.audio, clip.sample_rate)[None], clip.sample_rate)


def evaluate(folder: Path, _: int) -> None:
    """Measure the clips with all metrics."""
    evaluate_folders(folder / "generated", folder / "reference", lambda: build_metrics(SWITCHES, Setup(Networks({}))))


class Drawn(Network):
    """A network that costs nothing: random outputs of the sizes of the playground's."""

    name, dim, classes, module = "drawn", 64, 14, torch.nn.Identity()

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        draw = torch.Generator().manual_seed(int(audio[0]))
        embeddings = torch.randn(round(SECONDS / 0.5) - 1, self.dim, generator=draw)
        return Outputs(embeddings, torch.rand(self.classes, generator=draw).softmax(0))


def _seeds(index: int) -> tuple[float, float]:
    """Different ones for the generated clip and its reference."""
    return 2.0 * index, 2.0 * index + 1


def metrics_alone(_: Path, count: int) -> None:
    """Measure random outputs with all metrics that have a network: what they add to it."""
    networks = Networks({})
    networks.loaded["playground"] = Drawn()
    names = ("frechet", "kad", "coverage", "inception", "kl")
    evaluation = Evaluation(build_metrics(dict.fromkeys(names, "playground"), Setup(networks)))
    for index in range(count):
        generated, reference = (Clip(f"{index}", torch.tensor([seed]), SAMPLE_RATE) for seed in _seeds(index))
        evaluation.update(Batch([generated], [reference]))
    evaluation.numbers()
    evaluation.scores()


WORK: dict[str, Callable[[Path, int], None]] = {
    "networks": pass_networks,
    "evaluation": evaluate,
    "metrics": metrics_alone,
}


def measure(name: str, folder: Path, count: int) -> dict[str, float]:
    """Do the work of that name and return its processor seconds and the process's peak memory in MiB."""
    torch.set_num_threads(1)
    prepare()
    begin = time.process_time()
    WORK[name](folder, count)
    seconds = time.process_time() - begin
    return {"seconds": seconds, "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure_all(names: list[str], count: int) -> list[dict[str, object]]:
    """Measure works on so many clips, each in a process of its own."""
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        if set(names) - {"metrics"}:
            write_clips(Path(scratch), count)
        for name in names:
            command = [sys.executable, "-m", "benchmarks.evaluation", "--child", name, scratch, str(count)]
            done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True)
            results.append({"work": name, "clips": count, **json.loads(done.stdout)})
    return results


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--works", nargs="+", choices=tuple(WORK), default=list(WORK))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/evaluation.json"))
    parser.add_argument("--child", nargs=3, metavar=("NAME", "FOLDER", "CLIPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder, count = options.child
        say([json.dumps(measure(name, Path(folder), int(count)))])
        return 0
    results = [found for count in options.clips for found in measure_all(options.works, count)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"results": results})
    rows = [[f"{found[key]:,.4g}" if key != "work" else str(found[key]) for key in found] for found in results]
    say(table_of([["work", "clips", "processor time, s", "peak memory, MiB"], ["---"] * 4, *rows]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
