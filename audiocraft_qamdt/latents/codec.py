"""The protocol of the latent codecs, and the statistics that give what they encode unit variance."""

from __future__ import annotations

import functools
import typing as tp
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

P = tp.ParamSpec("P")
R = tp.TypeVar("R")

STD_FLOOR = 1e-3
"""Smallest standard deviation of a bin, as a share of the root mean square over all bins. A bin below it is silence and
rounding noise (what an mp3's low-pass leaves): scaled up to unit variance, the model would have to learn that noise."""


class LatentStatistics(nn.Module):
    """Mean and standard deviation of raw latents per channel and bin; the identity until they are set.

    Args:
        channels: latent channels C.
        bins: latent bins F.
    """

    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, bins))
        self.register_buffer("std", torch.ones(channels, bins))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))  # latent frames seen, 0 = not estimated

    def set(self, mean: Tensor | float, std: Tensor | float, count: int) -> None:
        """Replace the statistics.

        Args:
            mean: [C, F], or one value for all.
            std: [C, F], or one value for all; positive.
            count: latent frames they were estimated from.
        Raises:
            ValueError: a value that is not finite, or a standard deviation that is not positive.
        """
        new_mean = torch.as_tensor(mean).to(self.mean).expand_as(self.mean)
        new_std = torch.as_tensor(std).to(self.std).expand_as(self.std)
        if not (new_mean.isfinite().all() and new_std.isfinite().all() and (new_std > 0).all()):
            raise ValueError("latent statistics: mean and std must be finite and std positive")
        self.mean.copy_(new_mean)
        self.std.copy_(new_std)
        self.count.fill_(count)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        # AudioCraft's moving average keeps floating point values only: the count stays what it is.
        super()._load_from_state_dict({f"{prefix}count": self.count, **state_dict}, prefix, *args)

    def normalize(self, latents: Tensor) -> Tensor:
        """Bring raw latents [B, C, T, F] to zero mean and unit variance."""
        return (latents - self.mean[None, :, None]) / self.std[None, :, None]

    def denormalize(self, latents: Tensor) -> Tensor:
        """Undo `normalize`."""
        return latents * self.std[None, :, None] + self.mean[None, :, None]


