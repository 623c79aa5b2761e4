"""Adapters (LoRA): what trains, what is saved, and that merged weights are the ones that were trained."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiocraft_qamdt import cli
from audiocraft_qamdt.checkpoints import adapters, loading, store
from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.training.base_model import adopt_base

from .helpers.runs import (
    FINE_TUNED,
    checkpoint,
    dora,
    experiment,
    history,
    log_of,
    main_in,
    solver_in,
    stopped_and_resumed,
    valid_losses,
)

SMALL = [
    *FINE_TUNED,
    "solver=qamdt/lora",
    "lora.rank=4",
    "lora.train_text=true",
    "lora.train_quality=true",
    "optim.updates_per_epoch=4",
    "optim.lr=1e-2",
    "generate.steps=2",
]


def argv(folder, trained, *more):
    return [*SMALL, f"folder={folder}", f"continue_from={trained.export}", *more]


@pytest.fixture(scope="module")
def tuned(folder, trained, tmp_path_factory):
    """A complete run: its experiment's folder, and its model with the best state, not merged."""
    outputs = tmp_path_factory.mktemp("lora")
    with solver_in(outputs, *argv(folder, trained)) as solver:
        solver.run()
        solver._load_new_state_dict(solver.best_state.state_dict())
        solver.model.eval()
        return solver


def noisy(model, seed=0):
    backbone = model.model.backbone
    generator = torch.Generator().manual_seed(seed)
    shape = (2, backbone.latent_channels, backbone.latent_frames, backbone.latent_bins)
    return torch.randn(shape, generator=generator), torch.tensor([100, 700])


@torch.no_grad()
def predicted(model):
    items = [model.request(text, level) for text, level in (("slow piano", 1), ("", 5))]
    x, t = noisy(model)
    return model.model(x, t, **model.model.encode_conditions(items))


def test_a_new_adapter_changes_nothing(folder, trained, tmp_path):
    with solver_in(tmp_path, *argv(folder, trained)) as solver:
        solver.model.eval()
        before = QAMDT.get_pretrained(str(trained.export), "cpu")
        assert torch.equal(predicted(solver.qamdt), predicted(before))


def test_only_the_adapter_trains_and_is_saved(tuned, trained):
    base = loading.load(trained.export).model
    state = dict(tuned.model.named_parameters())
    for key, value in base.items():
        wrapped = key.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        if wrapped in state:
            assert torch.equal(state[wrapped], value), key
    saved = torch.load(tuned.folder / "checkpoint.th", weights_only=True)["model"]
    assert saved.keys() == tuned.trained.state_dict().keys()
    assert sum(value.numel() for value in saved.values()) < 0.5 * sum(value.numel() for value in base.values())


def test_merged_weights_predict_as_the_run_did(tuned, trained):
    merged = QAMDT.get_pretrained(str(tuned.folder), "cpu")
    assert (predicted(merged) - predicted(tuned.qamdt)).abs().max() < 1e-5
    added = QAMDT.get_pretrained(str(trained.export), "cpu", adapters=[str(tuned.folder / "adapter")])
    assert (predicted(added) - predicted(tuned.qamdt)).abs().max() < 1e-5
    untouched = QAMDT.get_pretrained(str(trained.export), "cpu")
    assert (predicted(added) - predicted(untouched)).abs().max() > 1e-3


def test_masked_training_steps_use_the_adapter_too(tuned):
    from audiocraft_qamdt.models.masking import draw_mask

    merged = QAMDT.get_pretrained(str(tuned.folder), "cpu")
    x, t = noisy(merged)
    grid = merged.model.backbone.grid(x.shape[2])
    mask = draw_mask("random", 2, grid, (0.3, 0.3), torch.Generator().manual_seed(0), "cpu")
    with torch.no_grad():
        conditions = [item.model.encode_conditions([merged.request("piano", 3)] * 2) for item in (tuned.qamdt, merged)]
        first = tuned.model(x, t, mask=mask, **conditions[0])
        second = merged.model(x, t, mask=mask, **conditions[1])
    assert (first - second).abs().max() < 1e-5


