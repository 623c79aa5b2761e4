"""Full-band stereo from the data to the page: music on the left, silence on the right, which nothing may mix or swap.

The codec has Stable Audio Open's layout and weights that give back what they get, so that the network's latents are the
channels' own samples: those of the right one stay as small as the data's, whatever the network makes.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from audiocraft_qamdt.checkpoints import loading
from audiocraft_qamdt.cli import main
from audiocraft_qamdt.data.cache import LatentBatchLoader
from audiocraft_qamdt.generation.app import Asked, Limits, make_clips
from audiocraft_qamdt.generation.qamdt import QAMDT

from .helpers.audio_folder import make_folder
from .helpers.oobleck import CHANNELS, save_oobleck
from .helpers.runs import dora, experiment, history, log_of, solver_in

pytestmark = pytest.mark.slow

RATE = 44100
SECONDS = 32768 / RATE  # AudioCraft measures the loudness of 0.4 s at least


def argv(audio: Path, codec: Path, *more: str) -> list[str]:
    return [
        "solver=qamdt/oobleck_44khz",
        f"latents.oobleck.checkpoint={codec}",
        "mdt.dim=32",
        "mdt.depth=4",
        "mdt.decoder_depth=2",
        "mdt.num_heads=2",
        "mdt.patch=[64,1]",
        "mdt.context_dim=16",
        "conditioners.description.model=words",
        "conditioners.description.words.dim=16",
        "device=cpu",
        "num_threads=1",
        "dset=folder",
        f"folder={audio}",
        "dataset.batch_size=4",
        "dataset.num_workers=0",
        f"dataset.segment_duration={SECONDS}",
        "dataset.valid.num_samples=4",
        "dataset.evaluate.num_samples=4",
        "dataset.generate.num_samples=2",
        "optim.epochs=2",
        "optim.updates_per_epoch=6",
        "schedule.lr_scheduler=null",
        "logging.log_updates=100",
        *more,
    ]


STAGES = [
    "generate.every=2",
    "generate.steps=4",
    "generate.lm.prompted_samples=true",
    "generate.lm.prompt_duration=0.45",
    "evaluate.every=2",
    "evaluate.metrics.frechet=[playground]",
    "evaluate.metrics.pmos=[acoustic]",
    "evaluate.metrics.chroma_cosine=true",
    "evaluate.metrics.silence=true",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> SimpleNamespace:
    """Stereo tracks with music on the left only, and the codec."""
    audio = make_folder(tmp_path_factory.mktemp("audio"), tracks=4, duration=2.0, sample_rate=RATE)
    for track in audio.glob("*.wav"):
        left, _ = soundfile.read(track)
        soundfile.write(track, np.stack([left, np.zeros_like(left)], axis=1), RATE)
    return SimpleNamespace(audio=audio, codec=save_oobleck(tmp_path_factory.mktemp("codec") / "small"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> SimpleNamespace:
    """A complete run that writes its latents, and its export after the codec's own folder is gone."""
    outputs = tmp_path_factory.mktemp("outputs")
    codec = shutil.copytree(data.codec, outputs / "codec")
    cache = outputs / "cache"
    arguments = argv(data.audio, codec, *STAGES, f"cache.path={cache}", "cache.write=true")
    assert dora(outputs, *arguments).returncode == 0, log_of(outputs)[-3000:]
    folder, export = experiment(outputs, *arguments), outputs / "export"
    assert main(["export", str(folder), "--out", str(export)]) == 0
    shutil.rmtree(codec)
    return SimpleNamespace(folder=folder, export=export, cache=cache)


@pytest.fixture(scope="module")
def model(run) -> QAMDT:
    model = QAMDT.get_pretrained(str(run.export), "cpu")
    model.set_generation_params(steps=4)
    return model


def check_left_alone(audio: np.ndarray | torch.Tensor) -> None:
    """Audio [2, S] has something on the left, and on the right what is left of silence."""
    left, right = torch.as_tensor(audio).float().square().mean(dim=-1).sqrt()
    assert left > 1e-3
    assert right < 0.01 * left


def test_four_stages_and_their_numbers(run):
    epochs = history(run.folder)
    assert [set(epoch) for epoch in epochs] == [{"train", "valid"}, {"train", "valid", "evaluate", "generate"}]
    assert all(math.isfinite(epoch["valid"]["loss"]) for epoch in epochs)
    numbers = epochs[-1]["evaluate"]
    for metric in ("frechet_playground", "pmos_acoustic", "chroma_cosine", "silent"):
        assert any(key.startswith(metric) and math.isfinite(value) for key, value in numbers.items()), numbers


