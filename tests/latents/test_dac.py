"""DAC as a codec: equal to the package's numbers, left and right coded one by one, files read as data."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from audiocraft_qamdt import builders
from audiocraft_qamdt.latents.chunks import decode_long
from audiocraft_qamdt.latents.dac import DacCodec

from ..helpers.payload import Payload

GOLDEN = Path(__file__).parent.parent / "golden" / "descript_dac.safetensors"
"""A small model of descript-audio-codec 1.0.0 and what it makes of noise."""

NUMBERS = load_file(GOLDEN)
SIZE = 12
"""Latent channels of its three codebooks of four numbers."""


def content(**changed: object) -> dict:
    """Content of a file as the package writes it; `changed` arguments of the model differ."""
    with safe_open(GOLDEN, "pt") as file:
        kwargs = {**json.loads(file.metadata()["kwargs"]), **changed}
    weights = {key: value for key, value in NUMBERS.items() if key.partition(".")[0] not in ("in", "out")}
    return {"state_dict": weights, "metadata": {"kwargs": kwargs}}


def codec(**options: object) -> DacCodec:
    return DacCodec.from_descript(content(), "weights.pth", **options)


def get_codec(checkpoint: str | Path, channels: int = 1, **options: object) -> DacCodec:
    cfg = OmegaConf.create(
        {"channels": channels, "codec": "dac", "dac": {"checkpoint": str(checkpoint), "channels": channels, **options}}
    )
    return builders.get_codec(cfg)


def stereo(seed: int = 0, samples: int = 400) -> Tensor:
    return 0.3 * torch.randn(2, 2, samples, generator=torch.Generator().manual_seed(seed))


def test_latents_and_audio_are_those_of_the_package():
    model = codec()
    assert (model.sample_rate, model.hop_length, model.latent_channels, model.channels) == (44100, 8, SIZE, 1)
    latents = model.encode(NUMBERS["in.audio"])
    assert torch.allclose(latents[..., 0], NUMBERS["out.latents"], atol=1e-5)
    assert torch.allclose(model.decode(latents), NUMBERS["out.audio"], atol=1e-5)


def test_fewer_codebooks_are_the_first_ones():
    model = codec(codebooks=2)
    latents = model.encode(NUMBERS["in.audio"])
    assert torch.allclose(latents[..., 0], NUMBERS["out.latents"][:, :8], atol=1e-5)
    assert torch.allclose(model.decode(latents), NUMBERS["out.audio_2_codebooks"], atol=1e-5)


def test_without_the_quantiser_the_decoder_gets_the_latents_as_they_are():
    plain, rounding = codec(quantize=False), codec()
    latents = plain.encode(NUMBERS["in.audio"])
    with torch.no_grad():
        rounded = plain.model.quantizer.from_latents(latents[..., 0])[1][..., None]
    assert not torch.allclose(plain.decode(latents), rounding.decode(latents), atol=1e-3)
    assert torch.allclose(plain.decode(rounded), rounding.decode(latents), atol=1e-5)


def test_each_of_two_channels_is_coded_as_one_alone_left_first():
    both, one, audio = codec(channels=2), codec(), stereo()
    latents = both.encode(audio)
    assert latents.shape == (2, 2 * SIZE, 50, 1)
    decoded = both.decode(latents)
    for channel in range(2):
        alone = one.encode(audio[:, channel : channel + 1])
        assert torch.allclose(latents[:, channel * SIZE :][:, :SIZE], alone, atol=1e-5)
        assert torch.allclose(decoded[:, channel : channel + 1], one.decode(alone), atol=1e-5)


def test_what_changes_on_the_left_leaves_the_right_alone():
    model, audio = codec(channels=2), stereo()
    other = torch.stack([torch.zeros_like(audio[:, 0]), audio[:, 1]], dim=1)
    before, after = (model.decode(model.encode(each)) for each in (audio, other))
    assert torch.equal(before[:, 1], after[:, 1])
    assert not torch.allclose(before[:, 0], after[:, 0], atol=1e-2)


def test_a_batch_of_two_is_two_batches_of_one():
    model, audio = codec(channels=2), stereo()
    latents = model.encode(audio)
    for index in range(2):
        assert torch.allclose(latents[index], model.encode(audio[index : index + 1])[0], atol=1e-5)
        assert torch.allclose(model.decode(latents)[index], model.decode(latents[index : index + 1])[0], atol=1e-5)


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 123])
def test_lengths_are_exact(samples):
    model = codec(channels=2)
    latents = model.encode(stereo(samples=samples))
    assert latents.shape[2] == model.num_frames(samples)
    assert model.decode(latents, samples).shape == (2, 2, samples)


def test_statistics_give_unit_variance_and_the_same_audio():
    model, audio = codec(channels=2), stereo(samples=4000)
    plain = model.decode(model.encode(audio))
    model.estimate_statistics(iter([audio]))
    assert torch.allclose(model.encode(audio).std(dim=(0, 2)), torch.ones(2 * SIZE, 1), atol=1e-2)
    differs = (model.decode(model.encode(audio)) - plain).abs() > 1e-3
    assert differs.float().mean() < 0.01, "rounding takes another code at a tie at most"


def test_long_clips_are_decoded_in_chunks():
    model, audio = codec(channels=2, quantize=False), stereo(samples=4000)
    latents = model.encode(audio)
    assert torch.allclose(
        decode_long(model, latents, 3990, window=200, overlap=100), model.decode(latents, 3990), atol=1e-5
    )


def test_half_precision_is_computed_in_float32():
    model, audio = codec(channels=2), stereo()
    with torch.autocast("cpu", torch.bfloat16):
        latents = model.encode(audio.bfloat16())
    assert latents.dtype == torch.float32
    assert torch.equal(latents, model.encode(audio.bfloat16().float()))


def test_folders_of_transformers_are_loaded_by_name(tmp_path):
    codec().model.save_pretrained(tmp_path)
    assert torch.equal(get_codec(tmp_path, channels=2).probe, codec(channels=2).probe)


def test_hub_ids_are_loaded_by_name(hub_server, tmp_path):
    codec().model.save_pretrained(tmp_path)
    hub_server.models["owner/dac"] = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert torch.equal(get_codec("owner/dac").probe, codec().probe)


def test_the_package_s_files_are_loaded_by_name(tmp_path):
    torch.save(content(), tmp_path / "weights.pth")
    assert torch.equal(get_codec(tmp_path / "weights.pth", codebooks=2).probe, codec(codebooks=2).probe)


def test_audiocraft_s_name_is_the_file_that_the_package_fetches(tmp_path, monkeypatch):
    """The package's own function says where its file is; that it is there stands for the download."""
    torch.save(content(), tmp_path / "44khz.pth")
    utils = types.SimpleNamespace(download=lambda model_type: tmp_path / f"{model_type}.pth")
    monkeypatch.setitem(sys.modules, "dac", types.ModuleType("dac"))
    monkeypatch.setitem(sys.modules, "dac.utils", utils)
    assert torch.equal(get_codec("//pretrained/dac_44khz").probe, codec().probe)


