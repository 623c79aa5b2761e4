"""A small classifier of playground music, which stands in for VGGish and PaSST where no weights can be downloaded.

It was trained to tell what the playground knows of a clip: its genre and lead instrument (one class, so that inception
score and KL divergence mean something) and how badly it is degraded in which way, so that its features, and a Fréchet
distance over them, reflect quality. Outside the playground its numbers mean nothing. The weights in the package are
what `qamdt playground-classifier` writes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import julius
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..utils.files import replacing
from ..utils.randomness import keyed_generator
from .dataset import to_pcm16
from .degradation import CALIBRATION_KINDS, degrade
from .synthesis import GENRES, compose, render

logger = logging.getLogger(__name__)

VERSION = "1"  # goes with the weights: another training run is another version
WEIGHTS = Path(__file__).with_name("classifier.safetensors")
CLASSES = tuple(f"{genre} with {lead}" for genre, style in GENRES.items() for lead in style.leads)
FAULTS = tuple(CALIBRATION_KINDS)
SAMPLE_RATE = 16000
WINDOW, HOP = 1.0, 0.5  # seconds of the windows that a clip is cut into
EMBEDDING_DIM = 64
TRAIN_SEED, HELD_OUT_SEED = 11, 12  # pieces of other seeds than the data set's (0) and the predictor's (1)
CLIP_SECONDS = 4


class Prediction(NamedTuple):
    """The classifier's output for windows: features [N, 64], class logits [N, 14], severity of each fault [N, 5]."""

    embedding: Tensor
    logits: Tensor
    severities: Tensor


class PlaygroundClassifier(nn.Module):
    """Four convolutions over the log-mel spectrogram of a second of audio, and two linear heads on the features.

    Args:
        generator: draws the initial weights; None = they are loaded afterwards.
    """

    mel: Tensor
    window: Tensor

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.register_buffer("mel", melscale_fbanks(513, 20.0, 8000.0, 64, SAMPLE_RATE), persistent=False)
        self.register_buffer("window", torch.hann_window(1024), persistent=False)
        widths = (1, 16, 32, 48, 64)
        blocks = (_block(*pair) for pair in zip(widths, widths[1:], strict=False))
        self.features = nn.Sequential(*(layer for block in blocks for layer in block))
        # Unit variance in each direction: distances do not depend on a scale that training left to chance.
        self.project = nn.Sequential(
            nn.Linear(64 * 4, EMBEDDING_DIM, bias=False), nn.BatchNorm1d(EMBEDDING_DIM, affine=False)
        )
        self.classes = nn.Linear(EMBEDDING_DIM, len(CLASSES))
        self.faults = nn.Linear(EMBEDDING_DIM, len(FAULTS))
        if generator is not None:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            for head in (self.classes, self.faults):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def log_mel(self, windows: Tensor) -> Tensor:
        """Log power in mel bands [N, 64, T] of windows [N, S], about -2 to 2."""
        spectrum = torch.stft(windows, 1024, 256, window=self.window, return_complex=True) / self.window.sum() * 2
        power = torch.einsum("nft,fm->nmt", spectrum.abs().square(), self.mel)
        return (power.clamp(min=1e-9).log10() + 5) / 2

    def from_log_mel(self, log_mel: Tensor) -> Prediction:
        """Return the prediction for log-mel spectrograms [N, 64, T]."""
        features = self.features(log_mel[:, None])  # [N, 64, 4, T / 16]
        embedding = self.project(features.mean(dim=3).flatten(1))  # [N, 64]
        return Prediction(embedding, self.classes(embedding), self.faults(embedding))

    def forward(self, windows: Tensor) -> Prediction:
        """Return the prediction for windows [N, S] of one second at 16 kHz, whose clips have unit power."""
        return self.from_log_mel(self.log_mel(windows))

    @torch.no_grad()
    def classify(self, audio: Tensor, sample_rate: int) -> Prediction:
        """Return the prediction for the windows of a clip [S], on the CPU, whatever its level and sample rate."""
        return Prediction(*(value.cpu() for value in self(cut(audio, sample_rate).to(self.mel.device))))


def _block(channels: int, width: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)


def cut(audio: Tensor, sample_rate: int) -> Tensor:
    """Cut a clip [S] into windows [N, 16000], every half second, at unit power over the clip; repeat a short clip."""
    audio = julius.resample_frac(audio.float(), sample_rate, SAMPLE_RATE)
    audio = audio / audio.square().mean().sqrt().clamp(min=1e-5)
    size = round(WINDOW * SAMPLE_RATE)
    audio = audio.repeat(max(1, math.ceil(size / len(audio))))
    return audio.unfold(0, size, round(HOP * SAMPLE_RATE))


def load_classifier(path: str | Path = WEIGHTS, device: str = "cpu") -> PlaygroundClassifier:
    """Return the classifier with weights from a file, those in the package by default.

    Raises:
        FileNotFoundError: when they are not there.
    """
    from safetensors.torch import load_file

    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is missing: `qamdt playground-classifier --out {path}` makes it")
    classifier = PlaygroundClassifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval().requires_grad_(False).to(device)