def test_samples_are_stereo_with_left_and_right_in_place(run):
    files = sorted((run.folder / "samples" / "2").rglob("*.wav"))
    assert len(files) >= 4, "from the conditions alone, and from prompts"
    for file in files:
        audio, sample_rate = soundfile.read(file)
        assert (sample_rate, audio.shape[1]) == (RATE, 2)
        check_left_alone(audio.T)


def test_cached_latents_are_of_left_and_right_and_train_a_network(run, data, tmp_path):
    loader = LatentBatchLoader(run.cache, batch_size=4, num_workers=1)
    loader.start_epoch(1)
    for latents, _ in loader:
        left, right = latents.split(CHANNELS // 2, dim=1)
        assert left.std() > 0.01
        assert right.abs().max() < 1e-4
    arguments = argv(data.audio, data.codec, f"cache.path={run.cache}", "generate.every=null", "evaluate.every=null")
    with solver_in(tmp_path, *arguments) as solver:
        solver.run()
        losses = [epoch["train"]["loss"] for epoch in solver.history]
    assert losses == pytest.approx([epoch["train"]["loss"] for epoch in history(run.folder)], rel=1e-3)


def test_the_statistics_are_those_of_each_channel(run):
    std = loading.load(run.export).codec_statistics["std"][:, 0]
    left, right = std.split(CHANNELS // 2)
    assert right.max() < 0.01 * left.min()


def test_an_export_carries_the_codec_as_safetensors(run):
    config = json.loads((run.export / "config.json").read_text())
    folder = run.export / config["latents"]["oobleck"]["checkpoint"]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_an_export_generates_stereo_from_the_command_line_and_is_evaluated(run, data, tmp_path):
    out, record = tmp_path / "generated", tmp_path / "numbers.json"
    settings = ["--steps", "4", "--duration", "1.0", "--device", "cpu", "--candidates", "2"]  # windows, too
    assert main(["generate", "piano", "drums", "--model", str(run.export), "--out", str(out), *settings]) == 0
    files = sorted(out.rglob("*.wav"))
    assert len(files) == 4
    for file in files:
        audio, sample_rate = soundfile.read(file)
        assert (sample_rate, audio.shape) == (RATE, (RATE, 2))
        check_left_alone(audio.T)
    folders = ["--generated", str(out), "--reference", str(data.audio), "--device", "cpu", "--cache", str(tmp_path)]
    metrics = ["--metrics", "frechet:playground,pmos:acoustic,silence"]
    assert main(["evaluate", *folders, *metrics, "--out", str(record)]) == 0
    assert all(math.isfinite(number["value"]) for number in json.loads(record.read_text())["numbers"])


def test_a_batch_of_two_is_two_batches_of_one(model):
    both = model.generate(["piano", "drums"], quality=5)
    assert both.shape == (2, 2, 32768)
    for index, text in enumerate(["piano", "drums"]):
        assert torch.allclose(both[index], model.generate([text], quality=5)[0], atol=1e-4)


def test_a_continued_prompt_keeps_both_of_its_channels(model):
    time = torch.arange(8000) / RATE
    prompt = torch.stack([0.3 * torch.sin(2 * torch.pi * 440 * time), 0.3 * torch.sin(2 * torch.pi * 300 * time)])
    audio = model.generate_continuation(prompt, RATE)
    assert torch.equal(audio[0, :, :7000], prompt[:, :7000])
    check_left_alone(audio[0, :, 9000:])


def test_inpainting_leaves_both_channels_as_they_are_beside_the_part(model):
    audio = 0.1 * torch.randn(1, 2, 16384, generator=torch.Generator().manual_seed(0))
    made = model.inpaint(audio, 0.1, 0.2)
    for part in (slice(0, 3000), slice(10000, None)):
        assert torch.equal(made[..., part], audio[..., part])


def test_the_page_makes_stereo_clips(model, tmp_path):
    asked = Asked("piano", "", 5, False, 1, 3, 5, 0.5, 4, 3.5, 0, 2)
    clips = make_clips(model, "small", asked, Limits(), tmp_path, lambda done, total: None)
    assert len(clips) == 2
    for audio, picture in clips:
        samples, sample_rate = soundfile.read(audio)
        assert (sample_rate, samples.shape) == (RATE, (RATE // 2, 2))
        check_left_alone(samples.T)
        assert picture.stat().st_size > 0
