"""The published checkpoint's names: `PixArt_MDT_MOS_AS_TOKEN` of github.com/ivcylc/OpenMusic, to and from our model."""

from __future__ import annotations

import typing as tp
from collections.abc import Mapping

import torch
from torch import Tensor

from .mdt import MaskedDiffusionTransformer

CONFIG_KEYS = (
    "input_size",
    "patch_size",
    "overlap",
    "in_channels",
    "hidden_size",
    "depth",
    "num_heads",
    "mlp_ratio",
    "cond_dim",
    "mask_ratio",
    "decode_layer",
    "lewei_scale",
)


# What the published class has no argument for.
class _Published(tp.TypedDict):
    ffn: str
    positions: str
    quality: tuple[str, ...]
    num_levels: int
    unknown_level: bool
    side_prefix: bool


PUBLISHED: _Published = {
    "ffn": "gelu",
    "positions": "sincos",
    "quality": ("clip",),
    "num_levels": 5,
    "unknown_level": False,
    "side_prefix": True,
}

# How a published key begins, and how ours does; what follows is the same, and so are the keys that are not listed.
PREFIXES = {
    "mos_embed.": "quality_embed.clip.",
    "x_embedder.": "patch_embed.",
    "t_embedder.": "time_embed.",
    "t_block.": "modulation.",
    "y_embedder.": "context_embed.",
    "en_inblocks.": "in_blocks.",
    "en_outblocks.": "out_blocks.",
    "sideblocks.": "side_blocks.",
    "de_blocks.": "decoder_blocks.",
}


def build(config: Mapping[str, tp.Any]) -> MaskedDiffusionTransformer:
    """Make the published model with fresh weights.

    Args:
        config: the published constructor's arguments, exactly those in `CONFIG_KEYS`. With `mask_ratio` None the mask
            token is not trained, as published; its value is otherwise the trainer's business.
    Raises:
        ValueError: for missing or unknown keys, named in the message.
    """
    _check_names("config key", config, CONFIG_KEYS)
    half = (config["depth"] - config["decode_layer"]) // 2  # the published code rounds down
    frames, bins = config["input_size"]
    model = MaskedDiffusionTransformer(
        latent_channels=config["in_channels"],
        latent_frames=frames,
        latent_bins=bins,
        patch=tuple(config["patch_size"]),
        overlap=tuple(config["overlap"]),
        dim=config["hidden_size"],
        depth=2 * half + config["decode_layer"],
        decoder_depth=config["decode_layer"],
        num_heads=config["num_heads"],
        ffn_ratio=config["mlp_ratio"],
        context_dim=config["cond_dim"],
        position_scale=config["lewei_scale"],
        **PUBLISHED,
    )
    model.mask_token.requires_grad_(config["mask_ratio"] is not None)
    return model


def from_official(state_dict: Mapping[str, Tensor], config: Mapping[str, tp.Any]) -> MaskedDiffusionTransformer:
    """Make our model from a published state dict.

    Args:
        state_dict: the published keys, without prefix. The model's parameters share memory with these tensors.
        config: see `build`.
    Returns:
        A model in evaluation mode, called as `model(x, t, context=…, context_mask=…, quality=levels)`.
    Raises:
        ValueError: for missing, extra or misshapen keys, all of them named in the message.
    """
    with torch.device("meta"):
        model = build(config)
    expected = to_official(model)
    _check_names("state dict key", state_dict, expected)
    misshapen = [
        f"{key} is {list(state_dict[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if state_dict[key].shape != value.shape
    ]
    if misshapen:
        raise ValueError(f"misshapen state dict keys for this config: {'; '.join(misshapen)}")
    ours = {own_key(key): value.detach() for key, value in state_dict.items()}
    model.load_state_dict(ours, assign=True)
    return model.eval()


def to_official(model: MaskedDiffusionTransformer) -> dict[str, Tensor]:
    """Return the model's state dict under the published keys; the tensors share memory with the model's.

    Raises:
        ValueError: for a model with parts that the published class lacks, named in the message.
    """
    differing = {name: getattr(model, name) for name, value in PUBLISHED.items() if getattr(model, name) != value}
    if differing:
        raise ValueError(f"the published class cannot hold a model with {differing}; it needs {PUBLISHED}")
    published = {ours: theirs for theirs, ours in PREFIXES.items()}
    return {_rename(key, published): value for key, value in model.state_dict().items()}


def own_key(key: str) -> str:
    """Return our name of what is called `key` in a published state dict."""
    return _rename(key, PREFIXES)


def _rename(key: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _check_names(what: str, given: Mapping[str, object], expected: Mapping[str, object] | tuple[str, ...]) -> None:
    problems = []
    for kind, keys in (
        ("missing", [key for key in expected if key not in given]),
        ("unknown", [key for key in given if key not in expected]),
    ):
        if keys:
            plural = "s" if len(keys) > 1 else ""
            problems.append(f"{kind} {what}{plural}: {', '.join(keys)}")
    if problems:
        raise ValueError("; ".join(problems))
