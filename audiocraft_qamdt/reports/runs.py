"""One self-contained HTML page about experiments: losses, metrics by epoch, spectrograms and playable samples."""

from __future__ import annotations

import html
import io
import json
import logging
import typing as tp
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

from ..builders import get_level_rule, get_quality_statistics
from ..metrics.base import evaluations, safe
from ..metrics.losses import BY_LEVEL, QUARTERS
from ..quality.levels import LevelRule
from ..utils import pages, plots
from ..utils.checks import is_number

logger = logging.getLogger(__name__)

PAGE = "report.html"
SMALL = (4.6, 3.0)  # inches
UNKNOWN = "unknown"
FORMATS = (".wav", ".mp3", ".ogg", ".flac")  # what AudioCraft writes


@dataclass
class Sample:
    """A generated clip.

    Args:
        audio: its file.
        description: what was asked for; None = unconditional.
        level: quality level that was asked for, or that of the reference clip; None = unknown.
        epoch: when it was generated.
    """

    audio: Path
    description: str | None
    level: int | None
    epoch: int

    @property
    def group(self) -> str:
        """Return the heading under which it is shown."""
        return UNKNOWN if self.level is None else str(self.level)


@dataclass
class Run:
    """An experiment.

    Args:
        name: its signature.
        argv: what it was started with.
        history: metrics by epoch and stage.
        samples: of the last epoch that generated some.
    """

    name: str
    argv: list[str]
    history: list[dict[str, dict[str, float]]]
    samples: list[Sample]


def find_run(signature: str) -> Run:
    """Read an experiment from Dora's folder.

    Raises:
        ValueError: there is none with that signature.
    """
    from ..train import main

    signature = signature.removeprefix("//sig/")
    try:
        xp = main.get_xp_from_sig(signature)
    except RuntimeError as error:
        raise ValueError(
            f"no experiment {signature} in {main.dora.dir}: set AUDIOCRAFT_DORA_DIR to where it ran"
        ) from error
    statistics = get_quality_statistics(xp.cfg)
    rule = get_level_rule(xp.cfg.quality, statistics)
    samples = _last_samples(xp.folder / xp.cfg.generate.path, rule)
    return Run(signature, list(xp.argv), main.get_xp_history(xp), samples)


def _last_samples(folder: Path, rule: LevelRule | None) -> list[Sample]:
    epochs = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if not epochs:
        return []
    found = [_sample(path, rule) for path in sorted((folder / str(epochs[-1])).glob("*.json"))]
    return [sample for sample in found if sample.audio.exists()]


def _sample(path: Path, rule: LevelRule | None) -> Sample:
    fields = json.loads(path.read_text())
    conditions = fields.get("conditioning") or {}
    asked = (fields.get("generation_args") or {}).get("quality")
    quality = next((value for key, value in conditions.items() if key.startswith("quality") and is_number(value)), None)
    level = None if asked is None else round(asked)
    if level is None and isinstance(quality, int):
        level = quality
    elif level is None and quality is not None and rule is not None:
        level = rule.level(quality)  # a p-MOS, as samples written until 0.1.0 have it
    written = (path.with_suffix(suffix) for suffix in FORMATS)
    audio = next((other for other in written if other.exists()), path.with_suffix(FORMATS[0]))
    return Sample(audio, conditions.get("description"), level, fields["epoch"])


def write_report(runs: list[Run], out: Path, *, samples_per_level: int = 4) -> Path:
    """Write the page, and its pictures beside it.

    Args:
        runs: experiments to show side by side.
        out: folder.
        samples_per_level: clips shown of each quality level of each run.
    Returns:
        The page, which needs none of the other files.
    """
    out.mkdir(parents=True, exist_ok=True)
    title = f"QA-MDT: {', '.join(run.name for run in runs)}"
    parts = [f"<h1>{html.escape(title)}</h1>", *map(_summary, runs)]
    parts += ["<h2>Loss</h2>", pages.pictures([_loss(runs, out), *_loss_parts(runs, out)])]
    parts += ["<h2>Metrics by epoch</h2>", pages.pictures(_metrics(runs, out)), *map(_table, runs)]
    for run in runs:
        parts += [f"<h2>Samples of {html.escape(run.name)} by quality level</h2>"]
        parts += _samples(run, out, samples_per_level)
    pages.write_page(out / PAGE, title, parts)
    return out / PAGE