def frozen(method: tp.Callable[P, R]) -> tp.Callable[P, R]:
    """Run a codec's method without gradients, and in float32 whatever the caller's autocast."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        codec = tp.cast(LatentCodec, args[0])
        with torch.no_grad(), torch.autocast(codec.statistics.mean.device.type, enabled=False):
            return method(*args, **kwargs)

    return run


class LatentCodec(nn.Module, ABC):
    """Audio to latents of unit variance and back. Frozen: always in evaluation mode, never a gradient.

    Args:
        sample_rate: of the audio, in Hz.
        hop_length: samples per latent frame.
        latent_channels: C.
        latent_bins: F.
        channels: audio channels.
    """

    def __init__(
        self, sample_rate: int, hop_length: int, latent_channels: int, latent_bins: int, channels: int = 1
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.hop_length = hop_length
        self.latent_channels = latent_channels
        self.latent_bins = latent_bins
        self.channels = channels
        self.statistics = LatentStatistics(latent_channels, latent_bins)

    @property
    def frame_rate(self) -> float:
        """Return the latent frames per second."""
        return self.sample_rate / self.hop_length

    @functools.cached_property
    @frozen
    def probe(self) -> Tensor:
        """Encode a fixed sweep of a quarter second to raw latents [C, T, F], which tell one encoder from another.

        A decoder that was trained further leaves it alone: a network keeps working with it.
        """
        seconds = torch.arange(self.sample_rate // 4, device=self.statistics.mean.device) / self.sample_rate
        sweep = 0.3 * torch.sin(2 * torch.pi * (100 * seconds + 4000 * seconds.square()))  # 100 to 2100 Hz
        return self._encode(sweep.expand(1, self.channels, -1))[0].cpu()

    def num_frames(self, samples: int) -> int:
        """Return T, the latent frames that `encode` gives for that many samples."""
        return -(-samples // self.hop_length)

    def train(self, mode: bool = True) -> LatentCodec:
        """Stay in evaluation mode, also when the model around the codec is set to train."""
        return super().train(False)

    @frozen
    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio.

        Args:
            audio: [B, channels, S] at the codec's sample rate.
        Returns:
            Latents [B, C, T, F], of unit variance once the statistics are estimated, float32.
        Raises:
            ValueError: audio of another shape or type.
        """
        return self.statistics.normalize(self._encode(self._checked_audio(audio)))

    @frozen
    def decode(self, latents: Tensor, samples: int | None = None) -> Tensor:
        """Decode latents.

        Args:
            latents: [B, C, T, F] as `encode` gives them.
            samples: length wanted, cropped or zero padded to; None = all that the latents cover, T * hop_length.
        Returns:
            Audio [B, channels, samples], float32.
        Raises:
            ValueError: latents of another shape, or a negative length.
        """
        audio = self._decode(self.statistics.denormalize(self._checked_latents(latents)))
        samples = latents.shape[2] * self.hop_length if samples is None else samples
        if samples < 0:
            raise ValueError(f"samples={samples}: the length asked for is negative")
        return F.pad(audio[..., :samples], (0, max(0, samples - audio.shape[-1])))

    @frozen
    def estimate_statistics(self, batches: tp.Iterable[Tensor]) -> None:
        """Set the statistics so that the latents of this audio have zero mean and unit variance per channel and bin.

        Args:
            batches: audio [B, channels, S], on any device; consumed once and not kept.
        Raises:
            ValueError: no batches, latents that are not finite, or silence only. The statistics stay as they were.
        """
        shape = (self.latent_channels, self.latent_bins)
        count, mean, square = 0, torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for index, audio in enumerate(batches):
            audio = self._checked_audio(audio.to(self.statistics.mean.device))
            raw = self._encode(audio).cpu().double()  # MPS has no float64
            if not raw.isfinite().all():
                raise ValueError(f"{type(self).__name__}: batch {index} gives latents that are not finite")
            count, mean, square = _merge_moments(count, mean, square, raw)
        if count == 0:
            raise ValueError(f"{type(self).__name__}: no audio to estimate latent statistics from")
        variance = square / count
        floor = STD_FLOOR * variance.mean().sqrt()
        if floor == 0:
            raise ValueError(f"{type(self).__name__}: the audio given is silent, its latents have no variance")
        self.statistics.set(mean, variance.sqrt().clamp(min=floor), count)

    @abstractmethod
    def _encode(self, audio: Tensor) -> Tensor:
        """Encode audio [B, channels, S] to raw latents [B, C, num_frames(S), F]."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents [B, C, T, F] to audio [B, channels, about T * hop_length]."""

    def _checked_audio(self, audio: Tensor) -> Tensor:
        if audio.dim() != 3 or audio.shape[1] != self.channels or 0 in audio.shape or not audio.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} takes floating point audio [B, {self.channels}, S] at "
                f"{self.sample_rate} Hz with S > 0, not {audio.dtype} {list(audio.shape)}"
            )
        return audio.float()

    def _checked_latents(self, latents: Tensor) -> Tensor:
        expected = (self.latent_channels, self.latent_bins)
        if latents.dim() != 4 or (latents.shape[1], latents.shape[3]) != expected or 0 in latents.shape:
            raise ValueError(
                f"{type(self).__name__} takes latents [B, {expected[0]}, T, {expected[1]}] with T > 0, "
                f"not {list(latents.shape)}"
            )
        return latents.float()


def _merge_moments(count: int, mean: Tensor, square: Tensor, raw: Tensor) -> tuple[int, Tensor, Tensor]:
    """Add raw latents [B, C, T, F] to (frames, mean [C, F], sum of squared deviations [C, F]).

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", eq. 2.1.
    """
    new = raw.shape[0] * raw.shape[2]
    new_mean = raw.mean(dim=(0, 2))  # [C, F]
    new_square = (raw - new_mean[None, :, None]).square().sum(dim=(0, 2))  # [C, F]
    total, delta = count + new, new_mean - mean
    return (total, mean + delta * (new / total), square + new_square + delta.square() * (count * new / total))
