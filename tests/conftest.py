"""Shared set-up: one thread per test process, and everything that a test writes under its own folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from audiocraft_qamdt.compat import prepare

GOLDEN = Path(__file__).resolve().parent / "golden"

torch.set_num_threads(1)
os.environ.setdefault("AUDIOCRAFT_DORA_DIR", "/nonexistent-dora-dir")  # a test that runs Dora names its own
os.environ["HF_HUB_OFFLINE"] = "1"
prepare()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1234)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory) -> str:
    """A T5 of width 16 and its tokenizer, made here and saved as `from_pretrained` expects them."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁warm", "▁piano", "▁high", "▁quality", ",", "a", "o"]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(index)) for index, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.save_pretrained(folder)
    config = T5Config(vocab_size=len(pieces), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder)
    return str(folder)
