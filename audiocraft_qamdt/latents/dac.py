"""The Descript Audio Codec (arXiv 2306.06546) as latents: what its quantisers are given, before they round it."""

from __future__ import annotations

import functools
import re
import typing as tp
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DacConfig, DacModel

from ..utils.reading import JsonObject
from .codec import LatentCodec
from .weights import load_published, without_weight_norm


class DacCodec(LatentCodec):
    """The projections that the residual quantisers round, [B, channels * codebooks * codebook_dim, T, 1].

    They are 72 numbers a frame of the 44.1 kHz model, where its encoder gives 1,024. The network codes one channel:
    those of stereo audio are coded one by one, left first, and lie one after the other in the latents' channels.

    Args:
        model: transformers' model. It is frozen in place.
        channels: of the audio.
        codebooks: first stages of the quantiser that are used; None = all.
        quantize: round the latents to the codebooks before the decoder, which was trained on such.
    Raises:
        ValueError: more codebooks than the model has, or none; no channel.
    """

    def __init__(self, model: DacModel, channels: int = 1, codebooks: int | None = None, quantize: bool = True) -> None:
        shape = model.config
        codebooks = shape.n_codebooks if codebooks is None else codebooks
        if not 1 <= codebooks <= shape.n_codebooks:
            raise ValueError(f"latents.dac.codebooks={codebooks}: the model has {shape.n_codebooks}, give 1 or more")
        if channels < 1:
            raise ValueError(f"latents.dac.channels={channels}: give 1, or 2 for stereo")
        size = channels * codebooks * shape.codebook_dim
        super().__init__(shape.sampling_rate, shape.hop_length, size, latent_bins=1, channels=channels)
        self.model: DacModel = model.eval().float().requires_grad_(False)
        self.codebooks = codebooks
        self.quantize = quantize

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, **options: tp.Any) -> DacCodec:
        """Load the safetensors of a transformers `DacModel`: a local folder, or a hub id such as descript/dac_44khz.

        Args:
            folder_or_hub_id: where it is.
            options: of the class.
        """
        return cls(DacModel.from_pretrained(folder_or_hub_id, use_safetensors=True), **options)

    @classmethod
    def from_descript(cls, content: JsonObject, path: str | Path, **options: tp.Any) -> DacCodec:
        """Load the content of a file of the descript-audio-codec package, which AudioCraft's `DAC` reads too.

        Args:
            content: of the file: `state_dict`, and the model's arguments in `metadata`.
            path: of the file, for messages.
            options: of the class.
        Raises:
            ValueError: a file of another kind; a key that is missing, too many, of another shape or not finite.
        """
        try:
            model = DacModel(_config(content["metadata"]["kwargs"]))
            weights = without_weight_norm(content["state_dict"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no file of the descript-audio-codec package: {error} is missing") from error
        stages = len(model.config.downsampling_ratios)
        load_published(model, weights, functools.partial(_descript_key, stages=stages), path)
        return cls(model, **options)

    def _encode(self, audio: Tensor) -> Tensor:
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        mono = audio.flatten(0, 1)[:, None]  # [B * channels, 1, S]
        projected = self.model.encode(mono, n_quantizers=self.codebooks).projected_latents  # [B * channels, D, T]
        return projected.unflatten(0, (-1, self.channels)).flatten(1, 2)[..., None]  # [B, channels * D, T, 1]

    def _decode(self, latents: Tensor) -> Tensor:
        projected = latents[..., 0].unflatten(1, (self.channels, -1)).flatten(0, 1)  # [B * channels, D, T]
        audio = self.model.decode(self._embeddings(projected)).audio_values  # [B * channels, about T * hop_length]
        return audio.unflatten(0, (-1, self.channels))  # [B, channels, about T * hop_length]

    def _embeddings(self, projected: Tensor) -> Tensor:
        """Return what the decoder takes [N, hidden, T] of projections [N, D, T]."""
        if self.quantize:
            return self.model.quantizer.from_latents(projected)[0]
        stages = self.model.quantizer.quantizers
        parts = zip(stages, projected.chunk(self.codebooks, dim=1), strict=False)
        return torch.stack([tp.cast(nn.Module, stage.out_proj)(part) for stage, part in parts]).sum(0)


def _config(arguments: JsonObject) -> DacConfig:
    """Return transformers' configuration of the package's arguments.

    Raises:
        ValueError: a shape that transformers' model cannot have.
    """
    rates = list(arguments["encoder_rates"])
    config = DacConfig(
        encoder_hidden_size=arguments["encoder_dim"],
        downsampling_ratios=rates,
        decoder_hidden_size=arguments["decoder_dim"],
        n_codebooks=arguments["n_codebooks"],
        codebook_size=arguments["codebook_size"],
        codebook_dim=arguments["codebook_dim"],
        sampling_rate=arguments["sample_rate"],
    )
    same = list(arguments["decoder_rates"]) == rates[::-1]
    if not same or arguments.get("latent_dim") not in (None, config.hidden_size):
        raise ValueError(
            f"dac: decoder_rates={arguments['decoder_rates']} and latent_dim={arguments.get('latent_dim')} are not "
            f"those of the published models, {rates[::-1]} and {config.hidden_size}"
        )
    return config


_UNIT = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
"""Places of a residual unit's layers in the package."""
_STAGE = {"encoder": {"snake1": 3, "conv1": 4}, "decoder": {"snake1": 0, "conv_t1": 1}}
"""Places of a stage's other layers there."""


def _descript_key(key: str, stages: int) -> str:
    """Return the package's name of a parameter, which numbers layers where transformers names them."""
    network, _, rest = key.partition(".")
    if network == "quantizer":
        return key
    top, first = {"encoder": ("block", 0), "decoder": ("model", 2)}[network]
    unit = re.search(r"res_unit(\d)\.(\w+)", rest)
    if unit is not None:
        rest = rest.replace(unit[0], f"block.{first + int(unit[1]) - 1}.block.{_UNIT[unit[2]]}")
    if rest.startswith("block."):
        _, stage, rest = rest.split(".", 2)
        rest = re.sub(r"^(snake1|conv1|conv_t1)\.", lambda found: f"block.{_STAGE[network][found[1]]}.", rest)
        return f"{network}.{top}.{int(stage) + 1}.{rest}"
    places = {"conv1": 0, "snake1": stages + 1, "conv2": stages + 2}
    name, _, rest = rest.partition(".")
    return f"{network}.{top}.{places[name]}.{rest}"
