"""The learned codec through AudioCraft's compression solver, and QA-MDT on its signature, as a user starts them."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from omegaconf import OmegaConf

from audiocraft_qamdt import builders

from ..helpers.audio_folder import make_folder
from ..helpers.runs import TINY, dora, experiment, history, log_of

pytestmark = pytest.mark.slow

CODEC = [
    "solver=compression/qamdt_spectral",
    "dset=folder",
    "spectral_vae.width=16",
    "spectral_vae.latent_channels=8",
    "spectral_vae.encoder_blocks=[1,1]",
    "spectral_vae.decoder_blocks=[1,1]",
    "dataset.batch_size=2",
    "dataset.valid.num_samples=2",
    "optim.epochs=4",
    "optim.updates_per_epoch=6",
    "logging.log_updates=100",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("audio"), tracks=8)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Outputs folder, arguments and experiment's folder of a codec trained for a few updates."""
    outputs, arguments = tmp_path_factory.mktemp("outputs"), [*CODEC, f"folder={folder}"]
    assert dora(outputs, *arguments).returncode == 0, log_of(outputs)[-3000:]
    return outputs, arguments, experiment(outputs, *arguments)


def numbers(folder) -> list[dict]:
    return [epoch["train"] for epoch in history(folder)]


def test_the_loss_falls(trained):
    losses = [epoch["amplitude_loss"] for epoch in numbers(trained[2])]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_a_killed_training_resumes_to_the_same_history(trained, folder, tmp_path):
    arguments = trained[1]
    process = dora(tmp_path, *arguments, wait=False)
    checkpoint = experiment(tmp_path, *arguments) / "checkpoint.th"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert dora(tmp_path, *arguments).returncode == 0, log_of(tmp_path)[-3000:]
    assert numbers(experiment(tmp_path, *arguments)) == numbers(trained[2])


def test_the_four_stages_run_on_the_codecs_checkpoint(trained, folder, tmp_path):
    arguments = [
        *TINY,
        f"folder={folder}",
        "latents.codec=spectral_vae",
        f"latents.spectral_vae.checkpoint={trained[2] / 'checkpoint.th'}",
        "mdt.patch=[2,1]",
        "optim.epochs=1",
        "optim.updates_per_epoch=2",
        "generate.every=1",
        "evaluate.every=1",
    ]
    assert dora(tmp_path, *arguments).returncode == 0, log_of(tmp_path)[-3000:]
    assert set(history(experiment(tmp_path, *arguments))[0]) == {"train", "valid", "evaluate", "generate"}


def test_audiocraft_finds_the_codec(trained):
    from audiocraft_qamdt.register import register

    from audiocraft.models.encodec import CompressionModel

    register()
    model = CompressionModel.get_pretrained(f"spectral_vae:{trained[2] / 'checkpoint.th'}")
    audio = 0.1 * torch.randn(1, 1, 5000, generator=torch.Generator().manual_seed(0))
    assert model.decode(model.encode(audio)[0])[..., :5000].shape == audio.shape


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    torch.save({"best_state": {}}, tmp_path / "other.th")
    section = {"codec": "spectral_vae", "spectral_vae": {"checkpoint": str(tmp_path / "other.th")}}
    with pytest.raises(ValueError, match=r"other.th is no codec of this kind"):
        builders.get_codec(OmegaConf.create(section))


def test_another_sample_rate_is_refused():
    cfg = OmegaConf.create({"sample_rate": 44100, "channels": 1, "latents": {"codec": "spectral_vae"}})
    sizes = {"width": 16, "kl_weight": 0.0, "amplitude_weight": 1.0, "audio_gradient": False, "autocast": False}
    model = builders.get_trainable_codec(OmegaConf.create({"sample_rate": 16000, "spectral_vae": sizes}))
    with pytest.raises(ValueError, match="sample_rate=44100"):
        builders.check_codec(cfg, model.codec)
