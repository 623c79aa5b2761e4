"""Pictures of a run: loss curves and spectrograms, as PNG files."""

from __future__ import annotations

import math
import textwrap
import typing as tp
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

History: tp.TypeAlias = list[dict[str, dict[str, float]]]
"""Metrics by epoch and stage, as Dora keeps them."""

LABEL_WIDTH = 40  # characters of a line beside a bar


def loss_curve(history: History, path: str | Path) -> None:
    """Plot training and validation loss by epoch.

    Args:
        history: a Dora history: for each epoch, metrics by stage.
        path: PNG to write.
    """
    curves({"": history}, {"train": "loss", "valid": "loss"}, path, ylabel="loss (min-SNR weighted)", title="Loss")


def curves(
    histories: tp.Mapping[str, History],
    quantities: tp.Mapping[str, str],
    path: str | Path,
    *,
    ylabel: str,
    title: str,
    size: tuple[float, float] = (6, 4),
) -> None:
    """Plot quantities of several runs by epoch, a colour for each run and a line style for each stage.

    Args:
        histories: Dora histories by the name of the run.
        quantities: stage → its metric to draw; what a run does not have is left out.
        path: PNG to write.
        size: inches.
    """
    with _figure(path, size) as axes:
        for run, (name, history) in enumerate(histories.items()):
            for (stage, quantity), style in zip(quantities.items(), ("-", "--", ":"), strict=False):
                found = [(epoch, stages.get(stage, {}).get(quantity)) for epoch, stages in enumerate(history, 1)]
                points = [(epoch, value) for epoch, value in found if value is not None]
                if points:
                    label = " ".join(filter(None, (name, stage)))
                    axes.plot(*zip(*points, strict=True), style, color=f"C{run}", marker="o", markersize=3, label=label)
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.set_title(title, fontsize=12 if len(title) < 40 else 8)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()


def spectrogram(audio: Tensor, sample_rate: int, path: str | Path, title: str = "") -> None:
    """Draw a spectrogram in dB relative to full scale.

    Args:
        audio: [S], or [channels, S] whose mean power is drawn.
        path: PNG to write.
    """
    window = torch.hann_window(1024)
    channels = torch.atleast_2d(audio)
    spectra = torch.stft(channels, 1024, 256, window=window, return_complex=True).abs() / window.sum() * 2
    magnitude = spectra.square().mean(dim=0).sqrt()
    with _figure(path, (8, 3)) as axes:
        image = axes.imshow(
            20 * magnitude.clamp(min=1e-6).log10().numpy(),
            origin="lower",
            aspect="auto",
            vmin=-100,
            vmax=0,
            extent=(0, audio.shape[-1] / sample_rate, 0, sample_rate / 2000),
            cmap="magma",
        )
        axes.set(xlabel="seconds", ylabel="kHz", title=title)
        axes.figure.colorbar(image, ax=axes, label="dBFS")


def quality_curves(curves: dict[str, dict[str, list[float]]], judge: str, path: str | Path) -> None:
    """Plot judged quality against the level asked for, along clips whose level rises, and against candidates.

    Args:
        curves: "level" and perhaps "rise" and "best_of" → `at`, `mean`, `low`, `high` [K] and `rank_correlation`.
        judge: who judged.
        path: PNG to write.
    """
    with _figure(path, (6, 4)) as axes:
        labels = {"level": "level asked for", "rise": "seconds", "best_of": "candidates"}
        drawn = [name for name in labels if name in curves]
        for name, color in zip(drawn, ("tab:blue", "tab:orange", "tab:green"), strict=False):
            curve, ax = curves[name], axes if name == drawn[0] else axes.twiny()
            if drawn.index(name) == 2:  # a third scale, above the second
                ax.spines["top"].set_position(("axes", 1.18))
            ax.plot(curve["at"], curve["mean"], marker="o", color=color)
            ax.fill_between(curve["at"], curve["low"], curve["high"], color=color, alpha=0.2, label="95 %")
            ax.set_xlabel(f"{labels[name]} (rank correlation {curve['rank_correlation']:.2f})", color=color)
        axes.set_ylabel(f"quality judged by {judge}")
        axes.grid(alpha=0.3)


class Point(tp.NamedTuple):
    """A mean at a place on the x axis.

    Args:
        at: the place; the middle of `span`.
        mean: the value.
        deviation: half the length of its error bar; None = it has none.
        span: width of what it stands for on the x axis.
    """

    at: float
    mean: float
    deviation: float | None
    span: float = 0.0