def test_peft_reads_the_adapter_and_merges_it_to_the_same_weights(tuned, trained):
    import peft

    model = QAMDT.get_pretrained(str(trained.export), "cpu").model
    theirs = peft.PeftModel.from_pretrained(model, str(tuned.folder / "adapter")).merge_and_unload().state_dict()
    ours = loading.load(tuned.folder).model
    for key, value in ours.items():
        if not key.endswith("counts"):  # of words: peft knows parameters only
            torch.testing.assert_close(theirs[key], value, rtol=1e-5, atol=1e-6)


def test_weights_scale_adapters_and_several_add_up(tuned, trained):
    adapter = str(tuned.folder / "adapter")
    half = loading.load(trained.export, [f"{adapter}:0.5", f"{adapter}:0.5"]).model
    whole = loading.load(trained.export, [adapter]).model
    none = loading.load(trained.export, [f"{adapter}:0", adapter, f"{adapter}:-1"]).model
    base = loading.load(trained.export).model
    for key in base:
        torch.testing.assert_close(half[key], whole[key], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(none[key], base[key], rtol=1e-5, atol=1e-6)


def test_killed_after_an_epoch_and_resumed_is_the_same_run(folder, trained, tuned, tmp_path):
    with stopped_and_resumed(tmp_path, *argv(folder, trained)) as solver:
        first, second = checkpoint(tuned.folder), checkpoint(solver.folder)
    for key, value in first["ema"]["state"]["model"].items():
        assert torch.equal(value, second["ema"]["state"]["model"][key]), key
    assert valid_losses(first) == valid_losses(second)


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_same_adapter(folder, trained, tmp_path):
    """Through `dora run`, killed in the second of three epochs, against one that never stopped."""
    arguments = argv(folder, trained, "optim.epochs=3", "optim.updates_per_epoch=12", "logging.log_updates=12")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert dora(whole, *arguments).returncode == 0, log_of(whole)[-3000:]
    process, deadline = dora(killed, *arguments, wait=False), time.time() + 300
    while "Train | Epoch 2 | 6/12" not in log_of(killed):
        assert process.poll() is None and time.time() < deadline, log_of(killed)[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(history(experiment(killed, *arguments))) == 1
    assert dora(killed, *arguments).returncode == 0, log_of(killed)[-3000:]
    runs = [experiment(outputs, *arguments) for outputs in (whole, killed)]
    assert history(runs[0]) == history(runs[1])
    assert len(history(runs[0])) == 3
    first, second = (load_file(run / adapters.FOLDER / adapters.WEIGHTS) for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_export_is_merged_and_generates_as_the_run(tuned, trained, tmp_path):
    out = tmp_path / "export"
    argv = ["export", str(trained.export), "--adapter", str(tuned.folder), "--out", str(out)]
    assert cli.main(argv) in (0, None)
    assert not any("lora" in key for key in load_file(out / store.WEIGHTS))
    assert not json.loads((out / store.CONFIG).read_text())["lora"]["use"]
    clip = tmp_path / "clip.wav"
    clip_argv = ["generate", "piano", "--steps", "2", "--duration", "1", "--device", "cpu", "--out", str(clip)]
    assert cli.main([*clip_argv, "--model", str(trained.export), "--adapter", f"{tuned.folder}:0.5"]) in (0, None)
    assert json.loads(clip.with_suffix(".json").read_text())["model"].endswith(":0.5")


def other_weights(trained, folder):
    """An export of the same shapes and other weights."""
    model = loading.load(trained.export)
    changed = {key: value * 1.01 if value.is_floating_point() else value for key, value in model.model.items()}
    store.export(folder, replace(model, model=changed))
    return folder


def without_base(source, folder):
    """A copy of an adapter as they were written before they said what they were trained on."""
    folder.mkdir()
    (folder / adapters.CONFIG).write_bytes((source / adapters.CONFIG).read_bytes())
    save_file(load_file(source / adapters.WEIGHTS), folder / adapters.WEIGHTS)
    return folder


def test_an_adapter_is_refused_by_other_weights_of_the_same_shapes(tuned, trained, tmp_path, caplog):
    other, adapter = other_weights(trained, tmp_path / "other"), tuned.folder / "adapter"
    argv = ["generate", "piano", "--model", str(other), "--adapter", str(adapter), "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 2
    assert f"{adapter}: trained on other weights ({trained.export}, " in caplog.messages[-1]
    assert not list((tmp_path / "out").glob("*"))


def test_an_adapter_of_before_is_merged_with_a_warning(tuned, trained, tmp_path, caplog):
    old = without_base(tuned.folder / "adapter", tmp_path / "old")
    merged = loading.load(trained.export, [str(old)]).model
    assert f"{old}: does not say which weights it was trained on" in caplog.text
    new = loading.load(trained.export, [str(tuned.folder / "adapter")]).model
    assert all(torch.equal(merged[key], new[key]) for key in new)


def test_a_run_whose_base_has_changed_is_neither_read_nor_resumed(folder, trained, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(trained.export, base)
    arguments = [*argv(folder, trained, "optim.epochs=1"), f"continue_from={base}"]
    with solver_in(tmp_path / "runs", *arguments) as solver:
        solver.run()
    shutil.rmtree(base)
    other_weights(trained, base)
    with pytest.raises(ValueError, match=r"checkpoint.th: trained on other weights"):
        loading.load(solver.folder)
    with pytest.raises(ValueError, match=r"checkpoint.th: trained on other weights"):
        with solver_in(tmp_path / "runs", *arguments) as resumed:
            resumed.run()


def test_another_models_adapter_is_refused(tuned, tmp_path):
    with pytest.raises(ValueError, match="does not fit this model"):
        loading.load(store.EMBEDDED, [str(without_base(tuned.folder / "adapter", tmp_path / "old"))])
    with pytest.raises(FileNotFoundError, match="no adapter there"):
        loading.load(store.EMBEDDED, [str(tmp_path)])


def test_what_comes_from_the_model_cannot_be_overridden(folder, trained, tmp_path):
    with pytest.raises(ValueError, match="mdt.dim=: with solver=qamdt/lora it comes from the model"):
        with solver_in(tmp_path, *argv(folder, trained, "mdt.dim=64")):
            pass


def test_memory_without_activations_is_what_the_manual_calculates(tuned):
    """Of the adapter weights, gradients, two moments and a moving average; of the rest the weights alone."""
    adapter = sum(parameter.numel() for parameter in tuned.model.parameters() if parameter.requires_grad)
    moments = [value for state in tuned.optimizer.state.values() for value in state.values() if value.dim() > 0]
    assert sum(value.numel() for value in moments) == 2 * adapter
    average = tuned.ema.state_dict()["state"]["model"]
    parameters = [average[name] for name, _ in tuned.trained.named_parameters()]
    assert sum(value.numel() for value in parameters) == adapter
    assert average.keys() == tuned.trained.state_dict().keys()
    assert all(value.dtype == torch.float32 for value in (*moments, *parameters))


def test_levels_stay_those_of_the_model(tuned, trained):
    assert tuned.quality_statistics == loading.load(trained.export).quality_statistics


@pytest.mark.parametrize("typed, expected", [((), None), (("quality.noise_range=[800,600,400,200,0]",), 800)])
def test_the_noise_range_of_the_models_own_data_is_not_taken_over(tmp_path, monkeypatch, typed, expected):
    base = loading.load(store.EMBEDDED)
    base.cfg.quality.noise_range = "measured"
    monkeypatch.setattr(loading, "load", lambda name: base)
    xp = main_in(tmp_path).get_xp(["solver=qamdt/lora", *typed])
    adopt_base(xp.cfg, xp.cfg, typed)
    assert xp.cfg.quality.rule == base.cfg.quality.rule
    assert (xp.cfg.quality.noise_range and xp.cfg.quality.noise_range[0]) == expected


@pytest.mark.parametrize("recipe", ["lora", "distill"])
def test_segments_are_cut_as_the_model_learned_them_unless_it_is_said_otherwise(tmp_path, recipe):
    main = main_in(tmp_path)
    for typed, expected in (((), 1.0), (("dataset.min_segment_ratio=0.5",), 0.5)):
        xp = main.get_xp([f"solver=qamdt/{recipe}", *typed])
        adopt_base(xp.cfg, xp.cfg, typed)
        assert xp.cfg.dataset.segment_duration == 4.096
        assert xp.cfg.dataset.min_segment_ratio == expected


@pytest.mark.parametrize(
    "text, expected",
    [("a", ("a", 1.0)), ("a:0.5", ("a", 0.5)), ("//sig/ab:-1", ("//sig/ab", -1.0)), ("a:b", ("a:b", 1.0))],
)
def test_an_adapter_is_typed_with_or_without_its_weight(text, expected):
    assert adapters.parse(text) == expected


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        adapters.parse("a:nan")
