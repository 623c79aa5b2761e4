"""Codecs of installed packages, found through their entry points."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from audiocraft_qamdt import builders

CODEC = """
import torch
from audiocraft_qamdt.latents.codec import LatentCodec

class Frames(LatentCodec):
    def __init__(self, hop=4):
        super().__init__(sample_rate=16000, hop_length=hop, latent_channels=hop, latent_bins=1)

    def _encode(self, audio):
        return audio.unflatten(-1, (-1, self.hop_length)).transpose(1, 3)[:, :, :, :1]

    def _decode(self, latents):
        return latents.squeeze(-1).transpose(1, 2).flatten(1).unsqueeze(1)

def build(options, device):
    return Frames(**options)

def wrong(options, device):
    return object()
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that announces codecs."""
    (tmp_path / "qamdt_frames.py").write_text(CODEC)
    metadata = tmp_path / "qamdt_frames-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: qamdt-frames\nVersion: 1.0\n")
    points = ["frames = qamdt_frames:build", "wrong = qamdt_frames:wrong", "missing = qamdt_frames:nothing"]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{builders.CODEC_ENTRY_POINTS}]", *points]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_an_installed_packages_codec_is_built_from_its_section(installed):
    codec = builders.get_codec(OmegaConf.create({"codec": "frames", "frames": {"hop": 8}}))
    audio = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    assert codec.latent_channels == 8
    assert torch.equal(codec.decode(codec.encode(audio)), audio)


def test_a_codec_without_a_section_is_built_with_its_defaults(installed):
    assert builders.get_codec(OmegaConf.create({"codec": "frames"})).latent_channels == 4


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere", "latents.codec='nowhere' is unknown: choose one of .*frames.*mdct"),
        ("missing", "latents.codec='missing' cannot be loaded from qamdt_frames:nothing"),
        ("wrong", "latents.codec='wrong' gave object: it must build a LatentCodec"),
    ],
    ids=["unknown", "not importable", "no codec"],
)
def test_what_is_no_codec_is_refused_by_name(installed, name, message):
    with pytest.raises(ValueError, match=message):
        builders.get_codec(OmegaConf.create({"codec": name}))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"device=.*{device}.*: .*choose auto"):
        builders.resolve_device(device)