def test_audiocraft_s_name_without_the_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dac", None)
    with pytest.raises(ValueError, match="pip install descript-audio-codec.*latents.dac.checkpoint=descript/dac_44khz"):
        get_codec("//pretrained/dac_44khz")


def test_a_pickle_payload_is_refused_and_not_run(tmp_path):
    torch.save({**content(), "extra": Payload(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth: refused, it holds more than tensors"):
        get_codec(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"decoder_rates": [2, 4]}, r"decoder_rates=\[2, 4\] and latent_dim=16 are not those"),
        ({"latent_dim": 32}, "latent_dim=32 are not those"),
        ({"n_codebooks": 4}, "weights.pth does not fit.*quantizers.3.codebook.weight is missing"),
        ({"codebook_size": 32}, r"quantizers.0.codebook.weight is \[16, 4\], not \[32, 4\]"),
    ],
    ids=["decoder", "latent", "codebooks", "entries"],
)
def test_arguments_that_do_not_fit_the_weights_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        DacCodec.from_descript(content(**changed), "weights.pth")


@pytest.mark.parametrize("missing", ["metadata", "state_dict"])
def test_a_file_of_another_kind_is_named(missing):
    with pytest.raises(ValueError, match=f"weights.pth is no file of the descript-audio-codec package: '{missing}'"):
        DacCodec.from_descript({key: value for key, value in content().items() if key != missing}, "weights.pth")


@pytest.mark.parametrize(
    "options, message",
    [({"codebooks": 4}, "codebooks=4: the model has 3"), ({"channels": 0}, "latents.dac.channels=0")],
    ids=["codebooks", "channels"],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        codec(**options)
