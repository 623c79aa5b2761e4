"""A latent codec as AudioCraft's `CompressionModel`, for AudioCraft code that round-trips audio."""

from __future__ import annotations

import torch
from audiocraft.models.encodec import CompressionModel
from audiocraft.quantization import QuantizedResult
from torch import Tensor

from .codec import LatentCodec


class LatentCompressionModel(CompressionModel):
    """AudioCraft's interface over `codec`, with continuous latents [B, C, T, F] in place of AudioCraft's codes.

    Args:
        codec: the codec, kept as `.codec`.
    """

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> QuantizedResult:
        """Round trip of audio [B, channels, S]; `codes` are the latents, `bandwidth` counts them as float32 in kb/s."""
        latents = self.codec.encode(x)
        values = self.codec.latent_channels * self.codec.latent_bins
        bandwidth = torch.tensor(32 * values * self.frame_rate / 1000).to(latents)
        return QuantizedResult(self.codec.decode(latents, x.shape[-1]), latents, bandwidth)

    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        """Audio [B, channels, S] to (latents [B, C, T, F], no scale)."""
        return self.codec.encode(x), None

    def decode(self, codes: Tensor, scale: Tensor | None = None) -> Tensor:
        """Latents [B, C, T, F] to audio [B, channels, all samples they cover].

        Raises:
            ValueError: a scale is given; `encode` never gives one.
        """
        if scale is not None:
            raise ValueError("LatentCompressionModel.decode takes no scale: the latents hold the level")
        return self.codec.decode(codes)

    def decode_latent(self, codes: Tensor) -> Tensor:
        """The latents themselves: they are continuous already."""
        return codes

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self.codec.channels

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.codec.frame_rate

    @property
    def sample_rate(self) -> int:
        """Of the audio, in Hz."""
        return self.codec.sample_rate

    @property
    def num_codebooks(self) -> int:
        """0: the latents are continuous."""
        return 0

    @property
    def total_codebooks(self) -> int:
        """0: the latents are continuous."""
        return 0

    @property
    def cardinality(self) -> int:
        """Not defined for continuous latents."""
        raise NotImplementedError(
            "continuous latents have no codebooks, so no cardinality: a token model such as "
            "MusicGen needs a compression model that quantises"
        )

    def set_num_codebooks(self, n: int) -> None:
        """Not defined for continuous latents."""
        raise NotImplementedError(
            "continuous latents have no codebooks to choose from: leave compression_model_n_q null"
        )
