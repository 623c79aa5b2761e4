"""The authors' files, small: their names in repositories of the hub, and a checkpoint of the published layout."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor

from audiocraft_qamdt.checkpoints.official import CODEC, EMA, NETWORK
from audiocraft_qamdt.latents.mel_vae import (
    PUBLISHED_VAE,
    PUBLISHED_VOCODER,
    build_vae,
    build_vocoder,
)
from audiocraft_qamdt.latents.mel_vae_weights import _official_vae_key, _official_vocoder_key
from audiocraft_qamdt.models.official import build, to_official

CHECKPOINT = "checkpoint_389999.ckpt"

AUTHORS = {".gitattributes": b"", "README.md": b"", CHECKPOINT: b"weights"}
"""lichang0928/QA-MDT."""

COPY = {
    ".gitattributes": b"",
    "README.md": b"",
    "audioldm_train/config/mos_as_token/qa_mdt.yaml": b"",
    "audioldm_train/modules/diffusionmodules/PixArt.py": b"",
    CHECKPOINT: b"weights",
    "checkpoints/clap_music/music_speech_audioset_epoch_15_esc_89.98.pt": b"clap",
    "checkpoints/flant5/config.json": b"{}",
    "checkpoints/flant5/pytorch_model.bin": b"t5",
    "checkpoints/flant5/tokenizer_config.json": b"",
    "checkpoints/hifi-gan/checkpoints.tar": b"tar",
    "checkpoints/hifi-gan/checkpoints/hifigan_16k_64bins.ckpt": b"vocoder",
    "checkpoints/robertabase/untitled": b"",
    "infer/infer_mos5.py": b"",
    "model_index.json": b'{"_class_name": "QAMDTModel", "_diffusers_version": "0.10.2"}',
    "offset_pretrained_checkpoints.json": b"{}",
    "pipeline.py": b"raise SystemExit",
    "qamdt.yml": b"",
}
"""jadechoghari/openmusic: a pipeline of diffusers by its model_index.json, with the authors' code and checkpoint."""

SMALL: dict[str, tp.Any] = {
    "input_size": [64, 16],
    "patch_size": [4, 4],
    "overlap": [0, 0],
    "in_channels": 8,
    "hidden_size": 32,
    "depth": 6,
    "num_heads": 16,
    "mlp_ratio": 2.0,
    "cond_dim": 16,
    "mask_ratio": 0.3,
    "decode_layer": 2,
    "lewei_scale": 1.0,
}


def state_of(config: dict[str, tp.Any]) -> dict[str, Tensor]:
    """State of the published training module: network, its average (half of it), and the scale of the latents."""
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network = {key: value.detach().clone() for key, value in to_official(model).items()}
    averaged = {
        EMA + f"diffusion_model.{key}".replace(".", ""): value * 0.5
        for key, value in network.items()
        if key != "pos_embed"
    }
    return {
        **{NETWORK + key: value for key, value in network.items()},
        **averaged,
        EMA + "decay": torch.tensor(0.9999),
        "scale_factor": torch.tensor(0.5),
    }


def codec_state() -> dict[str, Tensor]:
    """State of the first stage as the training module holds it: VAE, vocoder and discriminator, of a small width."""
    torch.manual_seed(0)
    vae = build_vae({**PUBLISHED_VAE, "ch": 32})
    vocoder = build_vocoder({**PUBLISHED_VOCODER, "upsample_initial_channel": 32})
    state = {_official_vae_key(key, 3): value for key, value in vae.named_parameters()}
    state |= {f"vocoder.{_official_vocoder_key(key)}": value for key, value in vocoder.named_parameters()}
    state["loss.logvar"] = torch.zeros(())
    return {CODEC + key: value.detach().clone() for key, value in state.items()}
