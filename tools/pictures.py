#!/usr/bin/env python3
"""Draw the README's pictures from the embedded model: `pictures.py docs/images`.

Spectrograms of one prompt at quality 1, 3 and 5, and beside them a real clip of the same piece.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.playground.dataset import make_track
from audiocraft_qamdt.playground.synthesis import compose
from audiocraft_qamdt.utils.files import replacing

SEED, INDEX = 2, 1
SECONDS = 4.096
LEVELS = (1, 3, 5)


def main() -> None:
    """Write levels.png into the folder that is named."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    piece, model = compose(SEED, INDEX), QAMDT.get_pretrained()
    model.set_generation_params(duration=SECONDS, seed=0)
    clips = {f"quality {level}": model.generate([piece.description], level)[0, 0].cpu().numpy() for level in LEVELS}
    track = make_track(SEED, INDEX, SECONDS, model.sample_rate, degraded=0.0)[0]
    clips["a real clip of such a piece"] = track / np.float32(32768)
    figure, axes = plt.subplots(1, len(clips), figsize=(14, 3.4), sharey=True, layout="constrained")
    for axis, (title, clip) in zip(axes, clips.items(), strict=True):
        window = torch.hann_window(1024)
        spectrum = torch.stft(torch.from_numpy(clip), 1024, 256, window=window, return_complex=True).abs()
        levels = 20 * (spectrum / spectrum.max() + 1e-5).log10()
        extent = (0, SECONDS, 0, model.sample_rate / 2000)
        axis.imshow(levels, origin="lower", aspect="auto", vmin=-80, vmax=0, extent=extent, cmap="magma")
        axis.set(title=title, xlabel="seconds")
    axes[0].set_ylabel("kHz")
    figure.suptitle(f"“{piece.description}”", fontsize=10)
    with replacing(folder / "levels.png") as part:
        figure.savefig(part, dpi=90, format="png")


if __name__ == "__main__":
    main()
