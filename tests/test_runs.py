"""Whole experiments through `dora run`, as a user starts them."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiocraft_qamdt.checkpoints import loading

from .helpers.audio_folder import make_folder
from .helpers.runs import TINY, dora, dora_command, experiment, history, log_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("audio"), tracks=8)


def argv(folder, *more):
    return [
        *TINY,
        f"folder={folder}",
        "optim.epochs=3",
        "optim.updates_per_epoch=12",
        "generate.every=3",
        "evaluate.every=3",
        *more,
    ]


def same_tensors(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    """One complete run: its outputs folder and its experiment's."""
    outputs = tmp_path_factory.mktemp("outputs")
    arguments = argv(folder, "optim.lr=3e-3")
    assert dora_command(outputs, *arguments).returncode == 0, log_of(outputs)[-3000:]
    return outputs, experiment(outputs, *arguments)


def test_four_stages_with_a_finite_falling_loss(uninterrupted):
    _, folder = uninterrupted
    epochs = history(folder)
    assert [set(epoch) for epoch in epochs] == [{"train", "valid"}] * 2 + [{"train", "valid", "evaluate", "generate"}]
    losses = [epoch["valid"]["loss"] for epoch in epochs]
    assert all(map(math.isfinite, losses))
    assert losses[0] > losses[1] > losses[2]


def test_generated_files_have_the_asked_duration_and_are_not_silent(uninterrupted):
    _, folder = uninterrupted
    files = sorted((folder / "samples" / "3").glob("*.wav"))
    assert len(files) == 2
    for file in files:
        audio, sample_rate = soundfile.read(file)
        assert sample_rate == 16000
        assert len(audio) == round(2.56 * 16000)
        assert np.sqrt(np.mean(audio**2)) > 1e-3
        described = json.loads(file.with_suffix(".json").read_text())
        assert described["generation_args"]["steps"] == 10
        assert "description" in described["conditioning"]


def test_killed_in_the_middle_of_an_epoch_and_resumed_is_the_same_run(folder, uninterrupted, tmp_path):
    _, reference = uninterrupted
    arguments = argv(folder, "optim.lr=3e-3")
    killed = dora(tmp_path, *arguments, "logging.log_updates=12", wait=False)
    deadline = time.time() + 300
    while "Train | Epoch 2 | 6/12" not in log_of(tmp_path):
        assert killed.poll() is None and time.time() < deadline, log_of(tmp_path)[-3000:]
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    resumed = experiment(tmp_path, *arguments)
    assert len(history(resumed)) == 1
    assert loading.load(resumed).model, "the checkpoint on disk is whole"
    assert dora(tmp_path, *arguments).returncode == 0, log_of(tmp_path)[-3000:]
    assert history(resumed) == history(reference)
    first, second = (torch.load(path / "checkpoint.th", weights_only=True) for path in (reference, resumed))
    assert same_tensors(first["model"], second["model"])
    assert same_tensors(first["ema"]["state"]["model"], second["ema"]["state"]["model"])
    assert same_tensors(first["best_state"]["model"], second["best_state"]["model"])


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(folder, uninterrupted, tmp_path):
    _, reference = uninterrupted
    curves = {}
    for label, seed in (("again", 2036), ("other", 1)):
        arguments = argv(folder, "optim.lr=3e-3", f"seed={seed}", f"label={label}")
        assert dora(tmp_path, *arguments).returncode == 0, log_of(tmp_path)[-3000:]
        curves[label] = history(experiment(tmp_path, *arguments))
    assert curves["again"] == history(reference)
    assert all(
        other["train"]["loss"] != same["train"]["loss"]
        for other, same in zip(curves["other"], curves["again"], strict=True)
    )


def test_stages_alone_on_a_signature(folder, uninterrupted):
    outputs, reference = uninterrupted
    for stage in ("evaluate", "generate", "valid"):
        arguments = argv(folder, f"execute_only={stage}", f"continue_from=//sig/{reference.name}", "optim.lr=1e-3")
        assert dora(outputs, *arguments).returncode == 0, log_of(outputs)[-3000:]
        assert set(history(experiment(outputs, *arguments))[-1]) == {stage}
    assert "execute_only=evaluate needs continue_from" not in log_of(outputs)


def test_fine_tuning_from_a_signature_starts_where_it_ended(folder, uninterrupted, tmp_path):
    outputs, reference = uninterrupted
    arguments = argv(
        folder, f"continue_from=//sig/{reference.name}", "optim.lr=1e-6", "optim.epochs=1", "optim.ema.use=false"
    )
    assert dora(outputs, *arguments).returncode == 0, log_of(outputs)[-3000:]
    best = min(epoch["valid"]["loss"] for epoch in history(reference))
    assert history(experiment(outputs, *arguments))[0]["valid"]["loss"] == pytest.approx(best, rel=1e-2)


