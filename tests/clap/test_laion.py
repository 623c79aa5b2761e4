"""Checkpoints of laion-clap, made here with its own audio network: transformers gives the same numbers."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from audiocraft_qamdt.clap.laion import load_laion_clap
from audiocraft_qamdt.clap.scorer import ClapScorer, _checkpoint_file

from ..helpers.clap import write_tokenizer
from ..helpers.payload import Payload

WIDTH = 64  # of the text network; the audio network has one size only


@pytest.fixture(scope="module")
def laion():
    """laion-clap's network without its package, whose import fetches tokenizers from the hub."""
    spec = PathFinder.find_spec("laion_clap")  # `compat` has put a lazy stand-in into sys.modules
    folder = str(Path(spec.submodule_search_locations[0]))
    sys.path.insert(0, folder)
    try:
        from clap_module.htsat import create_htsat_model
    finally:
        sys.path.remove(folder)
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=32,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=64,
        max_position_embeddings=80,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    sizes = {"window_size": 1024, "hop_size": 480, "sample_rate": 48000, "mel_bins": 64, "fmin": 50, "fmax": 14000}
    model = nn.ModuleDict(
        {
            "audio_branch": create_htsat_model(SimpleNamespace(model_name="tiny", class_num=527, **sizes)),
            "text_branch": RobertaModel(config),
            "audio_projection": nn.Sequential(nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 32)),
            "text_projection": nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, 32)),
        }
    )
    with torch.no_grad():
        model["audio_branch"].bn0.running_mean.fill_(-20)
        model["audio_branch"].bn0.running_var.fill_(400)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(laion, tmp_path_factory) -> Path:
    """As laion-clap's training saves it: the weights of a wrapped model, and numpy numbers beside them."""
    path = tmp_path_factory.mktemp("laion") / "checkpoint.pt"
    state = {f"module.{name}": tensor for name, tensor in laion.state_dict().items()}
    torch.save({"epoch": 15, "name": "test", "state_dict": state, "best": np.float64(0.9)}, path)
    return path


@pytest.fixture(scope="module")
def scorer(checkpoint, tmp_path_factory) -> ClapScorer:
    return ClapScorer(str(checkpoint), tokenizer=write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def test_audio_embeddings_are_laions_own(laion, scorer):
    audio = 0.3 * torch.randn(2, 480000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = laion["audio_branch"]({"waveform": audio, "longer": torch.zeros(2, dtype=torch.bool)}, device="cpu")
        expected = nn.functional.normalize(laion["audio_projection"](output["embedding"]), dim=-1)
    heard = torch.cat([scorer.embed_audio(clip, 48000) for clip in audio])
    assert torch.allclose(heard, expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_text_embeddings_are_laions_own(laion, scorer):
    tokens = scorer.processor.tokenizer(["slow piano", "drums"], padding=True, return_tensors="pt")
    with torch.no_grad():
        pooled = laion["text_branch"](tokens["input_ids"], tokens["attention_mask"]).pooler_output
        expected = nn.functional.normalize(laion["text_projection"](pooled), dim=-1)
    assert torch.allclose(scorer.embed_texts(["slow piano", "drums"]), expected, atol=1e-5)


@pytest.mark.parametrize(
    "content, message",
    [({"weight": torch.zeros(2)}, "not a checkpoint of laion-clap"), ({"a.mel_conv2d.b": torch.zeros(1)}, "fusion")],
    ids=["other", "fusion"],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=f"other.pt.*{message}"):
        load_laion_clap(tmp_path / "other.pt")


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="evil.pt: refused"):
        load_laion_clap(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_file_on_the_hub_is_named_by_owner_repository_and_file(checkpoint, hub_server):
    hub_server.models["owner/clap"] = {"music.pt": checkpoint.read_bytes()}
    found = _checkpoint_file("owner/clap/music.pt")
    assert found is not None
    assert found.read_bytes() == checkpoint.read_bytes()


def test_other_names_are_no_files_of_the_hub(checkpoint):
    assert _checkpoint_file(str(checkpoint)) == checkpoint
    assert _checkpoint_file("laion/larger_clap_music") is None