def error_lines(series: tp.Mapping[str, tp.Sequence[Point]], path: str | Path, *, xlabel: str, title: str) -> None:
    """Plot means with error bars of ±1 deviation, a line for each series.

    Args:
        series: points by the name of their line, from left to right.
        path: PNG to write.
    """
    with _figure(path, (4.6, 3.4)) as axes:
        for name, points in series.items():
            at, mean, deviation, span = zip(*points, strict=True)
            bars = [math.nan if value is None else value for value in deviation]  # NaN is not drawn
            across = [value / 2 for value in span] if any(span) else None
            axes.errorbar(at, mean, bars, across, marker="o", markersize=4, capsize=3, label=name)
        axes.set(xlabel=xlabel)
        axes.set_title(title, fontsize=8)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)


def growth_lines(
    lines: tp.Mapping[str, tuple[tp.Sequence[float], tp.Sequence[float], tp.Sequence[float]]],
    path: str | Path,
    *,
    xlabel: str,
    ylabel: str,
) -> None:
    """Plot measured values as marks and fitted ones as lines, both axes logarithmic.

    Args:
        lines: (places on the x axis, measured, fitted) by name.
        path: PNG to write.
    """
    with _figure(path, (4.6, 3.4)) as axes:
        for index, (name, (at, measured, fitted)) in enumerate(lines.items()):
            axes.plot(at, measured, "o", color=f"C{index}", label=name)
            axes.plot(at, fitted, "-", color=f"C{index}")
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize=8)


def error_bars(
    bars: tp.Mapping[str, tuple[float, float | None]], path: str | Path, *, title: str, best: float | None = None
) -> None:
    """Plot a bar for each mean, with an error bar of ±1 deviation.

    Args:
        bars: mean and deviation (None = there is none) by name.
        path: PNG to write.
        best: the mean whose bar stands out.
    """
    names = [textwrap.fill(name, LABEL_WIDTH) for name in bars]
    with _figure(path, (6.4, 1.0 + sum(0.2 + 0.14 * len(name.splitlines()) for name in names))) as axes:
        values = [mean for mean, _ in bars.values()]
        deviations = [math.nan if deviation is None else deviation for _, deviation in bars.values()]
        colors = ["tab:orange" if mean == best else "tab:blue" for mean in values]
        axes.barh(names, values, xerr=deviations, color=colors, alpha=0.7, capsize=3)
        axes.invert_yaxis()  # the first on top
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=8)
        axes.grid(alpha=0.3, axis="x")


def bars(values: tp.Mapping[str, float], path: str | Path, *, xlabel: str) -> None:
    """Plot positive values by name, on a logarithmic axis, the first one on top.

    Args:
        path: PNG to write.
    """
    with _figure(path, (8, 1 + 0.3 * len(values))) as axes:
        drawn = axes.barh(list(values), list(values.values()))
        axes.bar_label(drawn, fmt="%.3g", padding=3)
        axes.set(xscale="log", xlabel=xlabel)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)


def grid(cells: tp.Mapping[str, tp.Mapping[str, tuple[float, str]]], path: str | Path, *, label: str) -> None:
    """Draw a grid of colours with a text in each cell.

    Args:
        cells: row → column → value from 0 to 1 (NaN = white) and text.
        path: PNG to write.
        label: what the colours mean.
    """
    columns = list(next(iter(cells.values())))
    values = [[row[column][0] for column in columns] for row in cells.values()]
    with _figure(path, (3 + 0.75 * len(columns), 2 + 0.35 * len(cells))) as axes:
        image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis_r", aspect="auto", alpha=0.6)
        for place, row in enumerate(cells.values()):
            for other, column in enumerate(columns):
                axes.text(other, place, row[column][1], ha="center", va="center", fontsize=7)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(cells)), list(cells), fontsize=8)
        axes.figure.colorbar(image, ax=axes, label=label)


class _figure:
    """A figure with one pair of axes that is saved under its name when the block ends well."""

    def __init__(self, path: str | Path, size: tuple[float, float]) -> None:
        self.path, self.size = Path(path), size

    def __enter__(self) -> Axes:
        # matplotlib takes a second to import; the Agg canvas needs no screen and no global backend.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(self.size, layout="constrained", dpi=120)
        FigureCanvasAgg(self.figure)
        return self.figure.add_subplot()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            from .files import replacing

            with replacing(self.path) as part:
                self.figure.savefig(part, format="png")