def test_the_best_weights_are_those_of_the_best_evaluation(folder, tmp_path):
    """Of four evaluations that with the highest inception score; the history has the loss by timestep and level."""
    metrics = ["checkpoint.best_metric=inception", "evaluate.metrics.inception=[playground]", "evaluate.every=1"]
    more = ["optim.epochs=4", "optim.lr=3e-3", "generate.every=null", "generate.steps=4", "checkpoint.save_every=1"]
    arguments = argv(folder, *metrics, *more)
    assert dora(tmp_path, *arguments).returncode == 0, log_of(tmp_path)[-3000:]
    run = experiment(tmp_path, *arguments)
    numbers = [item for epoch in history(run) for item in epoch["evaluate"].items()]
    judged = [value for key, value in numbers if key.startswith("inception_")]
    last = torch.load(run / "checkpoint.th", weights_only=True)
    best = torch.load(run / f"checkpoint_{1 + judged.index(max(judged))}.th", weights_only=True)
    assert len(judged) == len(set(judged)) == 4
    assert same_tensors(last["best_state"]["model"], best["ema"]["state"]["model"])
    valid = history(run)[0]["valid"]
    quarters = [valid[f"loss_quarter{quarter}"] for quarter in (1, 2, 3, 4)]
    assert min(quarters) < valid["loss"] < max(quarters)
    assert any(key.startswith("loss_level") for key in valid)


def test_two_processes_draw_differently_and_stay_one_model(folder, tmp_path):
    arguments = argv(folder, "optim.epochs=1", "evaluate.every=null", "generate.every=null")
    assert dora_command(tmp_path, *arguments, ddp=2).returncode == 0, log_of(tmp_path)[-3000:]
    run = experiment(tmp_path, *arguments)
    assert math.isfinite(history(run)[0]["valid"]["loss"])
    hashes = [
        [line.split()[-1] for line in (run / f"solver.log.{rank}").read_text().splitlines() if "Model hash" in line]
        for rank in range(2)
    ]
    assert hashes[0][0] == hashes[1][0], "both ranks start from the same weights"


def test_show_and_tensorboard(folder, tmp_path):
    assert dora_command(tmp_path, *argv(folder, "show=true")).returncode == 0
    assert "frames per second" in log_of(tmp_path)
    assert "Size:" in log_of(tmp_path)
    arguments = argv(folder, "optim.epochs=1", "logging.log_tensorboard=true")
    assert dora(tmp_path, *arguments).returncode == 0, log_of(tmp_path)[-3000:]
    assert list(experiment(tmp_path, *arguments).rglob("events.out.tfevents.*"))


def test_published_recipe_without_weights_ends_with_one_message(folder, tmp_path):
    process = dora_command(
        tmp_path, "solver=qamdt", "dset=folder", f"folder={folder}", "device=cpu", "latents.mel_vae.checkpoint=/none"
    )
    assert process.returncode == 2
    log = log_of(tmp_path)
    assert "/none" in log
    assert "could not be loaded" in log
    assert "solver=qamdt/playground" in log
    assert "Traceback" not in log


def test_audiocrafts_own_solvers_run_from_here(folder, tmp_path, tmp_path_factory):
    """A codec trained with AudioCraft's solver, a language model on it, and our solver on its latents."""
    if not Path(os.environ["AUDIOCRAFT_CONFIG_ROOT"], "config.yaml").exists():
        pytest.skip("AudioCraft's config folder is not here: `make install` keeps it")
    data = [f"datasource.{split}={folder}" for split in ("train", "valid", "evaluate", "generate")]
    small = [
        "optim.updates_per_epoch=2",
        "dataset.batch_size=2",
        "dataset.num_workers=0",
        "dataset.valid.num_samples=2",
        "dataset.evaluate.num_samples=2",
        "dataset.generate.num_samples=2",
        "logging.log_tensorboard=false",
    ]
    codec = [
        "solver=compression/debug",
        *data,
        *small,
        "optim.epochs=1",
        "dataset.segment_duration=1",
        "seanet.n_filters=4",
        "seanet.dimension=8",
        "rvq.n_q=4",
        "rvq.bins=16",
        "rvq.kmeans_init=false",
        "evaluate.every=null",
    ]
    assert dora(tmp_path, *codec).returncode == 0, log_of(tmp_path)[-3000:]
    sig = experiment(tmp_path, *codec).name
    language_model = [
        "solver=musicgen/debug",
        *data,
        *small,
        "optim.epochs=1",
        f"compression_model_checkpoint=//sig/{sig}",
        "transformer_lm.card=16",
        "transformer_lm.n_q=4",
        "sample_rate=16000",
        "dataset.segment_duration=1",
        "conditioners.description.model=lut",
        "+conditioners.description.lut={n_bins: 16, dim: 8, tokenizer: noop}",
        "dataset.info_fields_required=false",
        "generate.lm.prompted_samples=false",
        "generate.lm.gen_duration=0.5",
    ]
    language_model[-3] = "+" + language_model[-3]
    assert dora(tmp_path, *language_model).returncode == 0, log_of(tmp_path)[-3000:]
    ours = argv(
        folder, "optim.epochs=1", "latents.codec=encodec", f"latents.encodec.checkpoint=//sig/{sig}", "mdt.patch=[4,1]"
    )
    assert dora(tmp_path, *ours).returncode == 0, log_of(tmp_path)[-3000:]
    assert math.isfinite(history(experiment(tmp_path, *ours))[0]["valid"]["loss"])
