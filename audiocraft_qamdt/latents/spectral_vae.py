"""A learned codec of magnitudes at frame rate, so that a CPU can train it and run it.

An encoder of ConvNeXt blocks (Liu et al., arXiv 2201.03545) takes the log amplitudes of an STFT to a Gaussian
bottleneck (VAE, arXiv 1312.6114). A decoder gives back their median and their spread, which say how much of a bin is
tone and how much noise. The phases are not coded: decoding finds them in a few iterations (fast Griffin-Lim, Perraudin
et al. 2013), starting from the frequencies of the spectrum's peaks. Heads that predict phases learned no harmonic in
the time in which this one learned all of them.
"""

from __future__ import annotations

import json
import math
import typing as tp
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.reading import JsonObject
from .codec import LatentCodec

WEIGHTS = Path(__file__).with_name("spectral_vae.safetensors")
"""The codec in the package, trained by `make codec`."""

FRAME = 256
"""Samples from one STFT frame to the next."""
JOINED = 2
"""STFT frames in one latent frame."""
WINDOW = 1024
"""Samples of an STFT window."""
BINS = WINDOW // 2 + 1
FLOOR = 1e-6
"""Amplitude (-120 dB of full scale) added before the logarithm."""
LOG_MEAN, LOG_STD = -9.0, 3.0
"""Of log amplitudes of music at -20 dBFS, about: what the encoder sees is near unit variance."""
NOISE_MEDIAN = -0.1833
"""Median of the log amplitude of complex normal noise of unit power (log of the root of log 2)."""
NOISE_SPREAD = 0.4840
"""Mean absolute deviation of that log amplitude from its median."""
NOISE_SEED = 15
KERNEL = 7
LAYER_SCALE = 0.1
"""First gain of a block's residual."""
ITERATIONS = 12
"""Of Griffin-Lim; 4, 8, 12, 16 iterations from true amplitudes: see `benchmarks.codec_error`."""
MOMENTUM = 0.99
PATCHES = ((1, 8), (8, 1), (4, 4))
"""Bins and frames of the patches whose level is compared."""


@dataclass(frozen=True)
class SpectralVAESizes:
    """Sizes of a `SpectralVAE`.

    Args:
        sample_rate: of the audio, in Hz; a latent frame is 512 samples.
        latent_channels: numbers per latent frame C.
        width: channels of the blocks.
        expansion: width of a block's hidden layer over `width`.
        encoder_blocks: blocks before and after two frames are joined to one.
        decoder_blocks: blocks before and after one frame is split into two.
    """

    sample_rate: int = 16000
    latent_channels: int = 32
    width: int = 256
    expansion: int = 3
    encoder_blocks: tuple[int, int] = (2, 3)
    decoder_blocks: tuple[int, int] = (3, 5)

    @classmethod
    def from_dict(cls, values: JsonObject) -> SpectralVAESizes:
        """Read from plain data, with lists for the pairs."""
        pairs: JsonObject = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **pairs})


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then two layers over the channels, added to the input.

    Args:
        width: channels.
        expansion: width of the hidden layer over `width`.
    """

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.gain = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x [B, T, width]."""
        hidden = self.depthwise(x.transpose(1, 2)).transpose(1, 2)  # [B, T, width]
        hidden = F.gelu(self.expand(self.norm(hidden)), approximate="tanh")  # [B, T, expansion * width]
        return torch.addcmul(x, self.gain.to(x.dtype), self.contract(hidden).to(x.dtype))


def _blocks(count: int, sizes: SpectralVAESizes) -> nn.Sequential:
    return nn.Sequential(*(ConvNeXtBlock(sizes.width, sizes.expansion) for _ in range(count)))


