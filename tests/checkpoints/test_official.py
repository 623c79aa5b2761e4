"""The published checkpoint's layout to an export, at a small size, and what must not be imported."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiocraft_qamdt.checkpoints import hub, loading, store
from audiocraft_qamdt.checkpoints.official import IMPORTS, NETWORK, import_official, infer_config
from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule

from ..helpers.audio_folder import make_folder
from ..helpers.hub_server import COMMIT
from ..helpers.hub_server import hub as running_hub
from ..helpers.payload import Payload
from ..helpers.published import AUTHORS, CHECKPOINT, COPY, SMALL, codec_state, state_of
from ..helpers.runs import history, solver_in

CONFIG = {**SMALL, "input_size": [160, 16], "in_channels": 16, "num_heads": 4}
"""Of latents of the codec `mdct`."""


@pytest.fixture
def state():
    return state_of(CONFIG)


@pytest.fixture
def overrides(tiny_t5):
    """What the recipe needs of its surroundings, small and local: a T5 and a codec without weights."""
    return [
        f"conditioners.description.qamdt_t5.name={tiny_t5}",
        "latents.codec=mdct",
        "dataset.segment_duration=2.56",
        "device=cpu",
        "autocast=false",
        "generate.steps=4",
        "generate.candidates=1",
    ]


def save(tmp_path, state, name="published.ckpt"):
    torch.save({"state_dict": state, "epoch": 3, "global_step": 100}, tmp_path / name)
    return tmp_path / name


def test_shapes_tell_the_configuration(state):
    network = {key.removeprefix(NETWORK): value for key, value in state.items() if key.startswith(NETWORK)}
    assert infer_config(network, num_heads=4) == CONFIG


@pytest.mark.parametrize("ema", [True, False])
def test_weights_scale_and_thresholds_arrive(tmp_path, state, overrides, ema):
    out = import_official(save(tmp_path, state), tmp_path / "export", ema=ema, num_heads=4, overrides=overrides)
    trained = loading.load(out)
    key = "in_blocks.0.mlp.fc1.weight"
    expected = state[NETWORK + "en_inblocks.0.mlp.fc1.weight"] * (0.5 if ema else 1)
    assert torch.equal(trained.model[f"backbone.{key}"], expected)
    assert torch.equal(trained.model["backbone.pos_embed"], state[NETWORK + "pos_embed"])
    assert torch.equal(trained.codec_statistics["std"], torch.full((16, 16), 2.0))
    rule = level_rule("official", QualityStatistics.from_dict(trained.quality_statistics, "test"))
    assert rule.word_boundaries == pytest.approx((3.55, 4.05))


def test_the_export_generates_and_equals_the_published_network(tmp_path, state, overrides):
    out = import_official(save(tmp_path, state), tmp_path / "export", num_heads=4, overrides=overrides)
    model = QAMDT.get_pretrained(str(out), "cpu")
    assert model.params.null_level == 3
    assert model.params.sampler == "ddim"
    assert model.params.guidance.guidance_scale == 3.5
    audio = model.generate(["warm piano"], quality=5)
    assert audio.shape == (1, 1, 40960)
    assert audio.isfinite().all()
    assert audio.std() > 0


@pytest.mark.slow
def test_fine_tuning_the_import_lowers_the_loss(tmp_path, state, overrides):
    folder = make_folder(tmp_path / "audio", tracks=2)
    out = import_official(save(tmp_path, state), tmp_path / "export", num_heads=4, overrides=overrides)
    mdt = [
        "mdt.patch=[4,4]",
        "mdt.dim=32",
        "mdt.depth=6",
        "mdt.decoder_depth=2",
        "mdt.num_heads=4",
        "mdt.ffn_ratio=2.0",
        "mdt.context_dim=16",
    ]
    argv = [
        "solver=qamdt",
        "dset=folder",
        f"folder={folder}",
        f"continue_from={out}",
        *overrides,
        *mdt,
        "num_threads=1",
        "dataset.batch_size=4",
        "dataset.num_workers=0",
        "dataset.valid.num_samples=8",
        "optim.epochs=2",
        "optim.updates_per_epoch=40",
        "optim.lr=3e-3",
        "schedule.lr_scheduler=null",
        "optim.ema.decay=0.9",
        "evaluate.metrics.base=false",
        "dataset.generate.num_samples=1",
    ]
    with solver_in(tmp_path / "outputs", *argv) as solver:
        solver.restore()
        with torch.no_grad():
            before = solver.run_stage("valid", solver.valid)["loss"]
        solver._start_epoch()
        solver.run()
        assert history(solver.folder)[-1]["valid"]["loss"] < 0.9 * before


def broken(state, kind, tmp_path):
    key = NETWORK + "en_inblocks.0.mlp.fc1.weight"
    if kind == "wrong key":
        state[NETWORK + "en_inblocks.0.mlp.fc9.weight"] = state.pop(key)
    elif kind == "misshapen":
        state[NETWORK + "final_layer.linear.bias"] = torch.zeros(7)
    elif kind == "nan":
        state[key] = state[key] * torch.nan
    elif kind == "other model":
        state = {"encoder.weight": torch.zeros(3)}
    path = save(tmp_path, state)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    "kind, message",
    [
        ("truncated", "published.ckpt: damaged"),
        ("wrong key", "published.ckpt: .*en_inblocks.0.mlp.fc9.weight"),
        ("misshapen", "published.ckpt: misshapen.*final_layer.linear.bias"),
        ("nan", "NaN or infinite.*in_blocks.0.mlp.fc1.weight"),
        ("other model", "not the published checkpoint"),
    ],
)
def test_broken_checkpoints_end_with_a_message_and_leave_nothing(tmp_path, state, overrides, kind, message):
    path = broken(state, kind, tmp_path)
    with pytest.raises(ValueError, match=message):
        import_official(path, tmp_path / "export", ema=False, num_heads=4, overrides=overrides)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["published.ckpt"]


def test_a_pickle_payload_is_refused_not_run(tmp_path, overrides):
    flag = tmp_path / "ran"
    torch.save({"state_dict": {}, "callbacks": Payload(flag)}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt: refused"):
        import_official(tmp_path / "evil.ckpt", tmp_path / "export", overrides=overrides)
    assert not flag.exists()
    assert not (tmp_path / "export").exists()


@pytest.fixture(scope="module")
def lightning() -> bytes:
    """A whole Lightning checkpoint, small: network, average, codec, and what training needs besides."""
    file = io.BytesIO()
    state = {**state_of(SMALL), **codec_state(), "cond_stage_models.0.weight": torch.zeros(500_000)}
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [{"state": {}}]}, file)
    return file.getvalue()


def imports_of(repository: str) -> Path:
    return hub.folder_of(repository) / IMPORTS / COMMIT


@pytest.mark.parametrize("layout", [AUTHORS, COPY], ids=["authors", "copy"])
def test_a_repository_with_the_published_files_loads_by_its_name(hub_server, lightning, caplog, layout):
    hub_server.models["owner/published"] = {**layout, CHECKPOINT: lightning}
    with caplog.at_level(logging.INFO):
        trained = loading.load("owner/published")
    assert trained.cfg.latents.codec == "mel_vae"
    assert trained.cfg.generate.eta == 1
    assert trained.cfg.generate.quality == 5
    key = "in_blocks.0.mlp.fc1.weight"
    assert torch.equal(trained.model[f"backbone.{key}"], state_of(SMALL)[f"{NETWORK}en_{key.replace('_', '')}"] * 0.5)
    lines = [record.message for record in caplog.records if record.name.startswith("audiocraft_qamdt")]
    assert "owner/published/checkpoint_389999.ckpt: the authors' checkpoint" in lines[0]
    assert "imported;" in lines[-1]
    assert not [path for path in hub_server.requests if "/checkpoints/" in path or ".py" in path]


def test_an_import_holds_of_the_checkpoint_what_generation_reads(hub_server, lightning):
    hub_server.models["owner/published"] = {**AUTHORS, CHECKPOINT: lightning}
    trained = loading.load("owner/published")
    files = sorted(path.relative_to(trained.origin).as_posix() for path in trained.origin.rglob("*") if path.is_file())
    assert files == ["config.json", "model.safetensors", "quality.json", "weights/codec.safetensors"]
    codec = codec_state()
    codec.pop("first_stage_model.loss.logvar")
    copied = load_file(trained.origin / "weights" / "codec.safetensors")
    assert copied.keys() == codec.keys()
    assert all(torch.equal(copied[key], codec[key]) for key in codec)
    assert trained.cfg.latents.mel_vae.vae == trained.cfg.latents.mel_vae.vocoder == str(trained.origin / files[-1])


def test_a_second_call_and_one_without_network_use_the_import(hub_server, lightning, monkeypatch):
    hub_server.models["owner/published"] = {**COPY, CHECKPOINT: lightning}
    first = loading.load("owner/published")
    hub_server.requests.clear()
    again = loading.load("owner/published")
    assert again.origin == first.origin
    assert not [path for path in hub_server.requests if CHECKPOINT in path]
    Path(hub.folder_of("owner/published"), "snapshots", COMMIT, CHECKPOINT).resolve().unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = loading.load("owner/published")
    assert offline.origin == first.origin
    assert offline.model.keys() == first.model.keys()
    assert loading.load(f"owner/published/{CHECKPOINT}").origin == first.origin
    with pytest.raises(FileNotFoundError, match="owner/other"):
        loading.load("owner/other")


def test_a_repository_that_is_no_model_is_refused_with_what_is_there(hub_server):
    hub_server.models["me/text"] = {"README.md": b"a model of another kind", "unet/config.json": b"{}"}
    with pytest.raises(FileNotFoundError, match="me/text: no model that can be read; there are README.md, unet/. Exp"):
        loading.load("me/text")


def test_code_in_a_repository_checkpoint_is_refused_and_leaves_no_import(hub_server):
    file = io.BytesIO()
    torch.save({"state_dict": {}, "callbacks": Path("x")}, file)
    hub_server.models["me/evil"] = {**AUTHORS, CHECKPOINT: file.getvalue()}
    with pytest.raises(ValueError, match=f"{CHECKPOINT}: refused"):
        loading.load("me/evil")
    assert list(imports_of("me/evil").iterdir()) == []


def test_safetensors_with_the_published_names_are_imported(tmp_path, state, overrides):
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "published.safetensors")
    out = import_official(tmp_path / "published.safetensors", tmp_path / "export", num_heads=4, overrides=overrides)
    other = import_official(save(tmp_path, state), tmp_path / "other", num_heads=4, overrides=overrides)
    assert (out / store.WEIGHTS).read_bytes() == (other / store.WEIGHTS).read_bytes()


def qamdt(url: str, home: Path, *argv: object) -> subprocess.Popen:
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "audiocraft_qamdt.cli", *map(str, argv)]
    return subprocess.Popen(command, cwd=CONFIG_ROOT.parent, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_generate_takes_the_name_of_a_published_repository(tmp_path, lightning, tiny_t5):
    text_encoder = {path.name: path.read_bytes() for path in Path(tiny_t5).iterdir()}
    with running_hub() as server:
        server.models |= {"owner/published": {**COPY, CHECKPOINT: lightning}, "google/flan-t5-large": text_encoder}
        arguments = ["generate", "piano", "--steps", 2, "--device", "cpu", "--model", "owner/published", "--out"]
        process = qamdt(server.url, tmp_path / "home", *arguments, tmp_path / "x.wav")
        errors = process.communicate(timeout=900)[1]
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "x.json").read_text())["model"] == "owner/published"
    assert "INFO owner/published/checkpoint_389999.ckpt: the authors' checkpoint, 0." in errors
    assert "HTTP Request" not in errors


@pytest.mark.slow
def test_an_import_that_is_killed_leaves_nothing_half_written_and_the_next_one_is_whole(tmp_path, lightning):
    imports = tmp_path / "home" / "hub" / "models--owner--published" / IMPORTS / COMMIT
    out, arguments = imports / CHECKPOINT, ["export", "owner/published", "--out", tmp_path / "unused"]
    with running_hub() as server:
        server.models["owner/published"] = {**AUTHORS, CHECKPOINT: lightning}
        process = qamdt(server.url, tmp_path / "home", *arguments)
        while process.poll() is None and not list(imports.glob(".*.part")):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not out.exists()
        assert len(list(imports.glob(".*.part"))) == 1
        qamdt(server.url, tmp_path / "home", *arguments).communicate(timeout=900)
    assert store.is_export(out)
    assert list(imports.iterdir()) == [out]
