"""p-MOS of the paper's kind: wav2vec 2.0 fine-tuned on vinyl records (Ragano et al. 2023), in its authors' files."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ...checkpoints.store import load_safely
from ...utils.reading import JsonObject
from .base import digest

SOURCE = "https://github.com/alessandroragano/music-archive-quality-prediction"
HEAD_DIM = 64
"""Width of an attention head, in wav2vec 2.0 of any size."""

ENCODER, HEAD = "ssl_model.", "output_layer_arch1."
UNUSED = re.compile(r"fc[12]\.|output_layer_(arch2|class)\.|ssl_model\.(quantizer|project_q|final_proj|target_glu)")
"""Keys of the released class that its prediction does not use."""

RENAMED = (
    (r"conv_layers\.(\d+)\.0\.", r"conv_layers.\1.conv."),
    (r"conv_layers\.0\.2\.", "conv_layers.0.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^mask_emb$", "masked_spec_embed"),
    (r"pos_conv\.0\.bias", "pos_conv_embed.conv.bias"),
    (r"pos_conv\.0\.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"pos_conv\.0\.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
"""Patterns of fairseq's names, and transformers' in place of them."""


class Qama:
    """Mean of a fairseq wav2vec 2.0's last states over time, and a linear layer: one score, 1 to 5.

    Args:
        which: a released file, such as qama_full.pt.
        device: where it computes.
    Raises:
        ValueError: no file is named, or it is damaged, holds code, or has another layout.
        FileNotFoundError: the file is missing.
    """

    sample_rate = 16000
    window = 10.0  # seconds: what it was evaluated with
    hop = 5.0

    def __init__(self, which: str = "", device: str = "cpu") -> None:
        if not which:
            raise ValueError(f"qama needs a file: qama/qama_full.pt. predict.py of {SOURCE} downloads it")
        path = Path(which)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file; predict.py of {SOURCE} downloads qama_full.pt")
        self.encoder, self.head = _network(load_safely(path), path)
        self.encoder.to(device).eval()
        self.head.to(device)
        self.device = device
        self.name, self.version = f"qama/{path.stem}", digest(path)

    @torch.no_grad()
    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return p-MOS [B] of mono windows [B, S], which are taken as loud as they are."""
        states = self.encoder(audio.to(self.device).float()).last_hidden_state  # [B, T, D]
        return self.head(states.mean(dim=1))[:, 0].clamp(1, 5)


def _network(state: dict[str, Tensor], path: Path) -> tuple[nn.Module, nn.Linear]:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    used = {key: value for key, value in state.items() if not UNUSED.match(key)}
    encoder = {_renamed(key): value for key, value in used.items() if key.startswith(ENCODER)}
    try:
        model = Wav2Vec2Model(Wav2Vec2Config(**_config(encoder)))
        head = nn.Linear(model.config.hidden_size, 1)
        _load(model, encoder)
        _load(head, {key.removeprefix(HEAD): value for key, value in used.items() if not key.startswith(ENCODER)})
    except (KeyError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: not a file of {SOURCE}: {' '.join(str(error).split())}") from error
    return model, head


def _load(module: nn.Module, state: dict[str, Tensor]) -> None:
    if "masked_spec_embed" in module.state_dict():  # of pre-training alone; released files need not have it
        state = {"masked_spec_embed": module.state_dict()["masked_spec_embed"], **state}
    module.load_state_dict(state)


def _renamed(key: str) -> str:
    key = key.removeprefix(ENCODER)
    for pattern, name in RENAMED:
        key = re.sub(pattern, name, key)
    return key


def _config(encoder: dict[str, Tensor]) -> JsonObject:
    """Read the network's sizes off its weights: wav2vec 2.0 base, or any of its layout."""
    layers = {int(match[1]) for key in encoder if (match := re.match(r"encoder\.layers\.(\d+)\.", key))}
    convolutions = [
        encoder[key] for key in sorted(encoder, key=_number) if re.search(r"conv_layers\.\d+\.conv\.weight", key)
    ]
    positions = encoder["encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
    dim = encoder["encoder.layer_norm.weight"].shape[0]
    return {
        "hidden_size": dim,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, dim // HEAD_DIM),
        "intermediate_size": encoder["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        "conv_dim": [weight.shape[0] for weight in convolutions],
        "conv_kernel": [weight.shape[2] for weight in convolutions],
        "conv_stride": [5] + [2] * (len(convolutions) - 1),  # which no weight shows; the same in all sizes
        "num_conv_pos_embeddings": positions.shape[2],
        "num_conv_pos_embedding_groups": dim // positions.shape[1],
    }


def _number(key: str) -> int:
    return int((re.search(r"\d+", key) or ["0"])[0])
