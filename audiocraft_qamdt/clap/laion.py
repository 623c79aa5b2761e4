"""Checkpoints of the laion-clap package as transformers' `ClapModel`: read as tensors, nothing in them is run.

laion-clap itself unpickles whatever the file holds and fetches three text encoders from the hub while it is imported.
"""

from __future__ import annotations

import re
import typing as tp
from pathlib import Path

import torch
from torch import Tensor

from ..compat import read_clap_checkpoint
from ..utils.reading import JsonObject

if tp.TYPE_CHECKING:
    from transformers import ClapConfig, ClapModel, ClapProcessor

# laion-clap's `amodel`, which the checkpoint does not name: the width of its first layer tells.
ARCHITECTURES: dict[str, JsonObject] = {
    "HTSAT-tiny": {"patch_embeds_hidden_size": 96, "depths": [2, 2, 6, 2], "num_attention_heads": [4, 8, 16, 32]},
    "HTSAT-base": {"patch_embeds_hidden_size": 128, "depths": [2, 2, 12, 2], "num_attention_heads": [4, 8, 16, 32]},
    "HTSAT-large": {"patch_embeds_hidden_size": 256, "depths": [2, 2, 12, 2], "num_attention_heads": [4, 8, 16, 32]},
}

# laion-clap's name → transformers', in this order.
RENAMES = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^(audio|text)_projection\.0\.", r"\1_projection.linear1."),
    (r"^(audio|text)_projection\.2\.", r"\1_projection.linear2."),
)
QKV = ("query", "key", "value")  # one tensor in laion-clap
WINDOW_SECONDS = 10
DISPENSABLE = ("position_ids", "token_type_ids", "relative_position_index", "logit_scale_a", "logit_scale_t")
FUSION = "mel_conv2d"  # in the names of layers that only the checkpoints for long audio have


def load_laion_clap(path: str | Path, tokenizer: str = "roberta-base") -> tuple[ClapModel, ClapProcessor]:
    """Load a checkpoint of laion-clap (HTSAT and RoBERTa, without fusion).

    Args:
        path: the file, e.g. `music_audioset_epoch_15_esc_90.14.pt`.
        tokenizer: hub id or local folder of RoBERTa's tokenizer, which the checkpoint does not hold.
    Returns:
        A `ClapModel` and its `ClapProcessor`.
    Raises:
        ValueError: naming the file, when it is not such a checkpoint.
    """
    from transformers import ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizer

    weights = read_laion_clap(path)
    model = ClapModel(_config(weights, path))
    own = model.state_dict()
    missing = {name for name in own if name not in weights and not name.endswith(DISPENSABLE)}
    if missing:
        raise ValueError(f"{path} is not a checkpoint of laion-clap: it lacks {min(missing)}")
    model.load_state_dict(own | {name: weights[name] for name in own if name in weights})
    extractor = ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, max_length_s=WINDOW_SECONDS)
    return model.eval(), ClapProcessor(extractor, RobertaTokenizer.from_pretrained(tokenizer))


def read_laion_clap(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors under transformers' names, those that only laion-clap's training needs included."""
    state = read_clap_checkpoint(path)
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            parts = tensor.chunk(3)
            weights |= {name.replace("qkv", part): part_of for part, part_of in zip(QKV, parts, strict=True)}
        else:
            weights[name] = tensor
    return weights


def laion_design(path: str | Path) -> tuple[str, bool]:
    """Return a checkpoint's audio encoder, a key of `ARCHITECTURES`, and whether it is one for fusion.

    Raises:
        ValueError: naming the file, when it is not such a checkpoint.
    """
    weights = read_laion_clap(path)
    return _architecture(weights, path), _fused(weights)


def _fused(weights: dict[str, Tensor]) -> bool:
    return any(FUSION in name for name in weights)


def _architecture(weights: dict[str, Tensor], path: str | Path) -> str:
    width = len(weights.get("audio_model.audio_encoder.patch_embed.proj.weight", torch.zeros(0)))
    for name, architecture in ARCHITECTURES.items():
        if architecture["patch_embeds_hidden_size"] == width:
            return name
    raise ValueError(f"{path} is not a checkpoint of laion-clap with one of {', '.join(ARCHITECTURES)}")


def _config(weights: dict[str, Tensor], path: str | Path) -> ClapConfig:
    from transformers import ClapConfig

    if _fused(weights):
        raise ValueError(f"{path} is a checkpoint for fusion, which is not supported: use one without")
    architecture = ARCHITECTURES[_architecture(weights, path)]
    return ClapConfig(
        audio_config={**architecture, "hidden_size": 8 * architecture["patch_embeds_hidden_size"]},
        text_config=_text_config(weights),
        projection_dim=len(weights["audio_projection.linear2.weight"]),
    )


def _text_config(weights: dict[str, Tensor]) -> JsonObject:
    words, width = weights["text_model.embeddings.word_embeddings.weight"].shape
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[3] for name in weights if "text_model.encoder.layer." in name}),
        "num_attention_heads": width // 64,
        "intermediate_size": len(weights["text_model.encoder.layer.0.intermediate.dense.weight"]),
        "max_position_embeddings": len(weights["text_model.embeddings.position_embeddings.weight"]),
        "layer_norm_eps": 1e-5,  # RoBERTa's
    }
