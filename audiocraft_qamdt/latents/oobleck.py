"""The autoencoder of Stable Audio Open (diffusers' `AutoencoderOobleck`): 44.1 kHz stereo to 64 channels at 21.5 Hz."""

from __future__ import annotations

import math
import typing as tp
from pathlib import Path

import torch.nn.functional as F
from diffusers.models import AutoencoderOobleck
from torch import Tensor

from .codec import LatentCodec

PIPELINE_FOLDER = "vae"
"""Folder of the autoencoder in a diffusers pipeline."""


class _Shape(tp.Protocol):
    """Fields of `AutoencoderOobleck.config` that the codec depends on."""

    encoder_hidden_size: int
    decoder_input_channels: int
    sampling_rate: int
    downsampling_ratios: tp.Sequence[int]
    audio_channels: int


class OobleckCodec(LatentCodec):
    """The mean of the autoencoder's posterior, [B, C, T, 1].

    Audio is padded with silence to whole latent frames, and the decoded audio is cropped.

    Args:
        vae: its configuration gives sample rate, audio channels, hop and C. It is frozen in place.
    Raises:
        ValueError: an encoder that does not give mean and scale of as many channels as the decoder takes.
    """

    def __init__(self, vae: AutoencoderOobleck) -> None:
        shape = tp.cast(_Shape, vae.config)
        if shape.encoder_hidden_size != 2 * shape.decoder_input_channels:
            raise ValueError(
                f"oobleck: encoder_hidden_size={shape.encoder_hidden_size} must be twice "
                f"decoder_input_channels={shape.decoder_input_channels}: a mean and a scale of each channel"
            )
        super().__init__(
            shape.sampling_rate,
            math.prod(shape.downsampling_ratios),
            shape.decoder_input_channels,
            latent_bins=1,
            channels=shape.audio_channels,
        )
        self.vae = vae.eval().float().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path) -> OobleckCodec:
        """Load the safetensors of a pipeline's `vae/` or of the autoencoder alone: a local folder, or a hub id.

        Raises:
            OSError: there is none.
        """
        subfolder = _subfolder(folder_or_hub_id)
        return cls(AutoencoderOobleck.from_pretrained(folder_or_hub_id, subfolder=subfolder, use_safetensors=True))

    def _encode(self, audio: Tensor) -> Tensor:
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        return self.vae.encode(audio).latent_dist.mean[..., None]  # [B, C, T, 1]

    def _decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents[..., 0]).sample  # [B, channels, T * hop_length]


def _subfolder(folder_or_hub_id: str | Path) -> str | None:
    try:
        AutoencoderOobleck.load_config(folder_or_hub_id, subfolder=PIPELINE_FOLDER)
    except OSError:
        return None
    return PIPELINE_FOLDER