class Encoder(nn.Module):
    """Log amplitudes to mean and log variance of the latents."""

    def __init__(self, sizes: SpectralVAESizes) -> None:
        super().__init__()
        self.embed = nn.Linear(BINS, sizes.width)
        self.blocks = _blocks(sizes.encoder_blocks[0], sizes)
        self.join = nn.Linear(JOINED * sizes.width, sizes.width)
        self.joined_blocks = _blocks(sizes.encoder_blocks[1], sizes)
        self.norm = nn.LayerNorm(sizes.width)
        self.moments = nn.Linear(sizes.width, 2 * sizes.latent_channels)

    def forward(self, log_amplitude: Tensor) -> tuple[Tensor, Tensor]:
        """Encode log amplitudes [B, 2 T, 513] as mean and log variance [B, C, T]."""
        x = self.blocks(self.embed((log_amplitude - LOG_MEAN) / LOG_STD))  # [B, 2 T, width]
        x = self.joined_blocks(self.join(x.unflatten(1, (-1, JOINED)).flatten(2)))  # [B, T, width]
        mean, log_variance = self.moments(self.norm(x)).float().transpose(1, 2).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 4)


class Amplitudes(tp.NamedTuple):
    """What is known of the log amplitudes [B, frames, 513]: their median, and their mean absolute deviation from it."""

    median: Tensor
    spread: Tensor

    def parts(self) -> tuple[Tensor, Tensor]:
        """Return the amplitudes of tone and of noise in each bin: a spread as large as noise has is all noise."""
        share, amplitude = self._share(), self._amplitude()
        return (1 - share.square()).sqrt() * amplitude, share * amplitude * math.exp(-NOISE_MEDIAN)

    def power(self) -> Tensor:
        """Return the mean power of each bin, the sum of the squares of its parts; its gradient is finite everywhere."""
        gain = math.exp(-2 * NOISE_MEDIAN) - 1
        return self._amplitude().square() * (1 + gain * self._share().square())

    def _share(self) -> Tensor:
        return (self.spread / NOISE_SPREAD).clamp(max=1)

    def _amplitude(self) -> Tensor:
        return (self.median.exp() - FLOOR).clamp(min=0)


class Decoder(nn.Module):
    """Latents to the distribution of log amplitudes."""

    def __init__(self, sizes: SpectralVAESizes) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.latent_channels, sizes.width)
        self.joined_blocks = _blocks(sizes.decoder_blocks[0], sizes)
        self.split = nn.Linear(sizes.width, JOINED * sizes.width)
        self.blocks = _blocks(sizes.decoder_blocks[1], sizes)
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, 2 * BINS)

    def forward(self, latents: Tensor) -> Amplitudes:
        """Decode latents [B, C, T] to amplitudes [B, 2 T, 513]."""
        x = self.joined_blocks(self.embed(latents.transpose(1, 2)))  # [B, T, width]
        x = self.split(x).unflatten(-1, (JOINED, -1)).flatten(1, 2)  # [B, 2 T, width]
        x = self.blocks(x)
        with torch.autocast(x.device.type, enabled=False):  # half precision has 0.3 dB at most, too coarse
            median, spread = self.head(self.norm(x.float())).chunk(2, dim=-1)
        return Amplitudes(LOG_MEAN + LOG_STD * median, F.softplus(spread - 1) + 0.02)