def save_classifier(classifier: PlaygroundClassifier, path: str | Path) -> None:
    """Write the weights as a safetensors file."""
    from safetensors.torch import save_file

    with replacing(path) as part:
        save_file(classifier.state_dict(), part)


class Example(NamedTuple):
    """A clip of the playground and its labels.

    Args:
        audio: [S] at 16 kHz.
        label: index into `CLASSES`.
        fault: index into `FAULTS`.
        severity: of the fault, 0 = none.
    """

    audio: Tensor
    label: int
    fault: int
    severity: float


def examples(seed: int, pieces: int, seconds: float = CLIP_SECONDS) -> Iterator[Example]:
    """Return each piece twice: clean, and with a fault of any kind at any severity."""
    for index in range(pieces):
        piece, draw = compose(seed, index), np.random.default_rng((seed, index, 5))
        audio, label = render(piece, seconds, SAMPLE_RATE), CLASSES.index(f"{piece.genre} with {piece.lead}")
        fault, severity = int(draw.integers(len(FAULTS))), draw.uniform()
        degraded = degrade(audio, SAMPLE_RATE, FAULTS[fault], severity, draw)
        yield Example(_as_file(audio), label, fault, 0.0)
        yield Example(_as_file(degraded), label, fault, severity)


def _as_file(audio: np.ndarray) -> Tensor:
    return torch.from_numpy(to_pcm16(audio) / np.float32(32768))


@torch.no_grad()
def _training_set(classifier: PlaygroundClassifier, seed: int, pieces: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-mel spectrograms [N, 64, T] of all windows, classes [N] and severities [N, faults]."""
    spectrograms, labels, severities = [], [], []
    for example in tqdm(examples(seed, pieces), "playground", 2 * pieces, unit="clip"):
        windows = cut(example.audio, SAMPLE_RATE)[::2]  # those that do not overlap
        spectrograms.append(classifier.log_mel(windows))
        labels += [example.label] * len(windows)
        severity = F.one_hot(torch.tensor(example.fault), len(FAULTS)) * example.severity
        severities += [severity] * len(windows)
    return torch.cat(spectrograms), torch.tensor(labels), torch.stack(severities).float()


def train_classifier(
    *, seed: int = TRAIN_SEED, pieces: int = 3000, epochs: int = 8, batch_size: int = 64, learning_rate: float = 4e-3
) -> tuple[PlaygroundClassifier, list[float]]:
    """Train on clean and degraded pieces.

    Args:
        seed: of the pieces, the initial weights and the order.
        pieces: number of pieces, two clips of four seconds each.
        epochs: passes over them.
        batch_size: windows in a step.
        learning_rate: highest, of a one-cycle schedule.
    Returns:
        The classifier, and the loss of every step.
    """
    generator = keyed_generator(seed, "playground classifier")
    classifier = PlaygroundClassifier(generator)
    data = _training_set(classifier, seed, pieces)
    steps = epochs * (len(data[0]) // batch_size)
    optimizer = torch.optim.AdamW(classifier.parameters(), learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    losses = []
    for _ in tqdm(range(epochs), "training", unit="epoch"):
        order = torch.randperm(len(data[0]), generator=generator)
        for batch in order[: len(order) // batch_size * batch_size].split(batch_size):
            spectrograms, labels, severities = (values[batch] for values in data)
            loss = _loss(classifier.from_log_mel(spectrograms), labels, severities)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return classifier.eval().requires_grad_(False), losses


def _loss(prediction: Prediction, labels: Tensor, severities: Tensor) -> Tensor:
    # Severities are squared errors around 0.02: a weight of 20 makes them about as large as the classes' loss.
    return F.cross_entropy(prediction.logits, labels) + 20 * F.mse_loss(prediction.severities, severities)


def evaluate_classifier(
    classifier: PlaygroundClassifier, *, seed: int = HELD_OUT_SEED, pieces: int = 200
) -> dict[str, float]:
    """Measure the classifier on pieces of another seed.

    Returns:
        Share of clips whose class is right, clean and degraded, and the correlation of true and predicted severity.
    """
    right: dict[bool, list[bool]] = {True: [], False: []}
    severities = []
    for example in examples(seed, pieces):
        prediction = classifier.classify(example.audio, SAMPLE_RATE)
        right[example.severity == 0].append(int(prediction.logits.softmax(1).mean(0).argmax()) == example.label)
        if example.severity > 0:
            severities.append((example.severity, prediction.severities[:, example.fault].mean().item()))
    return {
        "clean accuracy": float(np.mean(right[True])),
        "degraded accuracy": float(np.mean(right[False])),
        "severity correlation": float(np.corrcoef(np.array(severities).T)[0, 1]),
    }
