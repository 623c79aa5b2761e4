"""Generation: reproducible, independent of the batch, of the asked length, for any kind of quality."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt import checkpoints
from audiocraft_qamdt.generate import QAMDT

from .audio_folder import make_folder
from .runs import TINY, solver_in


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model trained for four steps, with every granularity, exported."""
    root = tmp_path_factory.mktemp("generate")
    folder = make_folder(root / "audio")
    with solver_in(
        root / "outputs",
        *TINY,
        f"folder={folder}",
        "optim.epochs=1",
        "optim.updates_per_epoch=4",
        "conditioner=qamdt/all",
        "diffusion.schedule.prediction=v",  # keeps an untrained model's audio within bounds
        "optim.lr=1e-2",
        "generate.lm.gen_duration=1.0",
    ) as solver:
        solver.run()
        checkpoints.export(root / "export", checkpoints.load(solver.folder))
    return root / "export"


@pytest.fixture
def model(exported):
    model = QAMDT.get_pretrained(str(exported), "cpu")
    model.set_generation_params(steps=4)
    return model


def test_asked_length_finite_and_not_silent(model):
    for duration in (0.5, 1.0, 2.56, 3.0):
        model.set_generation_params(duration=duration)
        audio = model.generate(["piano", None])
        assert audio.shape == (2, 1, round(duration * 16000))
        assert audio.isfinite().all() and (audio.square().mean(-1).sqrt() > 1e-4).all()


def test_same_seed_same_audio_other_seed_other_audio(model):
    first = model.generate(["piano"], 5)
    assert torch.equal(model.generate(["piano"], 5), first)
    model.set_generation_params(seed=1)
    assert not torch.allclose(model.generate(["piano"], 5), first, atol=1e-3)


def test_an_item_does_not_depend_on_its_batch(model):
    attributes = [model.request(text, 3) for text in ("piano", "a much longer description of a guitar", None)]
    together = model.generate_from(attributes, [1, 2, 3])
    alone = model.generate_from(attributes[:1], [1])
    assert torch.allclose(together[:1], alone, atol=1e-4)


def test_conditions_are_heard(model):
    plain = model.generate(["piano"], 3)
    assert not torch.allclose(model.generate(["drums"], 3), plain, atol=1e-4)
    assert not torch.allclose(model.generate(["piano"], 5), plain, atol=1e-4)
    assert not torch.allclose(model.generate(["piano"], [(0.0, 1), (1.0, 5)]), plain, atol=1e-4)


def test_levels_between_integers_lie_between(model):
    """Interpolated embeddings: halfway is closer to both ends than the ends are to each other."""
    two, half, three = (model.generate(["piano"], level) for level in (2, 2.5, 3))
    apart = (two - three).norm()
    assert (half - two).norm() < apart and (half - three).norm() < apart


@pytest.mark.parametrize("quality", [0, 6, [(0.0, 1), (1.0, 7)]])
def test_levels_outside_the_scale_are_refused(model, quality):
    with pytest.raises(ValueError, match="levels go from 1 to 5"):
        model.generate(["piano"], quality)


def test_unknown_settings_are_refused(model):
    with pytest.raises(TypeError, match="temperature"):
        model.set_generation_params(temperature=1.0)


def test_progress_is_told(model):
    seen = []
    model.set_custom_progress_callback(lambda done, total: seen.append((done, total)))
    model.generate(["piano"], progress=True)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_longer_than_fixed_positions_is_refused(tmp_path):
    folder = make_folder(tmp_path / "audio", tracks=2)
    with solver_in(tmp_path, *TINY, f"folder={folder}", "mdt.positions=sincos", "optim.epochs=1") as solver:
        solver.restore()
        solver.generator.set_generation_params(steps=2, duration=1.0)
        assert solver.generator.generate(["piano"]).shape[-1] == 16000
        solver.generator.set_generation_params(duration=5.0, extend="rope")
        with pytest.raises(ValueError, match="longer than the 2.56 s.*mdt.positions=rope"):
            solver.generator.generate(["piano"])


def test_nothing_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither an export"):
        QAMDT.get_pretrained(str(tmp_path / "nothing"))


def test_the_candidate_that_the_scorer_prefers_is_kept(model, monkeypatch):
    """Each text has another favourite among three candidates: the loudest for one, the quietest for the other."""
    signs = torch.tensor([1.0, -1.0])
    loudness = lambda audio, sample_rate, texts: signs * audio.square().mean((1, 2))  # noqa: E731
    monkeypatch.setattr("audiocraft_qamdt.builders.get_clap", lambda name, device: loudness)
    first = model.generate(["piano", "piano"])
    model.set_generation_params(num_candidates=3, clap="loudness")
    best = model.generate(["piano", "piano"])
    assert best.shape == first.shape
    assert (loudness(best, 16000, []) >= loudness(first, 16000, [])).all() and not torch.equal(best, first)


def test_candidates_without_a_model_to_choose_with_are_refused(model):
    model.set_generation_params(num_candidates=2)
    with pytest.raises(ValueError, match="generate.candidates=2, but generate.clap names no model"):
        model.generate(["piano"])
