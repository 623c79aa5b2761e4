"""OpenL3 (github.com/marl/openl3), the embeddings of stable-audio-metrics' Fréchet distance, in PyTorch alone.

The parameters are laid out as in the files of github.com/torchopenl3/torchopenl3-models, a conversion of the
TensorFlow release. These hold the windowed Fourier transform and the mel filters too, which are used as they are.
"""

from __future__ import annotations

import math

import julius
import torch
from torch import Tensor, nn

from .base import Network, Outputs
from .weights import label, read_weights, weights_of

URL = "https://github.com/torchopenl3/torchopenl3-models/raw/master/torchopenl3_mel256_music_512.pth.tar"
SAMPLE_RATE = 48000  # and the samples of a window: it is one second long
FRAME_HOP = 242
LEAST, RANGE = 1e-10, 80.0  # of the spectrogram, and dB below its maximum that are left
CONVOLUTIONS = 8
POOLED = (2, 4, 6)  # convolutions after which time and bands are halved
EPSILON = 1e-3  # Keras' in batch normalisation
# dimensions of an embedding → how many parts the bands and the time are pooled into
PARTS = {512: (1, 1), 6144: (4, 3)}
BATCH = 16  # windows at a time


class OpenL3(nn.Module):
    """The network on windows of one second.

    Args:
        fft: samples of a frame.
        bands: mel bands; None = none, the network hears all bins.
        widths: channels of its eight convolutions.
    """

    PUBLISHED = (64, 64, 128, 128, 256, 256, 512, 512)
    batch_normalization_1: nn.BatchNorm2d
    audio_embedding_layer: nn.Conv2d

    def __init__(self, fft: int = 2048, bands: int | None = 256, widths: tuple[int, ...] = PUBLISHED) -> None:
        super().__init__()
        bins = fft // 2 + 1
        self.speclayer = nn.Module()
        for part in ("dft_real_kernels", "dft_imag_kernels"):
            self.speclayer.register_buffer(part, torch.zeros(bins, 1, fft))
        if bands is not None:
            self.speclayer.register_buffer("mel_basis", torch.zeros(bands, bins))
        inputs = (1, *widths[:-1])
        for index, (before, after) in enumerate(zip(inputs, widths, strict=True), 1):
            self.add_module(f"batch_normalization_{index}", nn.BatchNorm2d(before, eps=EPSILON))
            self.add_module(_convolution(index), nn.Conv2d(before, after, 3, padding=1))

    @classmethod
    def like(cls, state: dict[str, Tensor]) -> OpenL3:
        """Return a network of a state dict's sizes, with its weights."""
        mel = state.get("speclayer.mel_basis")
        widths = tuple(len(state[f"{_convolution(index)}.bias"]) for index in range(1, CONVOLUTIONS + 1))
        network = cls(state["speclayer.dft_real_kernels"].shape[-1], None if mel is None else len(mel), widths)
        network.load_state_dict(state)
        return network.eval()

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Return decibels below the maximum [B, 1, bands, frames] of windows [B, 48000]."""
        buffers = dict(self.speclayer.named_buffers())
        real, imaginary = buffers["dft_real_kernels"], buffers["dft_imag_kernels"]
        mel, fft = buffers.get("mel_basis"), real.shape[-1]
        if mel is not None:  # Keras' padding "same"; without mel filters there is none
            needed = fft - SAMPLE_RATE % FRAME_HOP
            audio = nn.functional.pad(audio, (needed // 2, needed - needed // 2))
        parts = [nn.functional.conv1d(audio[:, None], kernel, stride=FRAME_HOP) for kernel in (real, imaginary)]
        power = parts[0].square() + parts[1].square()
        decibels = 10 * (power if mel is None else mel @ power).sqrt().clamp(min=LEAST).log10()
        return (decibels - decibels.amax((1, 2), keepdim=True)).clamp(min=-RANGE)[:, None]

    def forward(self, audio: Tensor) -> Tensor:
        """Return features [B, C, bands / 8, frames / 8] of windows [B, 48000]."""
        features = self.batch_normalization_1(self.spectrogram(audio))
        for index in range(1, CONVOLUTIONS):
            features = getattr(self, _convolution(index))(features)
            features = getattr(self, f"batch_normalization_{index + 1}")(features).relu()
            if index in POOLED:
                features = nn.functional.max_pool2d(features, 2)
        return self.audio_embedding_layer(features)


def _convolution(index: int) -> str:
    return f"conv2d_{index}" if index < CONVOLUTIONS else "audio_embedding_layer"


class OpenL3Network(Network):
    """OpenL3 as a `Network`: an embedding for each window of one second, the first centred on the clip's beginning.

    Args:
        checkpoint: path or `//reference/...`; None = download the published one of 256 mel bands and music.
        size: dimensions of an embedding, 512 or 6144; the weights are the same.
        hop: seconds from one window to the next.
        device: where it computes.
    Raises:
        MissingWeights: they cannot be had.
    """

    module: OpenL3
    sample_rate = SAMPLE_RATE

    def __init__(self, checkpoint: str | None = None, size: int = 512, hop: float = 0.5, device: str = "cpu") -> None:
        if size not in PARTS:
            raise ValueError(f"metrics.openl3.size={size}: there are {', '.join(map(str, PARTS))}")
        with weights_of("OpenL3", URL, "set metrics.openl3.checkpoint (on the command line openl3=PATH) to the file"):
            self.module = OpenL3.like(read_weights(checkpoint, URL)).requires_grad_(False).to(device)
        self.device, self.hop, self.parts = device, round(hop * SAMPLE_RATE), PARTS[size]
        self.dim = self.module.audio_embedding_layer.out_channels * math.prod(self.parts)
        self.name = label(f"openl3-{size}", checkpoint)

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        cut = _windows(julius.resample_frac(audio.float(), sample_rate, SAMPLE_RATE), self.hop)
        return Outputs(torch.cat([self._embed(part.to(self.device)).cpu() for part in cut.split(BATCH)]))

    def _embed(self, audio: Tensor) -> Tensor:
        features = self.module(audio)  # [B, C, bands / 8, frames / 8]
        pools = [size // parts for size, parts in zip(features.shape[2:], self.parts, strict=True)]
        pooled = nn.functional.max_pool2d(features, pools)
        return pooled.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order: channels last


def _windows(audio: Tensor, hop: int) -> Tensor:
    """Return windows [n, 48000] of audio [S], half a second of zeros before it and the last one filled with zeros."""
    audio = nn.functional.pad(audio, (SAMPLE_RATE // 2, 0))
    count = 1 + max(0, math.ceil((len(audio) - SAMPLE_RATE) / hop))
    return nn.functional.pad(audio, (0, (count - 1) * hop + SAMPLE_RATE - len(audio))).unfold(0, SAMPLE_RATE, hop)