def _summary(run: Run) -> str:
    arguments = " ".join(f"<code>{html.escape(argument)}</code>" for argument in run.argv) or "default settings"
    return f"<p><b>{html.escape(run.name)}</b>, {len(run.history)} epochs: {arguments}</p>"


def _loss(runs: list[Run], out: Path) -> Path:
    histories = {run.name if len(runs) > 1 else "": run.history for run in runs}
    quantities = {"train": "loss", "valid": "loss"}
    plots.curves(histories, quantities, out / "loss.png", ylabel="loss (min-SNR weighted)", title="Loss", size=SMALL)
    return out / "loss.png"


def _loss_parts(runs: list[Run], out: Path) -> list[Path]:
    """Plot each run's validation loss by quarter of the timesteps and by level, where its history has it."""
    drawn = []
    for run in runs:
        for name, parts in (("timestep", QUARTERS), ("level", BY_LEVEL)):
            lines = {label: [_part(epoch, key) for epoch in run.history] for key, label in parts.items()}
            lines = {label: epochs for label, epochs in lines.items() if any(epochs)}
            if lines:
                drawn.append(out / f"loss_by_{name}_{run.name}.png")
                title = f"Validation loss by {name}, {run.name}"
                plots.curves(lines, {"valid": "loss"}, drawn[-1], ylabel="loss", title=title, size=SMALL)
    return drawn


def _part(epoch: dict[str, dict[str, float]], key: str) -> dict[str, dict[str, float]]:
    """Return an epoch whose validation loss is that of one part; {} = it has none."""
    value = epoch.get("valid", {}).get(key)
    return {} if value is None else {"valid": {"loss": value}}


def _metrics(runs: list[Run], out: Path) -> list[Path]:
    """Return a plot for each metric that some run has of more than one epoch."""
    drawn = []
    names = {key: None for run in runs for values in evaluations(run.history).values() for key in values}
    for name in names:
        if all(sum(name in values for values in evaluations(run.history).values()) < 2 for run in runs):
            continue
        drawn.append(out / f"metric_{safe(name.replace('/', '-'))}.png")
        histories = {run.name if len(runs) > 1 else "": run.history for run in runs}
        plots.curves(histories, {"evaluate": name}, drawn[-1], ylabel="", title=name, size=SMALL)
    return drawn


def _table(run: Run) -> str:
    measured = evaluations(run.history)
    if not measured:
        return f"<p>{html.escape(run.name)} was not evaluated.</p>"
    names = list(dict.fromkeys(key for values in measured.values() for key in values))
    head = [run.name, *(f"epoch {epoch}" for epoch in measured)]
    rows = ([pages.Cell(name), *(_cell(values.get(name)) for values in measured.values())] for name in names)
    return pages.html_table(head, rows)


def _cell(value: float | None) -> pages.Cell:
    return pages.Cell("" if value is None else f"{value:.4g}")


def _samples(run: Run, out: Path, count: int) -> tp.Iterator[str]:
    if not run.samples:
        yield f"<p>{html.escape(run.name)} has no samples.</p>"
    for group in sorted({sample.group for sample in run.samples}):
        chosen = [sample for sample in run.samples if sample.group == group]
        epoch = html.escape(str(chosen[0].epoch))
        yield f"<h3>Quality {html.escape(group)}: {min(count, len(chosen))} of {len(chosen)}, epoch {epoch}</h3>"
        figures = (_figure(sample, out, f"{run.name}_{group}_{index}") for index, sample in enumerate(chosen[:count]))
        yield f'<div class="grid">{"".join(figures)}</div>'


def _figure(sample: Sample, out: Path, name: str) -> str:
    audio, sample_rate = soundfile.read(sample.audio, dtype="float32", always_2d=True)
    picture = out / f"{name}.png"
    plots.spectrogram(torch.from_numpy(audio.T), sample_rate, picture)
    flac = io.BytesIO()
    soundfile.write(flac, audio, sample_rate, format="FLAC")
    return (
        f'<figure><img src="{pages.embed(picture.read_bytes(), "image/png")}" alt="spectrogram">'
        f'<audio controls preload="metadata" src="{pages.embed(flac.getvalue(), "audio/flac")}"></audio>'
        f"<figcaption>{html.escape(sample.description or 'no description')}</figcaption></figure>"
    )
