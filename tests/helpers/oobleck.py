"""A small checkpoint in the layout of Stable Audio Open whose weights give back what they are given.

Its convolutions move samples to channels and back: the first half of the latent channels is the left channel, the
second the right one. Whatever swaps or mixes the two, anywhere, is heard.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderOobleck
from torch import Tensor, nn

STRIDES = [2, 4]
HOP = 8
CHANNELS = 2 * HOP
"""Latent channels: the samples of a frame, of left and right."""


def save_oobleck(folder: Path, sample_rate: int = 44100, dtype: torch.dtype = torch.float32) -> Path:
    """Write a pipeline's folder with `vae/`, and return it."""
    exact_oobleck(sample_rate).to(dtype).save_pretrained(folder / "vae")
    return folder


@torch.no_grad()
def exact_oobleck(sample_rate: int = 44100) -> AutoencoderOobleck:
    """Return the autoencoder, of 16 channels at an eighth of the sample rate."""
    vae = small_oobleck(sample_rate)
    for name, parameter in vae.named_parameters():
        if name.endswith("beta"):
            parameter.fill_(20.0)  # a snake whose sine is divided by exp(20)
        elif name.endswith("bias"):
            parameter.zero_()
    for name, layer in vae.named_modules():
        if ".res_unit" in name and name.endswith("conv2"):
            _set(layer, torch.zeros_like(layer.weight))
    for network, size in ((vae.encoder, 2), (vae.decoder, CHANNELS)):
        _set(network.conv1, _straight(network.conv1.weight, size))
    for block, stride, size in zip(vae.encoder.block, STRIDES, (2, 2 * STRIDES[0]), strict=True):
        _set(block.conv1, _samples_to_channels(block.conv1.weight, stride, size))
    for block, stride, size in zip(vae.decoder.block, STRIDES[::-1], (2 * STRIDES[0], 2), strict=True):
        _set(block.conv_t1, _samples_to_channels(block.conv_t1.weight, stride, size))
    _set(vae.encoder.conv2, _straight(vae.encoder.conv2.weight, CHANNELS))
    _set(vae.decoder.conv2, _straight(vae.decoder.conv2.weight, 2))
    return vae


def small_oobleck(sample_rate: int = 44100) -> AutoencoderOobleck:
    """Return one of the same shape with random weights, which mixes left and right."""
    return AutoencoderOobleck(
        encoder_hidden_size=2 * CHANNELS,
        downsampling_ratios=STRIDES,
        channel_multiples=[1, 1],
        decoder_channels=2 * CHANNELS,
        decoder_input_channels=CHANNELS,
        sampling_rate=sample_rate,
    ).eval()


def _straight(like: Tensor, size: int) -> Tensor:
    """Return weights [out, in, k] that pass the first `size` channels on."""
    weight = torch.zeros_like(like)
    for channel in range(size):
        weight[channel, channel, like.shape[2] // 2] = 1
    return weight


def _samples_to_channels(like: Tensor, stride: int, size: int) -> Tensor:
    """Return weights that make `stride` samples of each of `size` channels to channels, or, transposed, the reverse."""
    weight = torch.zeros_like(like)
    for channel in range(size):
        for phase in range(stride):
            weight[channel * stride + phase, channel, phase + stride // 2] = 1
    return weight


def _set(layer: nn.Module, weight: Tensor) -> None:
    """Give a layer with weight norm this weight: a row of zeros has length 0 and any direction."""
    length = weight.flatten(1).norm(dim=1)[:, None, None]
    layer.weight_g.copy_(length)
    layer.weight_v.copy_(torch.where(length > 0, weight, torch.ones_like(weight)))
