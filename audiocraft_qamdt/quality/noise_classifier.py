"""A small network that tells the quality level of noisy latents, and the ROC of degraded against clean that it gives.

The time-dependent classifier of Ambient Diffusion Omni (arXiv 2506.10038, section 3), for five levels at once.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..utils.randomness import keyed_generator
from .levels import LEVELS
from .noise_range import AUC, RATIOS, NoiseRange, lowest_ratios, roc_curve

logger = logging.getLogger(__name__)

BEST = LEVELS[-1]
FEWEST = 8
"""Held-out clips that a level needs to be measured."""


@dataclass(frozen=True)
class Training:
    """Settings of the classifier.

    Args:
        steps: updates.
        batch_size: clips in one, each level as often as the others; a clip twice only where a level has too few.
        width: channels of its convolutions.
        learning_rate: highest, of a one-cycle schedule.
        draws: of noise, for each held-out clip and noise level.
        seed: of weights, order and noise.
    """

    steps: int = 800
    batch_size: int = 64
    width: int = 96
    learning_rate: float = 2e-3
    draws: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Clips:
    """Latents of clips and their levels.

    Args:
        latents: [N, C, T, F], of unit variance.
        levels: [N], 1 to 5.
    """

    latents: Tensor
    levels: Tensor

    def counts(self) -> list[int]:
        """Return the number of clips of each level."""
        return [int((self.levels == level).sum()) for level in LEVELS]


class NoiseClassifier(nn.Module):
    """Convolutions over time, modulated by the noise level; mean and deviation over time give the levels' logits.

    Args:
        channels: latent channels times bins, C * F.
        width: channels of the convolutions.
    """

    def __init__(self, channels: int, width: int = 96) -> None:
        super().__init__()
        self.enter = nn.Conv1d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(3))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(3))
        self.noise = nn.Sequential(nn.Linear(9, width), nn.SiLU(), nn.Linear(width, 2 * 3 * width))
        self.head = nn.Linear(2 * width, len(LEVELS))

    def forward(self, noisy: Tensor, ratios: Tensor) -> Tensor:
        """Return logits of the levels, [B, 5].

        Args:
            noisy: [B, C, T, F], of unit variance.
            ratios: σ/α, [B].
        """
        x = self.enter(noisy.transpose(2, 3).flatten(1, 2))  # [B, width, T]
        logs = ratios.log()[:, None]  # [B, 1]
        waves = logs * torch.tensor([0.25, 0.5, 1.0, 2.0], device=logs.device)
        modulation = self.noise(torch.cat([logs, waves.sin(), waves.cos()], dim=1))  # [B, 6 width]
        for block, norm, part in zip(self.blocks, self.norms, modulation.chunk(3, dim=1), strict=True):
            scale, shift = part[..., None].chunk(2, dim=1)  # [B, width, 1]
            x = x + block(F.silu(norm(x) * (1 + scale) + shift))
        return self.head(torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1))


def noisy_clips(latents: Tensor, ratios: Tensor, generator: torch.Generator) -> Tensor:
    """Return latents with noise of σ/α = `ratios` [B], at unit variance, whatever the schedule."""
    ratios = ratios.view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return (latents + ratios * noise) / (1 + ratios.square()).sqrt()


def train_noise_classifier(clips: Clips, training: Training) -> NoiseClassifier:
    """Train on noisy clips, every level that there is as often as the others, at noise levels over all of `RATIOS`."""
    generator = keyed_generator(training.seed, "noise classifier")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = NoiseClassifier(clips.latents.shape[1] * clips.latents.shape[3], training.width)
    optimizer = torch.optim.AdamW(network.parameters(), training.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=training.steps)
    span = torch.tensor([RATIOS[0], RATIOS[-1]]).log()
    for _ in tqdm(range(training.steps), "noise classifier", unit="step"):
        index = _draw(clips.levels, training.batch_size, generator)
        ratios = (span[0] + torch.rand(len(index), generator=generator) * (span[1] - span[0])).exp()
        logits = network(noisy_clips(clips.latents[index], ratios, generator), ratios)
        loss = F.cross_entropy(logits, clips.levels[index] - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def _draw(levels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` clips, every level that there is as often as the others, no clip twice while its level has more."""
    present = [level for level in LEVELS if (levels == level).any()]
    once_more = torch.randperm(len(present), generator=generator)[: count % len(present)].tolist()
    drawn = []
    for place, level in enumerate(present):
        own, needed = (levels == level).nonzero()[:, 0], count // len(present) + (place in once_more)
        rounds = max(1, math.ceil(needed / len(own)))
        order = torch.cat([torch.randperm(len(own), generator=generator) for _ in range(rounds)])
        drawn.append(own[order[:needed]])
    return torch.cat(drawn)


def _logits(network: NoiseClassifier, latents: Tensor, ratio: float, training: Training) -> Tensor:
    """Return the levels' logits of all clips at one noise level, for each draw of noise: [draws, N, 5]."""
    draws = []
    for draw in range(training.draws):
        generator = keyed_generator(training.seed, "noise range", str(ratio), draw)
        parts = []
        for part in latents.split(256):
            ratios = torch.full((len(part),), ratio)
            parts.append(network(noisy_clips(part, ratios, generator), ratios))
        draws.append(torch.cat(parts))
    return torch.stack(draws)


def measure_noise_range(
    train: Clips,
    held_out: Clips,
    *,
    codec: str,
    rule: str,
    segment: float,
    threshold: float = AUC,
    training: Training | None = None,
) -> NoiseRange:
    """Train the classifier and measure, on tracks it has not seen, how well each level is told from the best one.

    Raises:
        ValueError: too few clips of the best level to compare with, or of all others.
    """
    training = training or Training()
    counts = held_out.counts()
    measured = [level for level in LEVELS[:-1] if counts[level - 1] >= FEWEST and train.counts()[level - 1]]
    if counts[BEST - 1] < FEWEST or not measured:
        raise ValueError(
            f"held-out clips of levels 1 to 5: {counts}; {FEWEST} of level {BEST} and of one other level are needed: "
            "give more tracks (--tracks), or another quality.rule"
        )
    network = train_noise_classifier(train, training)
    auc: dict[str, list[float]] = {str(level): [] for level in measured}
    roc: dict[str, list[list[float]]] = {str(level): [] for level in measured}
    for ratio in tqdm(RATIOS, "comparing", unit="noise level"):
        logits = _logits(network, held_out.latents, ratio, training)
        for level in measured:
            scores = logits[..., BEST - 1] - logits[..., level - 1]  # how much rather of the best level: [draws, N]
            clean, degraded = (scores[:, held_out.levels == one].flatten().numpy() for one in (BEST, level))
            area, shares = roc_curve(clean, degraded)
            auc[str(level)].append(round(area, 4))
            roc[str(level)].append([round(share, 4) for share in shares])
    lowest = lowest_ratios(auc, threshold)
    return NoiseRange(codec, rule, segment, threshold, counts, list(RATIOS), auc, roc, lowest)
