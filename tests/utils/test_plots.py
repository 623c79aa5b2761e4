"""Plots: pictures that hold what they were given, whole files or none."""

from __future__ import annotations

import math

import matplotlib.image
import numpy as np
import pytest
import torch

from audiocraft_qamdt.utils import plots
from audiocraft_qamdt.utils.plots import Point

HISTORY = [{"train": {"loss": 2.0}, "valid": {"loss": 2.5}}, {"train": {"loss": 1.0}}]
CURVE = {"at": [1, 2], "judged": [[1, 2], [2, 3]]}


def drawn(path) -> np.ndarray:
    """Pixels [H, W, 3] of a picture in which something is drawn."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.std() > 0.01
    return pixels


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plots.loss_curve(HISTORY, path),
        lambda path: plots.curves({"a": HISTORY, "b": []}, {"train": "loss"}, path, ylabel="loss", title="Loss"),
        lambda path: plots.spectrogram(torch.sin(torch.arange(16000) * 0.3), 16000, path, "a tone"),
        lambda path: plots.error_lines({"a": [Point(0, 1, 0.1), Point(1, 2, None, 0.2)]}, path, xlabel="x", title="t"),
        lambda path: plots.error_bars({"a": (1.0, 0.1), "b": (2.0, None)}, path, title="t", best=2.0),
        lambda path: plots.bars({"a": 1.0, "b": 100.0}, path, xlabel="seconds"),
        lambda path: plots.grid({"a": {"x": (0.1, "0.1"), "y": (math.nan, "")}}, path, label="strength"),
    ],
    ids=["loss_curve", "curves", "spectrogram", "error_lines", "error_bars", "bars", "grid"],
)
def test_every_plot_is_a_picture(tmp_path, draw):
    draw(tmp_path / "plot.png")
    drawn(tmp_path / "plot.png")


def test_a_run_without_history_is_an_empty_plot_and_no_error(tmp_path):
    plots.loss_curve([], tmp_path / "plot.png")
    drawn(tmp_path / "plot.png")


def test_the_best_bar_stands_out(tmp_path):
    for name, best in (("none", None), ("second", 2.0)):
        plots.error_bars({"a": (1.0, None), "b": (2.0, None)}, tmp_path / f"{name}.png", title="", best=best)
    assert not np.array_equal(drawn(tmp_path / "none.png"), drawn(tmp_path / "second.png"))


def test_a_tone_is_a_bright_line_at_its_frequency(tmp_path):
    pictures = {}
    for frequency in (500, 6000):
        tone = torch.sin(2 * math.pi * frequency * torch.arange(16000) / 16000)
        plots.spectrogram(tone, 16000, tmp_path / f"{frequency}.png")
        pictures[frequency] = drawn(tmp_path / f"{frequency}.png")[..., 1].mean(axis=1)  # brightness of each row
    rows = {frequency: int(np.argmax(rows - pictures[6500 - frequency])) for frequency, rows in pictures.items()}
    assert rows[6000] < rows[500], "high frequencies are above low ones"


def test_channels_that_cancel_each_other_are_drawn(tmp_path):
    tone = torch.sin(torch.arange(16000) * 0.3)
    for name, audio in (("mono", tone), ("antiphase", torch.stack([tone, -tone]))):
        plots.spectrogram(audio, 16000, tmp_path / f"{name}.png")
    assert np.array_equal(drawn(tmp_path / "mono.png"), drawn(tmp_path / "antiphase.png"))


def test_a_plot_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(ValueError):
        plots.error_lines({"a line without points": []}, tmp_path / "plot.png", xlabel="x", title="")
    assert not list(tmp_path.iterdir())
