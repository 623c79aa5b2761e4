"""The published weights of the mel VAE and its vocoder: read without unpickling objects, renamed for our networks."""

from __future__ import annotations

import functools
import pickle
import re
import typing as tp
import zipfile
from pathlib import Path

import torch
from diffusers.models import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import SpeechT5HifiGan

from .weights import load_published, without_weight_norm


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or a torch checkpoint; flatten nested dictionaries to dotted names.

    Of a Lightning checkpoint its `state_dict`; torch.compile's `_orig_mod.` is dropped from the names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that holds anything but plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {code[1]}, and only plain data is read" if code else "it is damaged or no checkpoint"
        raise ValueError(f"{path} was not loaded: {reason}") from error
    return dict(_flatten(tree.get("state_dict", tree) if isinstance(tree, tp.Mapping) else tree, ""))


def load_vae(vae: AutoencoderKL, weights: tp.Mapping[str, Tensor], levels: int, path: str | Path) -> None:
    """Copy published weights into the autoencoder.

    Args:
        weights: of `vae_weights`.
        levels: number of resolutions.
        path: of the file, for messages.
    Raises:
        ValueError: a key that is missing, too many, of another shape or not finite.
    """
    load_published(vae, weights, functools.partial(_official_vae_key, levels=levels), path)


def load_vocoder(vocoder: SpeechT5HifiGan, weights: tp.Mapping[str, Tensor], path: str | Path) -> None:
    """Copy published HiFi-GAN weights into the vocoder.

    Args:
        weights: of `vocoder_weights`.
        path: of the file, for messages.
    Raises:
        ValueError: as `load_vae`.
    """
    load_published(vocoder, weights, _official_vocoder_key, path)


def _flatten(tree: object, prefix: str) -> tp.Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield prefix.replace("_orig_mod.", ""), tree
    elif isinstance(tree, tp.Mapping):
        for key, value in tree.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))


def _under(state: tp.Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Return the entries under the first prefix that occurs, without the prefix."""
    for prefix in prefixes:
        found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if found:
            return found
    return {}


def vae_weights(state: tp.Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the autoencoder's weights of a checkpoint by CompVis' names, attention as linear layers."""
    # The published training module also holds the discriminator and the vocoder.
    weights = {
        key: value
        for key, value in _under(state, "first_stage_model.", "").items()
        if not key.startswith(("loss.", "vocoder."))
    }
    # Attention as 1 x 1 convolutions there, as linear layers in diffusers.
    return {
        key: value[..., 0, 0] if ".attn_1." in key and value.dim() == 4 else value for key, value in weights.items()
    }


def vocoder_weights(state: tp.Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the vocoder's weights of a checkpoint by HiFi-GAN's names, weight norm multiplied out."""
    return without_weight_norm(_under(state, "generator.", "first_stage_model.vocoder.", ""))


# diffusers' name -> the published one: every pattern is replaced where it occurs, in this order.
_VAE_NAMES = (
    (r"(down|up)_blocks\.(\d+)\.resnets", r"\1.\2.block"),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0", r"\1.\2.\3sample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


def _official_vae_key(key: str, levels: int) -> str:
    for pattern, replacement in _VAE_NAMES:
        key = re.sub(pattern, replacement, key)
    # The published decoder counts its levels from the last.
    return re.sub(r"(?<=decoder\.up\.)\d+", lambda level: str(levels - 1 - int(level[0])), key)


def _official_vocoder_key(key: str) -> str:
    return key.replace("upsampler.", "ups.")
