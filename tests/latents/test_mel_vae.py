from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiocraft_qamdt.latents.mel_vae import (
    PUBLISHED_VAE,
    PUBLISHED_VOCODER,
    LogMel,
    MelVAECodec,
    build_vae,
    build_vocoder,
    mel_filters,
    normalize_waveform,
)
from audiocraft_qamdt.latents.mel_vae_weights import read_checkpoint

from ..helpers.payload import Payload

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"audioldm_{name}.safetensors")


def golden_config(name: str, key: str) -> dict:
    with safe_open(GOLDEN / f"audioldm_{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()[key])


VAE_CONFIG, VOCODER_CONFIG = golden_config("vae", "ddconfig"), golden_config("hifigan", "config")


def vae_weights() -> dict[str, Tensor]:
    return {key: value for key, value in golden("vae").items() if key.startswith("first_stage_model.")}


def vocoder_weights() -> dict[str, Tensor]:
    return {key: value for key, value in golden("hifigan").items() if key.startswith("generator.")}


def nested(weights: dict[str, Tensor], prefix: str, new: str = "") -> dict[str, Tensor]:
    return {new + key.removeprefix(prefix): value for key, value in weights.items()}


def official(folder: Path, vae: dict | None = None, vocoder: dict | None = None, **options) -> MelVAECodec:
    """Write the two files as published (a Lightning .ckpt, a .ckpt under `generator`) and load them."""
    vae_file, vocoder_file = folder / "vae.ckpt", folder / "hifigan.ckpt"
    torch.save(vae or {"epoch": 3, "state_dict": vae_weights(), "optimizer_states": [{}]}, vae_file)
    torch.save(vocoder or {"generator": nested(vocoder_weights(), "generator.")}, vocoder_file)
    return MelVAECodec.from_official(vae_file, vocoder_file, VAE_CONFIG, VOCODER_CONFIG, **options)


def check_golden(codec: MelVAECodec) -> None:
    vae, vocoder = golden("vae"), golden("hifigan")
    with torch.no_grad():
        posterior = codec.vae.encode(vae["in.log_mel"]).latent_dist
        assert torch.allclose(posterior.parameters, vae["out.moments"], atol=1e-4)
        reconstruction = codec.vae.decode(posterior.mean).sample
        assert torch.allclose(reconstruction, vae["out.reconstruction"], atol=1e-4)
        waveform = codec.vocoder(vocoder["in.log_mel"].transpose(1, 2))[:, None]
        assert waveform.shape == vocoder["out.waveform"].shape
        assert torch.allclose(waveform, vocoder["out.waveform"], atol=1e-5)


def test_golden_log_mel():
    numbers = golden("log_mel")
    normalized = normalize_waveform(numbers["in.raw"])
    assert torch.allclose(normalized, numbers["in.normalized"], atol=1e-6)
    assert torch.allclose(LogMel()(normalized[None])[0], numbers["out.log_mel"], atol=1e-4)


def test_golden_networks_from_published_files(tmp_path):
    check_golden(official(tmp_path))


def test_golden_networks_from_safetensors(tmp_path):
    save_file(vae_weights(), tmp_path / "vae.safetensors")
    save_file(vocoder_weights(), tmp_path / "vocoder.safetensors")
    check_golden(
        MelVAECodec.from_official(
            tmp_path / "vae.safetensors", tmp_path / "vocoder.safetensors", VAE_CONFIG, VOCODER_CONFIG
        )
    )


def test_golden_networks_from_one_full_checkpoint(tmp_path):
    """There the vocoder is inside the VAE's module, without weight norm, beside networks that are not used here."""
    codec = official(tmp_path)
    vocoder = {key.replace("upsampler", "ups"): value for key, value in codec.vocoder.named_parameters()}
    state = {
        **vae_weights(),
        **nested(vocoder, "", "first_stage_model.vocoder."),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "model.diffusion_model.x": torch.zeros(3),
        "scale_factor": torch.tensor(0.5),
    }
    torch.save({"state_dict": state}, tmp_path / "full.ckpt")
    full = MelVAECodec.from_official(tmp_path / "full.ckpt", tmp_path / "full.ckpt", VAE_CONFIG, VOCODER_CONFIG)
    check_golden(full)
    assert full.statistics.std.eq(2).all()
    assert full.statistics.count > 0


def test_keys_without_prefix_or_from_torch_compile(tmp_path):
    check_golden(
        official(
            tmp_path,
            vae={"state_dict": nested(vae_weights(), "first_stage_model.")},
            vocoder={"generator": nested(vocoder_weights(), "generator.", "_orig_mod.")},
        )
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda vae: vae.pop("first_stage_model.decoder.up.2.block.0.conv1.bias"),
            "decoder.up.2.block.0.conv1.bias is missing",
        ),
        (lambda vae: vae.update({"first_stage_model.encoder.surprise": torch.zeros(1)}), "encoder.surprise is unknown"),
        (
            lambda vae: vae.update({"first_stage_model.quant_conv.bias": torch.zeros(3)}),
            r"quant_conv.bias is \[3\], not \[16\]",
        ),
        (
            lambda vae: vae["first_stage_model.encoder.mid.attn_1.q.weight"].fill_(torch.nan),
            "encoder.mid.attn_1.q.weight is not finite",
        ),
    ],
    ids=["missing", "unknown", "misshapen", "nan"],
)
def test_a_wrong_vae_key_is_named(tmp_path, change, message):
    weights = vae_weights()
    change(weights)
    with pytest.raises(ValueError, match=rf"vae.ckpt.*{message}"):
        official(tmp_path, vae={"state_dict": weights})


