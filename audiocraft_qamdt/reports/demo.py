"""`qamdt demo`: the whole way on synthetic music, from making data to hearing what quality 1, 3 and 5 sound like."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..builders import SPLITS
from ..compat import CONFIG_ROOT
from ..data.manifest import read_descriptions
from ..generation.export import Card, export_model
from ..generation.qamdt import QAMDT
from ..playground.dataset import make_dataset
from ..quality.annotate import annotate, score_clip
from ..quality.predictors.base import Predictor, load_predictor
from ..train import main
from ..utils import plots
from ..utils.files import replacing

from audiocraft.data.audio import audio_write  # isort: skip

logger = logging.getLogger(__name__)

LEVELS = (1, 3, 5)
PROMPTS = 4
PREDICTOR = "acoustic"


@dataclass
class Clip:
    """One generated clip and what can be measured of it."""

    file: str
    prompt: str
    quality: int
    seconds: float
    peak_db: float
    rms_db: float
    pmos: float

    def row(self) -> str:
        return (
            f"| {self.file} | {self.prompt} | {self.quality} | {self.seconds:.2f} | {self.peak_db:.1f} | "
            f"{self.rms_db:.1f} | {self.pmos:.2f} |"
        )


def run_demo(out: Path, *, tracks: int = 400, epochs: int = 4) -> Path:
    """Make data, annotate, train briefly, generate at several quality levels, draw and tabulate.

    Args:
        out: folder of everything; what is in it already is reused, training resumes.
        tracks: size of the playground.
        epochs: of training, 200 updates each.
    Returns:
        The folder with the results; its path is the last line printed.
    """
    out = out.resolve()
    data, results = out / "data", out / "results"
    results.mkdir(parents=True, exist_ok=True)
    logger.info("1/4 playground: %d tracks in %s", tracks, data)
    make_dataset(data, tracks=tracks)
    logger.info("2/4 annotate with the predictor %r", PREDICTOR)
    predictor = load_predictor(PREDICTOR)
    for split in SPLITS:
        annotate(data / split, predictor)
    logger.info("3/4 train solver=qamdt/playground for %d epochs", epochs)
    experiment = _train(data, out / "outputs", epochs)
    card = Card("QA-MDT playground", "mit", "Synthetic music of `qamdt playground`: a test bench, not music quality.")
    export_model(str(experiment), out / "model", card)
    plots.loss_curve(json.loads((experiment / "history.json").read_text()), results / "loss.png")
    logger.info("4/4 generate at quality %s", ", ".join(map(str, LEVELS)))
    clips = _generate(experiment, read_descriptions(data / "generate")[:PROMPTS], results, predictor)
    with replacing(results / "table.md") as part:
        part.write_text(_table(clips))
    sys.stdout.write(f"{_table(clips)}\n{results}\n")
    return results


def _train(data: Path, outputs: Path, epochs: int) -> Path:
    argv = [
        "solver=qamdt/playground",
        f"optim.epochs={epochs}",
        *(f"datasource.{split}={data / split}" for split in SPLITS),
    ]
    environment = {**os.environ, "AUDIOCRAFT_DORA_DIR": str(outputs)}
    subprocess.run(
        [sys.executable, "-m", "dora", "-P", "audiocraft_qamdt", "run", *argv],
        cwd=CONFIG_ROOT.parent,
        env=environment,
        check=True,
    )
    main.dora.dir = outputs
    return main.get_xp(argv).folder


def _generate(experiment: Path, prompts: list[str], results: Path, predictor: Predictor) -> list[Clip]:
    model = QAMDT.get_pretrained(str(experiment))
    clips = []
    for quality in LEVELS:
        for index, audio in enumerate(model.generate(list(prompts), quality)):
            name = f"quality{quality}_{index}"
            audio_write(results / name, audio, model.sample_rate, strategy="peak")
            plots.spectrogram(
                audio[0], model.sample_rate, results / f"{name}.png", f"quality {quality}: {prompts[index]}"
            )
            clips.append(_measure(f"{name}.wav", prompts[index], quality, audio, model.sample_rate, predictor))
    return clips


def _measure(file: str, prompt: str, quality: int, audio: Tensor, sample_rate: int, predictor: Predictor) -> Clip:
    peak, rms = (
        20 * torch.log10(value.clamp(min=1e-6)).item() for value in (audio.abs().max(), audio.square().mean().sqrt())
    )
    pmos = score_clip(predictor, audio, sample_rate).mean().item()
    return Clip(file, prompt, quality, audio.shape[-1] / sample_rate, peak, rms, pmos)


def _table(clips: list[Clip]) -> str:
    head = [
        "| file | prompt | quality asked | s | peak dBFS | RMS dBFS | p-MOS (acoustic) |",
        "|---|---|---|---|---|---|---|",
    ]
    scores = {level: [clip.pmos for clip in clips if clip.quality == level] for level in LEVELS}
    means = [f"Mean p-MOS at quality {level}: {sum(found) / len(found):.2f}" for level, found in scores.items()]
    return "\n".join([*head, *(clip.row() for clip in clips), "", *means])
