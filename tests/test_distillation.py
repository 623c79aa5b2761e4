"""Few steps: what a student learns from its teacher, what is saved, and what it can be asked for."""

from __future__ import annotations

import json

import pytest
import torch

from audiocraft_qamdt import cli
from audiocraft_qamdt.checkpoints import loading, store
from audiocraft_qamdt.conditioning.attributes import curve_of, without_curve
from audiocraft_qamdt.generation.qamdt import QAMDT

from .helpers.audio_folder import make_folder
from .helpers.runs import (
    FINE_TUNED,
    checkpoint,
    dora,
    experiment,
    history,
    log_of,
    solver_in,
    stopped_and_resumed,
    valid_losses,
)

SMALL = [
    *FINE_TUNED,
    "solver=qamdt/distill",
    "distill.teacher_steps=2",
    "optim.updates_per_epoch=6",
    "optim.lr=1e-3",
    "optim.ema.decay=0.5",
]


def argv(folder, trained, *more):
    return [*SMALL, f"folder={folder}", f"continue_from={trained.export}", *more]


@pytest.fixture(scope="module")
def student(folder, trained, tmp_path_factory):
    """A complete run."""
    with solver_in(tmp_path_factory.mktemp("distill"), *argv(folder, trained)) as solver:
        solver.run()
        return solver


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "student"
    assert cli.main(["export", str(student.folder), "--out", str(out)]) in (0, None)
    return out


def training_losses(solver):
    solver._current_stage = "train"
    solver.model.train()
    latents, infos = solver._latents_and_infos(next(iter(solver.dataloaders["train"])))
    with torch.no_grad():
        return solver._losses(0, latents, infos)[0]


def test_the_teacher_is_reproduced_with_its_own_steps(folder, trained, tmp_path):
    """A new student takes the teacher's steps without guidance exactly: nothing to learn, and the same audio."""
    more = ["distill.teacher_steps=1", "distill.text_scale=[1,1]", "distill.quality_scale=[1,1]"]
    one = ["classifier_free_guidance.inference_coef=1", "classifier_free_guidance.quality_coef=1"]
    with solver_in(tmp_path, *argv(folder, trained, *more, *one)) as solver:
        solver.restore()
        assert training_losses(solver).max() < 1e-6
        solver.model.eval()
        settings = {"steps": 4, "sampler": "few_steps", "duration": 1.0, "guidance_scale": 1.0, "quality_scale": 1.0}
        audio = []
        for model in (solver.qamdt, QAMDT.get_pretrained(str(trained.export), "cpu")):
            model.set_generation_params(**settings)
            audio.append(model.generate(["slow piano", ""], quality=4))
        assert torch.allclose(*audio, atol=1e-5)


def test_a_student_learns_where_its_guided_teacher_goes(student):
    losses = [epoch["valid"]["loss"] for epoch in student.history]
    assert losses[-1] < losses[0]


def test_the_teacher_is_frozen_and_not_saved(student, trained):
    teacher = loading.load(trained.export).model
    for key, value in student.teacher.model.state_dict().items():
        assert torch.equal(value, teacher[key]), key
    saved = torch.load(student.folder / "checkpoint.th", weights_only=True)
    assert saved["model"].keys() == student.model.state_dict().keys()
    assert saved["model"].keys() - teacher.keys() == {
        f"backbone.guidance_embed.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    assert not any("teacher" in key for key in saved)


def test_stopped_after_an_epoch_and_resumed_is_the_same_run(folder, trained, student, tmp_path):
    with stopped_and_resumed(tmp_path, *argv(folder, trained)) as solver:
        first, second = checkpoint(student.folder), checkpoint(solver.folder)
    for key, value in first["model"].items():
        assert torch.equal(value, second["model"][key]), key
    assert valid_losses(first) == valid_losses(second)


def test_an_export_knows_its_steps_and_takes_one_evaluation_each(exported):
    model, evaluations = QAMDT.get_pretrained(str(exported), "cpu"), []
    network = model.predict
    model.predict = lambda x, t, **conditions: (evaluations.append(len(x)), network(x, t, **conditions))[1]
    model.set_generation_params(duration=1.0)
    model.generate(["slow piano"], quality=5)
    assert (model.params.steps, model.params.sampler) == (4, "few_steps")
    assert evaluations == [1] * 4


def test_weights_of_guidance_are_inputs(exported):
    model = QAMDT.get_pretrained(str(exported), "cpu")
    model.set_generation_params(duration=1.0, guidance_scale=1.0, quality_scale=1.0)
    weak = model.generate(["slow piano"], quality=5)
    model.set_generation_params(guidance_scale=3.0)
    text = model.generate(["slow piano"], quality=5)
    model.set_generation_params(guidance_scale=1.0, quality_scale=3.0)
    quality = model.generate(["slow piano"], quality=5)
    assert not torch.equal(weak, text)
    assert not torch.equal(text, quality)


def test_long_clips_are_made_in_windows(exported):
    model = QAMDT.get_pretrained(str(exported), "cpu")
    seconds = 1.5 * model.params.duration
    model.set_generation_params(duration=seconds)
    assert model.generate(["slow piano"]).shape[-1] == round(seconds * model.sample_rate)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("steps", 5, "steps=5: this model was distilled for steps=4"),
        ("sampler", "euler", "sampler='euler': this model was distilled for sampler='few_steps'"),
        ("negative_prompt", "noise", "negative_prompt='noise': this model was distilled for negative_prompt=None"),
        ("guidance_rescale", 0.5, "guidance_rescale=0.5"),
        ("guidance_scale", 4.5, "guidance_scale=4.5: this model has guidance inside, with weights from 1 to 4"),
        ("quality_scale", 0.5, "quality_scale=0.5: this model has guidance inside, with weights from 1 to 4"),
    ],
)
def test_what_is_inside_cannot_be_changed(exported, name, value, message):
    model = QAMDT.get_pretrained(str(exported), "cpu")
    model.set_generation_params(duration=1.0, **{name: value})
    with pytest.raises(ValueError, match=message):
        model.generate(["slow piano"])


