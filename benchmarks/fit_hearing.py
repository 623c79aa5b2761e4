"""Fit the weights by which `benchmarks.hearing` hears keys and tempos, and count how often they are right.

python -m benchmarks.fit_hearing [--pieces 1500] [--seed 1000] [--check-seed 2001] [--check-pieces 400]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.playground.dataset import make_track
from audiocraft_qamdt.playground.synthesis import Piece, tempo_word
from audiocraft_qamdt.utils.files import write_json

from . import hearing
from .follows_words import SECONDS, pieces, share_in_order
from .hearing import (
    BANDS,
    CANDIDATE_KEYS,
    CANDIDATE_TEMPOS,
    heard_key,
    heard_tempo,
    key_evidence,
    same_scale,
    tempo_evidence,
)

SAMPLE_RATE = 16000
TEMPO_WIDTH = 0.015
"""Standard deviation of the tempos that count as right, relative to the tempo."""
DECAYS = {"key": 3e-5, "tempo": 1e-3}
"""Weight of the squared weights in the loss."""


def worn(audio: Tensor, seed: int, noise: float = -25.0, smear: float = 0.7) -> Tensor:
    """Do to a clip [S] what a mild codec does: noise, magnitudes blurred over time and frequency, phases astray.

    Args:
        noise: its level relative to the clip's, in dB.
        smear: standard deviation of the error of the phases; 0 = no blur either.
    """
    generator, window = torch.Generator().manual_seed(seed), torch.hann_window(1024)
    audio = audio + torch.randn(audio.shape, generator=generator) * audio.std() * 10 ** (noise / 20)
    if not smear:
        return audio
    spectrum = torch.stft(audio, 1024, 256, window=window, return_complex=True)
    kernel = torch.tensor([0.25, 0.5, 0.25])
    blurred = torch.nn.functional.conv2d(spectrum.abs()[None, None], (kernel[:, None] * kernel)[None, None], padding=1)
    phases = spectrum.angle() + smear * torch.randn(spectrum.shape, generator=generator)
    return torch.istft(torch.polar(blurred[0, 0], phases), 1024, 256, window=window, length=len(audio))


def windows(piece: Piece) -> tuple[Tensor, Tensor]:
    """Two clips [S] of a piece: from its start, and from somewhere in the seconds after."""
    track, _ = make_track(piece.seed, piece.index, 2 * SECONDS, SAMPLE_RATE, degraded=0.0)
    audio = torch.from_numpy(track / np.float32(32768))
    samples = round(SECONDS * SAMPLE_RATE)
    later = int(np.random.default_rng((piece.seed, piece.index, 5)).integers(1, samples))
    return audio[:samples], audio[later : later + samples]


def examples(chosen: list[Piece]) -> Iterator[tuple[Tensor, Piece]]:
    """Clips [S] to fit on: both windows of each piece, clean and worn."""
    for piece in tqdm(chosen, "pieces"):
        for clip in windows(piece):
            yield clip, piece
            yield worn(clip, piece.index), piece


def targets(piece: Piece) -> tuple[Tensor, Tensor]:
    """The probabilities that the candidate keys [14] and tempos [91] should have."""
    key = torch.tensor([float(name == f"{piece.key} {piece.mode}") for name in CANDIDATE_KEYS])
    distance = (torch.tensor(CANDIDATE_TEMPOS) / piece.bpm).log() / TEMPO_WIDTH
    return key, (-distance.square() / 2).softmax(0)


def fit(evidence: Tensor, wanted: Tensor, decay: float) -> Tensor:
    """Weights [D] of a multinomial logistic regression.

    Args:
        evidence: [N, candidates, D].
        wanted: probabilities [N, candidates].
        decay: weight of the squared weights in the loss.
    """
    weights = torch.zeros(evidence.shape[2], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(evidence @ weights, wanted) + decay * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return weights.detach()


def fitted(chosen: list[Piece]) -> dict[str, list[list[float]]]:
    """The table of weights from these pieces: rows of 12 pitch classes for the key, of 32 lags for the tempo."""
    seen = [
        (key_evidence(clip, SAMPLE_RATE), tempo_evidence(clip, SAMPLE_RATE), *targets(piece))
        for clip, piece in examples(chosen)
    ]
    keys, tempos, key_targets, tempo_targets = (torch.stack(column) for column in zip(*seen, strict=True))
    key, tempo = fit(keys, key_targets, DECAYS["key"]), fit(tempos, tempo_targets, DECAYS["tempo"])
    rows = {"key": key.view(-1, 12), "tempo": tempo.view(len(BANDS) - 1, -1)}
    return {name: [[round(value, 3) for value in row] for row in table.tolist()] for name, table in rows.items()}


def accuracies(clips: list[Tensor], chosen: list[Piece]) -> dict[str, float]:
    """Shares of clips whose key, scale and tempo (within 4 %) are heard, and of slow and fast pairs in order."""
    named = [f"{piece.key} {piece.mode}" for piece in chosen]
    keys = [heard_key(clip, SAMPLE_RATE) for clip in clips]
    tempos = [heard_tempo(clip, SAMPLE_RATE) for clip in clips]
    off_by = [abs(tempo / piece.bpm - 1) for tempo, piece in zip(tempos, chosen, strict=True)]
    by_word: dict[str, list[float]] = {"slow": [], "steady": [], "fast": []}
    for tempo, piece in zip(tempos, chosen, strict=True):
        by_word[tempo_word(piece.bpm)].append(tempo)
    return {
        "key": float(np.mean([heard == name for heard, name in zip(keys, named, strict=True)])),
        "scale": float(np.mean([same_scale(heard, name) for heard, name in zip(keys, named, strict=True)])),
        "tempo": float(np.mean(np.array(off_by) < 0.04)),
        "slow before fast": share_in_order(by_word["slow"], by_word["fast"]),
    }


def check(chosen: list[Piece]) -> None:
    """Print the accuracies on pieces that were not fitted on."""
    starts, later = (list(clips) for clips in zip(*map(windows, tqdm(chosen, "check")), strict=True))
    kinds = {
        "from the start": starts,
        "with noise": [worn(clip, seed, smear=0) for seed, clip in enumerate(starts)],
        "worn": [worn(clip, seed) for seed, clip in enumerate(starts)],
        "from later on": later,
    }
    for kind, clips in kinds.items():
        say([f"{kind}: " + ", ".join(f"{name} {value:.3f}" for name, value in accuracies(clips, chosen).items())])


def main(arguments: list[str] | None = None) -> None:
    """Write the table and print how good it is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_hearing", description=__doc__)
    parser.add_argument("--pieces", type=int, default=1500, help="to fit on; 0 = check the table that is there")
    parser.add_argument("--seed", type=int, default=1000, help="of the pieces to fit on")
    parser.add_argument("--check-pieces", type=int, default=400)
    parser.add_argument("--check-seed", type=int, default=2001)
    parser.add_argument("--to", type=Path, default=hearing.TABLE)
    options = parser.parse_args(arguments)
    if options.pieces:
        write_json(options.to, fitted(pieces(options.seed, options.pieces)))
        hearing._weights.cache_clear()
    if options.check_pieces:
        check(pieces(options.check_seed, options.check_pieces))


if __name__ == "__main__":
    main()
