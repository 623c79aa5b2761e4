"""`qamdt demo`: the whole way on synthetic music, from making data to hearing what quality 1, 3 and 5 sound like."""

from __future__ import annotations

import html
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from ..builders import SPLITS
from ..checkpoints.store import EMBEDDED, is_export
from ..compat import CONFIG_ROOT
from ..data.manifest import read_descriptions
from ..generation.export import Card, export_model
from ..generation.qamdt import QAMDT
from ..playground.dataset import RECIPE_FILE, make_dataset
from ..quality.annotate import annotate, score_clip
from ..quality.predictors.base import Predictor, load_predictor
from ..train import main
from ..utils import pages, plots
from ..utils.files import claim

from audiocraft.data.audio import audio_write

logger = logging.getLogger(__name__)

LEVELS = (1, 3, 5)
PROMPTS = 3
UPDATES = 100
PREDICTOR = "acoustic"


@dataclass
class Clip:
    """One generated clip and what can be measured of it."""

    file: str
    model: str
    prompt: str
    quality: int
    seconds: float
    crest_db: float
    rms_db: float
    pmos: float

    def row(self) -> list[pages.Cell]:
        """Return its row in the table."""
        numbers = (f"{self.seconds:.2f}", f"{self.crest_db:.1f}", f"{self.rms_db:.1f}", f"{self.pmos:.2f}")
        return [pages.Cell(text) for text in (self.file, self.model, self.prompt, str(self.quality), *numbers)]


HEAD = ("file", "model", "prompt", "quality asked", "s", "crest factor, dB", "RMS, dBFS", "p-MOS (acoustic)")


def run_demo(out: Path, *, tracks: int = 100, epochs: int = 3) -> Path:
    """Generate with the embedded model, then make data, annotate and train a model from nothing, and compare them.

    Args:
        out: folder of everything; what is in it already is reused, training resumes.
        tracks: size of the playground.
        epochs: of training, 100 updates each.
    Returns:
        A page with all clips, their spectrograms and a table; its path is the last line printed.
    """
    out = out.resolve()
    data, results = out / "data", out / "results"
    claim(out, "qamdt demo", lambda folder: (folder / "data" / RECIPE_FILE).is_file())
    results.mkdir(parents=True, exist_ok=True)
    predictor, clips = load_predictor(PREDICTOR), []
    logger.info("1/4 playground: %d tracks in %s", tracks, data)
    make_dataset(data, tracks=tracks)
    prompts = read_descriptions(data / "generate")[:PROMPTS]
    if is_export(EMBEDDED):
        logger.info("2/4 generate with the embedded model at quality %s", ", ".join(map(str, LEVELS)))
        clips += _generate(EMBEDDED, "embedded", prompts, results, predictor)
    logger.info("3/4 annotate with the predictor %r, and train solver=qamdt/playground from nothing", PREDICTOR)
    for split in SPLITS:
        annotate(data / split, predictor)
    experiment = _train(data, out / "outputs", epochs)
    card = Card("QA-MDT playground", "mit", "Synthetic music of `qamdt playground`: a test bench, not music quality.")
    export_model(str(experiment), out / "model", card)
    plots.loss_curve(json.loads((experiment / "history.json").read_text()), results / "loss.png")
    logger.info("4/4 generate with the new model")
    clips += _generate(experiment, "trained here", prompts, results, predictor)
    page = results / "demo.html"
    _write_page(page, clips)
    sys.stdout.write("\n".join([*pages.markdown_table(HEAD, (clip.row() for clip in clips)), str(page)]) + "\n")
    return page


def _train(data: Path, outputs: Path, epochs: int) -> Path:
    argv = [
        "solver=qamdt/playground",
        f"optim.epochs={epochs}",
        f"optim.updates_per_epoch={UPDATES}",
        "schedule.cosine.warmup=20",  # the recipe's is as long as an epoch of the demo
        "dataset.batch_size=16",
        "dataset.evaluate.num_samples=16",
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


def _generate(source: Path, model_name: str, prompts: list[str], results: Path, predictor: Predictor) -> list[Clip]:
    model = QAMDT.get_pretrained(str(source))
    clips = []
    for quality in LEVELS:
        for index, audio in enumerate(model.generate(list(prompts), quality)):
            name = f"{model_name.replace(' ', '_')}_quality{quality}_{index}"
            audio_write(results / name, audio, model.sample_rate, strategy="peak")
            plots.spectrogram(
                audio[0], model.sample_rate, results / f"{name}.png", f"quality {quality}: {prompts[index]}"
            )
            pmos = score_clip(predictor, audio, model.sample_rate).mean().item()
            seconds = audio.shape[-1] / model.sample_rate
            clips.append(Clip(f"{name}.wav", model_name, prompts[index], quality, seconds, *_levels(audio), pmos))
    return clips


def _levels(audio: Tensor) -> tuple[float, float]:
    """Return the crest factor (peak over root mean square) and the root mean square of a clip, in dB."""
    peak, rms = (
        20 * torch.log10(value.clamp(min=1e-6)).item() for value in (audio.abs().max(), audio.square().mean().sqrt())
    )
    return peak - rms, rms


def _write_page(page: Path, clips: list[Clip]) -> None:
    figures = [_figure(page.parent, clip) for clip in clips]
    table = pages.html_table(HEAD, (clip.row() for clip in clips))
    parts = ["<h1>QA-MDT demo</h1>", f'<div class="grid">{"".join(figures)}</div>', table]
    pages.write_page(page, "QA-MDT demo", [*parts, pages.pictures([page.parent / "loss.png"])])


def _figure(folder: Path, clip: Clip) -> str:
    sound = pages.embed((folder / clip.file).read_bytes(), "audio/wav")
    picture = pages.embed((folder / clip.file).with_suffix(".png").read_bytes(), "image/png")
    caption = html.escape(f"{clip.model}, quality {clip.quality}: {clip.prompt}")
    return (
        f'<figure><img src="{picture}" alt="{caption}"><audio controls src="{sound}"></audio>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