def test_the_command_says_so_in_a_line(exported, tmp_path, caplog):
    argv = ["generate", "piano", "--model", str(exported), "--guidance-scale", "9", "--device", "cpu"]
    assert cli.main([*argv, "--out", str(tmp_path / "clip.wav")]) not in (0, None)
    assert "guidance_scale=9: this model has guidance inside" in caplog.text


@pytest.mark.parametrize("recipe", ["qamdt/distill", "qamdt/lora"])
def test_a_model_of_few_steps_is_no_teacher_of_as_many(folder, exported, tmp_path, recipe):
    arguments = [f"solver={recipe}", "dset=folder", "device=cpu", f"folder={folder}", f"continue_from={exported}"]
    message = "needs a model of many" if recipe == "qamdt/lora" else "takes 4 steps, but distill.steps=4"
    with pytest.raises(ValueError, match=message):
        with solver_in(tmp_path, *arguments):
            pass


@pytest.mark.parametrize("teacher", [store.EMBEDDED, store.FAST], ids=["many steps", "few steps"])
def test_a_clip_of_changing_quality_is_taught_at_one_level(teacher, tmp_path):
    """These teachers take one level for a clip, as their students do: no clip is divided among levels."""
    data = make_folder(tmp_path / "changing")
    for track in data.glob("track*.json"):
        content = json.loads(track.read_text())
        content["quality"]["frames"] = [1.0, 2.0, 4.0, 5.0]
        track.write_text(json.dumps(content))
    arguments = [*SMALL, "distill.steps=2", f"folder={data}", f"continue_from={teacher}"]
    with solver_in(tmp_path / "run", *arguments) as solver:
        solver.restore()
        solver._current_stage = "valid"
        latents, infos = solver._latents_and_infos(next(iter(solver.dataloaders["valid"])))
        attributes = solver._attributes(0, infos)
        assert any(len(set(curve_of(item) or ())) > 1 for item in attributes)
        plain, jumps = [without_curve(item) for item in attributes], solver._fixed_jumps(0, latents)
        assert torch.equal(*(solver._reached(items, latents, jumps) for items in (attributes, plain)))


@pytest.mark.parametrize("other", ["generate.steps=2", "generate.sampler=ddim"])
def test_generation_takes_the_steps_that_are_learned(folder, trained, tmp_path, other):
    with (
        pytest.raises(ValueError, match=r"generate\.steps=.*distill\.steps=4 with few_steps: set distill\.steps alone"),
        solver_in(tmp_path, *argv(folder, trained, other)),
    ):
        pass


def test_a_model_of_few_steps_teaches_fewer(folder, exported, tmp_path):
    arguments = [*SMALL, "distill.steps=2", f"folder={folder}", f"continue_from={exported}", "optim.epochs=1"]
    with solver_in(tmp_path, *arguments) as solver:
        solver.run()
        assert solver.teacher.distilled is not None
        assert solver.history[0]["train"]["loss"] > 0


def test_a_student_s_weights_stay_within_its_teacher_s(folder, exported, tmp_path):
    arguments = [*SMALL, "distill.steps=2", f"folder={folder}", f"continue_from={exported}"]
    with pytest.raises(ValueError, match=r"distill.quality_scale=\[1, 5\].*knows weights from 1 to 4"):
        with solver_in(tmp_path, *arguments, "distill.quality_scale=[1,5]"):
            pass
    with solver_in(tmp_path, *arguments, "distill.quality_scale=[1,3.9]") as solver:
        assert list(solver.cfg.distill.text_scale) == [1, 4]
        assert list(solver.cfg.distill.quality_scale) == [1, 3.9]


def test_other_recipes_know_nothing_of_it(trained):
    content = json.loads((trained.export / store.CONFIG).read_text())
    assert not content["distill"]["use"]
    assert not content["mdt"]["guidance_inputs"]


@pytest.mark.slow
def test_through_dora_and_from_cached_latents(folder, trained, tmp_path):
    cache = f"cache.path={tmp_path / 'latents'}"
    more = ["optim.epochs=1", "generate.every=1", "evaluate.every=1", cache]
    written = argv(folder, trained, *more, "cache.write=true")
    assert dora(tmp_path / "out", *written).returncode == 0, log_of(tmp_path / "out")[-3000:]
    read = argv(folder, trained, *more)
    assert dora(tmp_path / "out", *read).returncode == 0, log_of(tmp_path / "out")[-3000:]
    both = [history(experiment(tmp_path / "out", *arguments)) for arguments in (written, read)]
    assert both[0][0]["train"]["loss"] == pytest.approx(both[1][0]["train"]["loss"], rel=1e-2)
    assert {"train", "valid", "evaluate", "generate"} <= both[1][0].keys()
