"""A matcher for the playground, trained there in seconds: audio and words in one space, as CLAP's, with no weights.

It knows the words of the playground's captions and nothing else. It is a test bench for the stages, not a music model.
"""

from __future__ import annotations

import functools
import typing as tp

import julius
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..playground.synthesis import compose, vocabulary
from ..utils.reading import JsonObject
from .text import words

SAMPLE_RATE = 16000
MELS, FRAME, HOP = 64, 2048, 512  # bands, and samples
CROP = 63  # frames of a training crop: 2 s


class LogMel(nn.Module):
    """Log-mel spectrogram [B, MELS, T] of audio [B, S] at `SAMPLE_RATE`, with a mean of 0."""

    mels: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        import librosa

        mels = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=FRAME, n_mels=MELS)
        self.register_buffer("mels", torch.from_numpy(mels), persistent=False)
        self.register_buffer("window", torch.hann_window(FRAME), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        spectrum = torch.stft(audio, FRAME, HOP // 2, window=self.window, return_complex=True).abs()
        levels = (self.mels @ spectrum).clamp(min=1e-4).log()[..., : 2 * (spectrum.shape[-1] // 2)]
        levels = levels.unflatten(-1, (-1, 2)).mean(-1)  # [B, MELS, T]
        return (levels - levels.mean((1, 2), keepdim=True)) / 2


class TwoTower(nn.Module):
    """Audio through three convolutions, text as a sum of word vectors; agreement is the cosine of the two.

    Args:
        dim: of the common space.
        channels: of the first convolution.
    """

    rarity: Tensor

    def __init__(self, dim: int = 64, channels: int = 16) -> None:
        super().__init__()
        # A mel spectrogram of 64 bands does not tell keys apart.
        self.words = {word: index for index, word in enumerate(vocabulary(keys=False))}
        self.log_mel = LogMel()
        sizes = (1, channels, 2 * channels, 3 * channels)
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, kernel, 2, kernel // 2), nn.BatchNorm2d(after), nn.ReLU())
                for before, after, kernel in zip(sizes, sizes[1:], (5, 3, 3), strict=False)
            )
        )
        self.project = nn.Sequential(nn.Dropout(0.3), nn.Linear(12 * channels, 128), nn.ReLU(), nn.Linear(128, dim))
        self.word_vectors = nn.Linear(len(self.words), dim)
        self.word_bias = nn.Parameter(torch.zeros(len(self.words)))
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.register_buffer("rarity", torch.ones(len(self.words)))

    def audio(self, levels: Tensor) -> Tensor:
        """Return vectors [B, D], not normalised, of log-mel spectrograms [B, MELS, T]."""
        hidden = self.convolutions(levels[:, None])  # [B, C, MELS / 8, T / 8]
        hidden = torch.cat([hidden.mean(-1), hidden.amax(-1)], dim=1)  # [B, 2 C, MELS / 8]
        low, high = hidden.chunk(2, dim=-1)
        return self.project(torch.cat([low.mean(-1), high.mean(-1)], dim=1))

    def text(self, bags: Tensor) -> Tensor:
        """Return unit vectors [N, D] of bags of words [N, W]."""
        return functional.normalize(self.word_vectors(bags * self.rarity), dim=-1)

    def bags(self, texts: tp.Sequence[str]) -> Tensor:
        """Mark the words of the vocabulary that each text holds: [N, W], 0 or 1."""
        found = torch.zeros(len(texts), len(self.words))
        for row, text in zip(found, texts, strict=True):
            row[[self.words[word] for word in words(text) if word in self.words]] = 1
        return found

    def loss(self, levels: Tensor, bags: Tensor) -> Tensor:
        """Compute the contrastive loss in both directions (arXiv 2211.06687, equation 3), and the loss by word."""
        raw = self.audio(levels)
        logits = self.log_scale.exp() * functional.normalize(raw, dim=-1) @ self.text(bags).T
        same = (bags[:, None] == bags[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        contrast = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        named = raw @ self.word_vectors.weight + self.word_bias
        return contrast + 10 * functional.binary_cross_entropy_with_logits(named, bags)


@functools.lru_cache(maxsize=2)
def train(
    tracks: int = 900,
    *,
    seconds: float = 3.0,
    degraded: float = 0.35,
    seed: int = 1000,
    epochs: int = 30,
    batch_size: int = 50,
    rate: float = 6e-3,
) -> TwoTower:
    """Train on pieces of the playground, rendered and degraded here; the same arguments give the same model.

    Args:
        tracks: number of pieces.
        seconds: of each.
        degraded: share of them with faults: what a ruined track plays teaches little.
        seed: of the pieces and of the training; data sets have small numbers, and a matcher must not know them.
        rate: highest learning rate.
    """
    from ..playground.dataset import make_track

    audio = [
        torch.from_numpy(make_track(seed, index, seconds, SAMPLE_RATE, degraded)[0]) / 32768 for index in range(tracks)
    ]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # layers draw their weights and what they drop from the global generator
        torch.manual_seed(seed)
        model = TwoTower()
        levels = torch.cat([model.log_mel(clip[None]) for clip in audio])
        bags = model.bags([compose(seed, index).description for index in range(tracks)])
        model.rarity = (1 / (bags.mean(0) + 1e-3)).log().clamp(0, 4)
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
        steps = epochs * -(-tracks // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        for _ in range(epochs):
            for batch in torch.randperm(tracks, generator=generator).split(batch_size):
                model.loss(_vary(levels[batch], generator), bags[batch]).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
    return model.eval()


def _vary(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Return a crop of the same place in each, with another gain in each band."""
    start = int(torch.randint(0, max(levels.shape[-1] - CROP, 1), (1,), generator=generator))
    gains = 0.2 * torch.randn(len(levels), MELS, 1, generator=generator)
    return levels[..., start : start + CROP] + gains


class PlaygroundMatcher:
    """The two towers as a matcher.

    Args:
        model: None = train one now, with `options` of `train`.
    """

    name = "playground"
    key: JsonObject

    def __init__(self, model: TwoTower | None = None, **options: tp.Any) -> None:
        self.model = train(**options) if model is None else model
        self.key = options

    @torch.no_grad()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return the unit vector [1, D] of audio [S]."""
        mono = julius.resample_frac(audio.float(), sample_rate, SAMPLE_RATE)
        mono = functional.pad(mono, (0, max(0, SAMPLE_RATE // 2 - mono.shape[-1])))  # the least that the layers take
        return functional.normalize(self.model.audio(self.model.log_mel(mono[None])), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Return unit vectors [N, D]."""
        return self.model.text(self.model.bags(texts))