@pytest.mark.parametrize(
    "key, message",
    [
        ("ups.1.weight_g", "ups.1.weight is missing; ups.1.weight_v is unknown"),
        ("ups.1.weight_v", "ups.1.weight is missing; ups.1.weight_g is unknown"),
        ("resblocks.14.convs2.2.bias", "resblocks.14.convs2.2.bias is missing"),
    ],
)
def test_a_wrong_vocoder_key_is_named(tmp_path, key, message):
    weights = nested(vocoder_weights(), "generator.")
    del weights[key]
    with pytest.raises(ValueError, match=rf"hifigan.ckpt.*{message}"):
        official(tmp_path, vocoder={"generator": weights})


def test_a_pickle_payload_is_refused_and_not_run(tmp_path):
    with pytest.raises(ValueError, match=r"vae.ckpt was not loaded: it holds \w+\.mkdir"):
        official(tmp_path, vae={"state_dict": vae_weights(), "callbacks": Payload(tmp_path / "ran")})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_truncated_checkpoint_is_named(tmp_path, suffix):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(vae_weights(), whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut.{suffix} was not loaded: it is damaged"):
        read_checkpoint(cut)
    with pytest.raises(FileNotFoundError, match="absent.ckpt"):
        read_checkpoint(tmp_path / "absent.ckpt")


def test_from_audioldm_loads_what_was_saved(tmp_path):
    codec = official(tmp_path, scale_factor=0.8)
    codec.vae.register_to_config(scaling_factor=0.8)
    codec.vae.save_pretrained(tmp_path / "pipeline" / "vae")
    codec.vocoder.save_pretrained(tmp_path / "pipeline" / "vocoder")
    loaded = MelVAECodec.from_audioldm(tmp_path / "pipeline")
    check_golden(loaded)
    audio = golden("log_mel")["in.raw"][None, None, :5000]
    assert torch.equal(loaded.encode(audio), codec.encode(audio))
    os.remove(tmp_path / "pipeline" / "vocoder" / "config.json")
    with pytest.raises(FileNotFoundError, match="vocoder.config.json.*AudioLDM"):
        MelVAECodec.from_audioldm(tmp_path / "pipeline")


def test_encode_and_decode_are_the_published_chain(tmp_path):
    codec, audio = official(tmp_path, scale_factor=0.5), golden("log_mel")["in.normalized"][None, None]
    mel = LogMel(mel_bins=16)(audio[:, 0])[:, None]
    with torch.no_grad():
        mean = codec.vae.encode(mel).latent_dist.mean
        waveform = codec.vocoder(codec.vae.decode(mean).sample[:, 0])
    latents = codec.encode(audio)
    assert torch.allclose(latents, 0.5 * mean, atol=1e-6)
    decoded = codec.decode(latents)
    assert decoded.shape == audio.shape
    assert torch.allclose(decoded[:, 0], waveform[:, : audio.shape[-1]], atol=1e-6)


def test_posterior_is_sampled_with_the_noise_given(tmp_path):
    codec, audio = official(tmp_path, scale_factor=0.5), golden("log_mel")["in.normalized"][None, None]
    mean = codec.encode(audio)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        std = codec.vae.encode(LogMel(mel_bins=16)(audio[:, 0])[:, None]).latent_dist.std
    assert torch.allclose(codec.encode(audio, noise=0 * noise), mean)
    assert torch.allclose(codec.encode(audio, noise=noise), mean + 0.5 * std * noise, atol=1e-5)
    with pytest.raises(ValueError, match="noise must be"):
        codec.encode(audio, noise=noise[..., 1:])


def test_published_normalisation_is_an_option(tmp_path):
    audio, normalized = (golden("log_mel")[name][None, None] for name in ("in.raw", "in.normalized"))
    keeps, normalizes = official(tmp_path), official(tmp_path, normalize=True)
    assert torch.allclose(normalizes.encode(audio), keeps.encode(normalized), atol=1e-4)
    assert torch.allclose(normalizes.encode(0.1 * audio + 0.2), normalizes.encode(audio), atol=1e-3)
    assert not torch.allclose(keeps.encode(0.1 * audio), keeps.encode(audio), atol=1e-1)
    assert normalizes.encode(torch.zeros(1, 1, 1000)).isfinite().all()


def test_normalisation_treats_each_item_by_itself():
    audio = torch.stack([torch.tensor([0.0, 1.0, 2.0]), torch.tensor([-30.0, 0.0, 30.0])])
    assert torch.allclose(normalize_waveform(audio), torch.tensor([-0.5, 0.0, 0.5]).expand(2, 3))


def test_published_sizes():
    with torch.device("meta"):
        vae, vocoder = build_vae(PUBLISHED_VAE), build_vocoder(PUBLISHED_VOCODER)
    codec = MelVAECodec(vae, vocoder)
    assert (codec.sample_rate, codec.frame_rate) == (16000, 25)
    assert (codec.latent_channels, codec.num_frames(163840), codec.latent_bins) == (8, 256, 16)
    assert codec.statistics.count == 0


def test_mel_filters_have_unit_area_and_ascend():
    filters = mel_filters(16000, 8192, 32)
    assert torch.allclose(filters.sum(dim=1) * 16000 / 8192, torch.ones(32), atol=0.02)
    assert (filters.argmax(dim=1).diff() > 0).all()


def test_networks_that_do_not_fit_are_refused(tmp_path):
    vae, vocoder = build_vae(VAE_CONFIG), build_vocoder({**VOCODER_CONFIG, "num_mels": 18})
    with pytest.raises(ValueError, match="18 mel bins must be a multiple of its downsampling, 4"):
        MelVAECodec(vae, vocoder)
    with pytest.raises(ValueError, match="attn_resolutions"):
        build_vae({**VAE_CONFIG, "attn_resolutions": [16]})
    with pytest.raises(ValueError, match="resblock '2'"):
        build_vocoder({**VOCODER_CONFIG, "resblock": "2"})
    with pytest.raises(ValueError, match="more than 432 samples, not 432"):
        LogMel()(torch.zeros(1, 432))
