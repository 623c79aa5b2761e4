"""A CLAP model of a small size, in the format that `from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path

import torch


def write_tokenizer(folder: Path) -> str:
    """RoBERTa's tokenizer with the letters as its vocabulary."""
    from transformers import RobertaTokenizer

    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *"abcdefghijklmnopqrstuvwxyz"]  # U+0120 is a space
    RobertaTokenizer(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]).save_pretrained(folder)
    return str(folder)


def write_clap(folder: Path) -> str:
    """A random `ClapModel` with windows of 2 s, and its processor."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizer

    text = RobertaTokenizer.from_pretrained(write_tokenizer(folder))
    ClapProcessor(ClapFeatureExtractor(max_length_s=2), text).save_pretrained(folder)
    torch.manual_seed(0)
    config = ClapConfig(
        text_config={
            "vocab_size": 32,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 80,
            "pad_token_id": 1,
        },
        audio_config={
            "patch_embeds_hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "hidden_size": 32,
            "window_size": 8,
            "spec_size": 256,
        },
        projection_dim=8,
    )
    model = ClapModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # as initialised, all texts are nearly the same to it
    model.save_pretrained(folder)
    return str(folder)
