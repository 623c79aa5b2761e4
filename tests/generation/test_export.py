"""Exports: they generate what the solver does, carry what they need, say what they are, and travel over the hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from audiocraft_qamdt.checkpoints import loading, store
from audiocraft_qamdt.cli import main
from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.generation import export
from audiocraft_qamdt.generation.export import Card, check_audio, export_trained
from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.latents import spectral_vae

from ..helpers.hub_server import hub


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    """As `qamdt export` writes it."""
    out = tmp_path_factory.mktemp("exporting") / "my-model"
    card = ["--license", "mit", "--data", "Decaying chords."]
    assert main(["export", str(trained.experiment), "--out", str(out), *card]) == 0
    return out


def test_an_export_generates_the_solver_s_samples_bit_for_bit(trained, exported):
    assert trained.audio.std() > 1e-4
    assert torch.equal(check_audio(loading.load(exported)), trained.audio)


def test_an_export_that_generates_other_audio_is_not_written(trained, tmp_path, monkeypatch, caplog):
    """One weight that is written wrong is enough."""
    write = store.write_safetensors

    def wrong(tensors, path):
        tensors = {key: value.clone() for key, value in tensors.items()}
        tensors["model.backbone.final_layer.linear.weight"][0, 0] += 1e-3
        write(tensors, path)

    monkeypatch.setattr(store, "write_safetensors", wrong)
    assert main(["export", str(trained.experiment), "--out", str(tmp_path / "out")]) == 2
    assert "generates other audio" in caplog.text and list(tmp_path.iterdir()) == []


def test_the_card_has_licence_data_and_metrics(exported, trained):
    card = (exported / "README.md").read_text()
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert {"license: mit", "library_name: audiocraft_qamdt", "pipeline_tag: text-to-audio"} <= set(front.splitlines())
    assert "Decaying chords." in body and "6 tracks scored by test 1" in body and "2.56 s" in body
    loss = json.loads((trained.experiment / "history.json").read_text())[0]["valid"]["loss"]
    assert f"| valid | loss | {loss:.4g} | 1 |" in body


def test_the_config_is_json_and_names_nothing_of_the_machine(exported, trained):
    text = (exported / "config.json").read_text()
    assert json.loads(text)["solver"] == "qamdt"
    assert str(trained.experiment.parents[2]) not in text and str(CONFIG_ROOT) not in text


def test_training_goes_on_from_an_export(exported):
    assert loading.load(exported).solver_state()["best_state"]["model"].keys()


def composed(*overrides: str) -> DictConfig:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture
def with_mel_vae(tmp_path) -> store.TrainedModel:
    """A small model over a small AudioLDM VAE and vocoder, saved here in their own layout."""
    from audiocraft_qamdt import builders

    from ..latents.test_mel_vae import official

    small, folder = official(tmp_path), tmp_path / "audioldm"
    small.vae.save_pretrained(folder / "vae")
    small.vocoder.save_pretrained(folder / "vocoder")

    overrides = [
        "solver=qamdt/playground",
        "latents.codec=mel_vae",
        f"latents.mel_vae.checkpoint={folder}",
        "mdt.dim=32",
        "mdt.depth=4",
        "mdt.decoder_depth=2",
        "mdt.num_heads=2",
        "mdt.patch=[2,2]",
        "device=cpu",
    ]
    cfg = composed(*overrides)
    codec = builders.get_codec(cfg.latents)
    torch.manual_seed(0)
    model = builders.get_model(cfg, codec)
    return store.TrainedModel(cfg, model.state_dict(), codec.statistics.state_dict(), {})


def test_an_export_carries_its_codec(with_mel_vae, tmp_path):
    (tmp_path / "audioldm" / "vae" / "notes.txt").write_text("mine")
    out = export_trained(with_mel_vae, tmp_path / "out", Card("mel"))
    expected = check_audio(with_mel_vae)
    shutil.rmtree(tmp_path / "audioldm")
    assert not list(out.rglob("notes.txt")), "only what the model reads is copied"
    moved = out.rename(tmp_path / "moved")
    assert torch.equal(check_audio(loading.load(moved)), expected)
    assert OmegaConf.create(json.loads((moved / "config.json").read_text())).latents.mel_vae.checkpoint.startswith("./")


@pytest.fixture
def with_learned_codec() -> store.TrainedModel:
    """A small model over the codec in the package, which its config does not name."""
    from audiocraft_qamdt import builders

    small = ["mdt.dim=32", "mdt.depth=4", "mdt.decoder_depth=2", "mdt.num_heads=2", "device=cpu"]
    cfg = composed("solver=qamdt/playground", *small)
    assert (cfg.latents.codec, cfg.latents.spectral_vae.checkpoint) == ("spectral_vae", None)
    codec = builders.get_codec(cfg.latents)
    torch.manual_seed(0)
    model = builders.get_model(cfg, codec)
    return store.TrainedModel(cfg, model.state_dict(), codec.statistics.state_dict(), {})


@pytest.fixture
def retrain_package_codec(tmp_path, monkeypatch):
    """Let the package hold another codec from now on."""

    def retrain() -> None:
        torch.manual_seed(1)
        other = spectral_vae.SpectralVAECodec(spectral_vae.SpectralVAE(spectral_vae.SpectralVAESizes()))
        other.save(tmp_path / "other.safetensors")
        monkeypatch.setattr(spectral_vae, "WEIGHTS", tmp_path / "other.safetensors")

    return retrain


def test_an_export_keeps_its_sound_when_the_package_has_another_codec(
    with_learned_codec, retrain_package_codec, tmp_path
):
    out = export_trained(with_learned_codec, tmp_path / "out", Card("learned"))
    assert (
        out / "weights" / "checkpoint" / spectral_vae.WEIGHTS.name
    ).read_bytes() == spectral_vae.WEIGHTS.read_bytes()
    expected = check_audio(with_learned_codec)
    retrain_package_codec()
    assert not torch.equal(check_audio(with_learned_codec), expected), "the other codec sounds the same"
    assert torch.equal(check_audio(loading.load(out)), expected)
    again = export_trained(loading.load(out), tmp_path / "again", Card("learned"))
    assert torch.equal(check_audio(loading.load(again)), expected)


def test_an_export_without_its_codec_gets_one_when_it_is_exported_again(with_learned_codec, tmp_path):
    store.export(tmp_path / "old", with_learned_codec)
    assert not (tmp_path / "old" / "weights").exists()
    again = export_trained(loading.load(tmp_path / "old"), tmp_path / "again", Card("learned"))
    assert [path.name for path in (again / "weights").rglob("*.safetensors")] == [spectral_vae.WEIGHTS.name]


def test_the_model_in_the_package_reads_the_codec_beside_it(with_learned_codec, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "EMBEDDED", tmp_path / "pretrained")
    out = export_trained(with_learned_codec, tmp_path / "pretrained", Card("embedded"))
    assert not (out / "weights").exists()
    assert loading.load(out).cfg.latents.spectral_vae.checkpoint is None


def test_the_embedded_model_is_read_as_data():
    loaded = loading.load(store.EMBEDDED)
    assert loaded.cfg.latents.codec == "spectral_vae"
    assert loaded.model


def test_the_fast_model_is_a_student_of_the_embedded_one():
    fast = loading.load("fast")
    assert fast.cfg.distill.use and fast.cfg.distill.steps == 4
    assert fast.model.keys() > loading.load(store.EMBEDDED).model.keys()


def test_an_export_of_that_name_comes_first_and_another_folder_does_not(with_learned_codec, tmp_path, monkeypatch):
    (tmp_path / "clips" / "fast").mkdir(parents=True)  # as `qamdt generate --out fast` makes it
    monkeypatch.chdir(tmp_path / "clips")
    assert loading.load("fast").cfg.distill.use
    store.export(tmp_path / "fast", with_learned_codec)
    monkeypatch.chdir(tmp_path)
    assert loading.load("fast").model.keys() == with_learned_codec.model.keys()


def test_a_codec_s_checkpoint_goes_into_an_export_as_weights_alone(with_learned_codec, tmp_path):
    from audiocraft_qamdt import builders

    blocks = ["spectral_vae.width=32", "spectral_vae.encoder_blocks=[1,1]", "spectral_vae.decoder_blocks=[1,1]"]
    cfg = composed("solver=compression/qamdt_spectral", *blocks, f"datasource.train={tmp_path}")
    vae = builders.get_trainable_codec(cfg)
    torch.save({"xp.cfg": cfg, "best_state": {"model": vae.state_dict()}}, tmp_path / "checkpoint.th")
    with_learned_codec.cfg.latents.spectral_vae.checkpoint = str(tmp_path / "checkpoint.th")
    expected = check_audio(with_learned_codec)
    out = export_trained(with_learned_codec, tmp_path / "out", Card("learned"))
    (tmp_path / "checkpoint.th").unlink()
    assert torch.equal(check_audio(loading.load(out)), expected)
    assert [path.suffix for path in (out / "weights").rglob("*") if path.is_file()] == [".safetensors"]


def test_generate_works_with_a_mel_vae_model(with_mel_vae, tmp_path):
    store.export(tmp_path / "plain", with_mel_vae)
    model = QAMDT.get_pretrained(str(tmp_path / "plain"), "cpu")
    model.set_generation_params(steps=2, duration=4.0)  # longer than a segment: windows, and decoding in chunks
    assert model.generate(["piano"], 5).shape == (1, 1, 64000)
    prompt = torch.randn(1, 1, 24000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert torch.equal(model.generate_continuation(prompt, 16000)[..., :23000], prompt[..., :23000])


@pytest.mark.parametrize(
    "argv, message",
    [
        (["export", "/nothing/here", "--out", "out"], "/nothing/here: neither an export"),
        (["push", ".", "me/model"], "no export, write one with `qamdt export`"),
    ],
    ids=["export", "push"],
)
def test_bad_input_is_named(argv, message, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2 and message in caplog.text


def test_a_damaged_config_is_named(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "config.json").write_text('{"solver":')
    with pytest.raises(ValueError, match="config.json: damaged"):
        loading.load(folder)


def edited(exported: Path, folder: Path, /, **values: object) -> Path:
    """A copy of an export whose config says something else; `a__b` is the key a.b."""
    shutil.copytree(exported, folder)
    content = json.loads((folder / "config.json").read_text())
    for name, value in values.items():
        *path, last = name.split("__")
        section = content
        for key in path:
            section = section.setdefault(key, {})
        section[last] = value
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "values, message",
    [
        ({"generate__negative_prompt": "${oc.env:HF_TOKEN}"}, "generate.negative_prompt refused"),
        ({"label": "${seed}"}, "label refused"),
        ({"conditioners__${oc.env:HF_TOKEN}": {}}, "conditioners refused"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"mdt__surprise": 1}, "unknown key 'mdt.surprise'"),
        ({"latents__surprise": {}}, "unknown key 'latents.surprise'"),
        ({"mdt__dim": "32"}, "mdt.dim must be int or float, got '32'"),
        ({"mdt": [1]}, "mdt must be dict"),
        ({"generate__steps": True}, "generate.steps must be int or float"),
        ({"generate__clap": 3}, "generate.clap must be str"),
        ({"sample_rate": float("nan")}, "sample_rate must be a finite number"),
        ({"latents__encodec__checkpoint": {"a": 1}}, "latents.encodec.checkpoint must be str"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_from_elsewhere_is_data_of_known_keys_and_types(exported, tmp_path, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loading.load(edited(exported, tmp_path / "hostile", **values))


def test_a_nested_config_is_damaged_not_a_crash(exported, tmp_path):
    folder = edited(exported, tmp_path / "hostile")
    (folder / "config.json").write_text('{"mdt": ' + "[" * 500_000)
    with pytest.raises(ValueError, match="config.json: damaged"):
        loading.load(folder)


def strings(value: object):
    if isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in strings(part))
    elif isinstance(value, str):
        yield value


def test_no_string_of_an_export_is_a_path_of_this_machine(exported, tmp_path):
    home = "/home/alice/secret"
    values = {
        "metrics__frechet__reference": home,
        "metrics__clap__checkpoint": f"~/{home}",
        "generate__clap": home,
        "datasource__train": f"../..{home}",
        "cache__path": home,
        "continue_from": home,
        "folder": str(tmp_path),
        "slurm__setup": [f"source {home}/bin/activate"],
        "label": f"file://{home}",
        "optim__note": f"C:\\alice and {home}",
        "quality__statistics": {"predictor": home},
        "logging__level": f"x={home}",
    }
    source = edited(exported, tmp_path / "source", **values)
    (source / "quality.json").write_text(
        json.dumps(json.loads((source / "quality.json").read_text()) | {"predictor": home})
    )
    assert main(["export", str(source), "--out", str(tmp_path / "out")]) == 0
    content = [json.loads((tmp_path / "out" / name).read_text()) for name in ("config.json", "quality.json")]
    found = [*strings(content), (tmp_path / "out" / "README.md").read_text()]
    assert len(found) > 20
    for text in found:
        assert "alice" not in text and ".." not in text and str(tmp_path) not in text
        assert not text.startswith(("/", "~")) or text.startswith("//pretrained/")


def test_an_export_copies_no_file_that_the_model_does_not_load(exported, tmp_path):
    secret = tmp_path / "home" / "id_rsa"
    secret.parent.mkdir()
    secret.write_text("PRIVATE")
    values = {"latents__encodec__checkpoint": str(secret.parent), "latents__mel_vae__checkpoint": "./../home/id_rsa"}
    source = edited(exported, tmp_path / "hostile", **values)
    (source / "weights").mkdir(exist_ok=True)
    (source / "weights" / "link").symlink_to(secret)
    assert main(["export", str(source), "--out", str(tmp_path / "out")]) == 0
    assert not any(b"PRIVATE" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("value", ["./../audioldm", "./weights/link"], ids=["..", "symbolic link"])
def test_parts_outside_of_an_export_are_refused(with_mel_vae, tmp_path, value):
    store.export(tmp_path / "plain", with_mel_vae)
    source = edited(tmp_path / "plain", tmp_path / "hostile", latents__mel_vae__checkpoint=value)
    (source / "weights").mkdir()
    (source / "weights" / "link").symlink_to(tmp_path / "audioldm")
    with pytest.raises(ValueError, match="a part of an export lies in its folder"):
        loading.load(source)


def test_an_export_s_absolute_part_is_not_copied_into_another(with_mel_vae, tmp_path, caplog):
    store.export(tmp_path / "plain", with_mel_vae)
    assert main(["export", str(tmp_path / "plain"), "--out", str(tmp_path / "out")]) == 2
    assert "is outside of that export" in caplog.text and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["music", "export and more", "another model", "file"])
def test_an_export_replaces_nothing_but_an_export(trained, exported, tmp_path, caplog, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    elif kind == "export and more":
        shutil.copytree(exported, out)
        (out / "thesis.txt").write_text("precious")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
    if kind == "another model":
        (out / "thesis.txt").unlink()
        (out / "config.json").write_text('{"model_type": "gpt2"}')
        (out / "model.safetensors").write_bytes(b"weights")
    before = {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()}
    assert main(["export", str(trained.experiment), "--out", str(out)]) == 2
    assert str(out) in caplog.text
    assert before == {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()}


def test_an_export_that_was_killed_between_its_renames_is_found_again(exported, tmp_path):
    (tmp_path / ".model.qamdt-old").parent.mkdir(exist_ok=True)
    shutil.copytree(exported, tmp_path / ".model.qamdt-old")
    assert loading.load(tmp_path / "model").model and not (tmp_path / ".model.qamdt-old").exists()


def qamdt(url: str, home: Path, *argv: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "audiocraft_qamdt.cli", *map(str, argv)]
    return subprocess.run(command, cwd=CONFIG_ROOT.parent, env=environment, capture_output=True, text=True, timeout=300)


def test_push_and_generate_from_the_hub(exported, tmp_path):
    """Through huggingface_hub itself, against a hub on loopback: up, down into an empty cache, and the same weights."""
    with hub() as server:
        pushed = qamdt(server.url, tmp_path / "a", "push", exported, "me/my-model")
        assert pushed.returncode == 0, pushed.stderr
        assert server.models["me/my-model"].keys() >= {"README.md", "config.json", "model.safetensors", "quality.json"}
        arguments = ["generate", "piano", "--out", tmp_path / "x.wav", "--steps", 2, "--device", "cpu", "--model"]
        made = qamdt(server.url, tmp_path / "b", *arguments, "me/my-model")
        assert made.returncode == 0, made.stderr
    record = json.loads((tmp_path / "x.json").read_text())
    from audiocraft_qamdt.generation.files import fingerprint

    assert record["model"] == "me/my-model"
    assert record["weights"] == fingerprint(QAMDT.get_pretrained(str(exported), "cpu"))


def test_models_that_the_hub_does_not_have_are_named(hub_server):
    with pytest.raises(FileNotFoundError, match="me/other: neither an export or checkpoint here nor a model"):
        loading.load("me/other")
    assert any("/api/models/me/other" in request for request in hub_server.requests)


def test_uploading_offline_says_so(exported, caplog):
    assert main(["push", str(exported), "me/model"]) == 2
    assert "HF_HUB_OFFLINE is set" in caplog.text


def test_uploading_without_a_network_is_a_line(exported, tmp_path):
    pushed = qamdt("http://127.0.0.1:9", tmp_path / "a", "push", exported, "me/model")
    assert pushed.returncode == 2
    assert "the hub cannot be reached, me/model is not uploaded" in pushed.stderr and "Traceback" not in pushed.stderr


def test_trained_models_keep_their_history(trained):
    known = loading.load(trained.experiment)
    assert known.history and export.model_card(Card("x"), replace(known, history=[])).count("None are known.") == 1