class SpectralVAE(nn.Module):
    """Variational autoencoder of the amplitudes of mono audio, 31.25 latent frames a second (16 kHz).

    Args:
        sizes: sizes.
    """

    window: Tensor

    def __init__(self, sizes: SpectralVAESizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.encoder = Encoder(sizes)
        self.decoder = Decoder(sizes)

    def spectrum(self, audio: Tensor) -> Tensor:
        """Compute the STFT [B, 2 T, 513] of audio [B, 1, S], zero padded to T * 512 samples."""
        hop = FRAME * JOINED
        return centred_stft(F.pad(audio[:, 0], (0, -audio.shape[-1] % hop)), self.window)

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio [B, 1, S], zero padded to T * 512 samples, as mean and log variance [B, C, T]."""
        return self.encoder((self.spectrum(audio).abs() + FLOOR).log())

    def decode(self, latents: Tensor, iterations: int = ITERATIONS) -> Tensor:
        """Decode latents [B, C, T] to audio [B, 1, T * 512]."""
        tone, noise = self.decoder(latents).parts()
        spectrum = torch.polar(tone, peak_phases(tone)) + noise * self._noise(noise)
        return griffin_lim(spectrum, self.window, iterations).unsqueeze(1)

    def _noise(self, like: Tensor) -> Tensor:
        """Return the STFT of white noise [1, frames, 513], unit power in each bin; always the same."""
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(1, like.shape[1] * FRAME, generator=generator).to(like)
        scale = 2 / self.window.sum() * self.window.square().sum().sqrt()
        return centred_stft(noise, self.window) / scale


def amplitude_loss(made: Amplitudes, log_amplitude: Tensor) -> tuple[Tensor, Tensor]:
    """Compute how far decoded amplitudes are from log amplitudes [B, frames, 513].

    Returns:
        The mean absolute error of the median, in nepers; and the whole loss: that error, the likelihood of the spread
        (of a Laplace distribution around the median), and the difference of the level of patches, by mean power, so
        that what is uncertain is not too quiet.
    """
    error = (made.median - log_amplitude).abs()
    likelihood = (error.detach() / made.spread + made.spread.log()).mean()
    found = Amplitudes(made.median, made.spread.detach()).power() + FLOOR**2
    wanted = (2 * log_amplitude).exp()
    levels = [_pooled(found, *patch).log() - _pooled(wanted, *patch).log() for patch in PATCHES]
    level = torch.stack([difference.abs().mean() / 2 for difference in levels]).mean()
    return error.mean(), error.mean() + 0.2 * likelihood + 0.5 * level


def _pooled(values: Tensor, bins: int, frames: int) -> Tensor:
    """Return the mean over patches of values [B, frames, bins]; what does not fill a patch is left out."""
    height, width = values.shape[1] // frames * frames, values.shape[2] // bins * bins
    return values[:, :height, :width].unflatten(2, (-1, bins)).mean(-1).unflatten(1, (-1, frames)).mean(2)


def peak_phases(amplitude: Tensor) -> Tensor:
    """Return the phases [B, frames, bins] that steady tones of these amplitudes [B, frames, bins] have.

    Each bin takes the frequency of the nearest peak, by a parabola through the log amplitudes around it, and its phase
    advances by it from frame to frame (phase vocoder with locked bins: Laroche and Dolson, 1999).
    """
    bins = amplitude.shape[-1]
    logs = (amplitude + FLOOR / 10).log()
    left, middle, right = logs[..., :-2], logs[..., 1:-1], logs[..., 2:]
    is_peak = F.pad((middle >= left) & (middle > right), (1, 1))
    offset = F.pad((0.5 * (left - right) / (left - 2 * middle + right - 1e-9)).clamp(-0.5, 0.5), (1, 1))
    index = torch.arange(bins, device=amplitude.device).expand(amplitude.shape)
    below = torch.where(is_peak, index, -bins).cummax(-1).values
    above = torch.where(is_peak, index, 2 * bins).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(index - below <= above - index, below, above).clamp(0, bins - 1)
    frequency = (index + offset).gather(-1, nearest)  # in bins
    frequency = (frequency + torch.cat([frequency[:, :1], frequency[:, :-1]], dim=1)) / 2
    turns = (frequency.double() * (FRAME / WINDOW)).cumsum(1) % 1  # float32 would lose them in long clips
    return (2 * math.pi * turns).float() + math.pi * (index - nearest)  # a centred window's bins alternate in sign


def griffin_lim(spectrum: Tensor, window: Tensor, iterations: int) -> Tensor:
    """Find audio [B, frames * 256] with the amplitudes of a spectrum [B, frames, 513], starting at its phases.

    Fast Griffin-Lim (Perraudin, Balazs and Søndergaard, 2013).
    """
    amplitude, before = spectrum.abs(), None
    for _ in range(iterations):
        consistent = centred_stft(inverse_stft(spectrum, window, FRAME), window)
        ahead = consistent if before is None else consistent + MOMENTUM * (consistent - before)
        before, spectrum = consistent, amplitude * (ahead / (ahead.abs() + 1e-12))
    return inverse_stft(spectrum, window, FRAME)


def centred_stft(audio: Tensor, window: Tensor) -> Tensor:
    """Compute the spectrum [B, frames, bins] of audio [B, frames * 256], each window centred on its frame."""
    padding = (WINDOW - FRAME) // 2
    return stft(F.pad(audio, (padding, padding)), window, FRAME).transpose(1, 2)


def stft(audio: Tensor, window: Tensor, hop: int) -> Tensor:
    """Compute the spectrum [B, bins, frames] of audio [B, S] without padding; a sine of amplitude 1 peaks at 1."""
    spectrum = torch.stft(audio, len(window), hop, window=window, center=False, return_complex=True)
    return spectrum * (2 / window.sum())


def inverse_stft(spectrum: Tensor, window: Tensor, hop: int) -> Tensor:
    """Add up spectra [B, frames, bins], each window centred on its frame: the inverse of `stft`.

    Returns:
        Audio [B, frames * hop].
    """
    size = len(window)
    frames = torch.fft.irfft(spectrum * (window.sum() / 2), size) * window  # [B, frames, size]
    weights = window.square().expand_as(frames[:1])  # [1, frames, size]
    pieces, envelope = (_overlap_add(x.unflatten(-1, (-1, hop))) for x in (frames, weights))
    outer = (size - hop) // 2
    return (pieces / envelope.clamp(min=1e-6)).flatten(1)[:, outer : outer + spectrum.shape[1] * hop]


def _overlap_add(pieces: Tensor) -> Tensor:
    """Add frames, cut into pieces of a hop [B, frames, pieces, hop], where they overlap."""
    batch, frames, count, hop = pieces.shape
    total = pieces.new_zeros(batch, frames + count - 1, hop)
    for offset in range(count):
        total[:, offset : offset + frames] += pieces[:, :, offset]
    return total


class SpectralVAECodec(LatentCodec):
    """The autoencoder's means as latents [B, C, T, 1].

    Args:
        vae: the autoencoder.
    """

    def __init__(self, vae: SpectralVAE) -> None:
        sizes = vae.sizes
        super().__init__(sizes.sample_rate, FRAME * JOINED, sizes.latent_channels, latent_bins=1)
        self.vae = vae

    @classmethod
    def from_file(cls, path: str | Path = WEIGHTS) -> SpectralVAECodec:
        """Load what `save` wrote; the weights in the package by default.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or its weights do not fit the sizes that it names.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"latents.spectral_vae.checkpoint={path}: there is no such file")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                weights = {key: file.get_tensor(key).float() for key in file.keys()}
            vae = SpectralVAE(SpectralVAESizes.from_dict(json.loads(metadata["spectral_vae"])))
            vae.load_state_dict(weights)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"latents.spectral_vae.checkpoint={path}: no spectral_vae codec, or damaged ({error})"
            ) from error
        return cls(vae)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write weights and sizes as a safetensors file, in half precision."""
        from safetensors.torch import save_file

        weights = {key: value.to(dtype).contiguous() for key, value in self.vae.state_dict().items()}
        part = Path(path).with_name(f"{Path(path).name}.part")
        save_file(weights, part, {"spectral_vae": json.dumps(asdict(self.vae.sizes))})
        part.replace(path)

    def _encode(self, audio: Tensor) -> Tensor:
        if not audio.isfinite().all():
            raise ValueError("spectral_vae: the audio has samples that are not finite (NaN or infinite)")
        return self.vae.encode(audio)[0].unsqueeze(-1)  # [B, C, T, 1]

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents[..., 0])  # [B, 1, T * 512]
