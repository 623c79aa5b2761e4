"""What a solver starts from: checkpoints, exports and the hub; what is refused; what a full disk leaves."""

from __future__ import annotations

import json
import os
import resource
import shutil

import pytest
import torch

from audiocraft_qamdt import train
from audiocraft_qamdt.checkpoints import loading, store
from audiocraft_qamdt.utils.files import locked

from .helpers.audio_folder import make_folder
from .helpers.payload import Payload
from .helpers.runs import one_epoch, solver_in


def test_one_epoch_then_continue_from_its_export(folder, tmp_path):
    """Train, export, continue: weights, latent statistics and quality statistics arrive."""
    with solver_in(tmp_path / "a", *one_epoch(folder)) as solver:
        solver.run()
        trained = loading.load(solver.folder)
        store.export(tmp_path / "export", trained)
    with solver_in(tmp_path / "b", *one_epoch(folder, f"continue_from={tmp_path / 'export'}")) as other:
        other.restore()
        for key, value in trained.model.items():
            assert torch.equal(other.model.state_dict()[key], value), key
        assert torch.equal(other.codec.statistics.std, solver.codec.statistics.std)
        assert other.quality_statistics == solver.quality_statistics
        assert other.epoch == 1
        assert not (tmp_path / "export.part").exists()


OTHER_MODELS = {
    "deeper": ("mdt.depth=6", "mdt.depth"),
    "shallower": ("mdt.depth=2", "mdt.depth"),
    "wider": ("mdt.dim=64", "mdt.dim"),
    "narrower": ("mdt.dim=16", "mdt.dim"),
    "granularities": ("conditioner=qamdt/all", "fuser.adaln"),
    "text encoder": ("conditioners.description.words.n_bins=512", "conditioners.description.words.n_bins"),
}


@pytest.fixture(scope="module")
def sources(folder, tmp_path_factory):
    """The checkpoint and the export of a trained model: what `continue_from` takes."""
    outputs = tmp_path_factory.mktemp("source")
    with solver_in(outputs, *one_epoch(folder)) as solver:
        solver.run()
        store.export(outputs / "export", loading.load(solver.folder))
        return {"checkpoint": solver.folder / "checkpoint.th", "export": outputs / "export"}


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
@pytest.mark.parametrize(("override", "key"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_a_model_of_another_kind_is_not_continued(folder, sources, tmp_path, kind, override, key):
    with solver_in(tmp_path, *one_epoch(folder, override, f"continue_from={sources[kind]}")) as solver:
        with pytest.raises(ValueError, match=rf"is a model of another kind: .* parameters .*{key}=") as raised:
            solver.restore()
    assert str(sources[kind]) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_a_codec_of_the_same_name_and_shape_with_other_latents_is_not_continued(folder, sources, tmp_path, kind):
    with solver_in(
        tmp_path, *one_epoch(folder, "latents.mdct.compand=0.7", f"continue_from={sources[kind]}")
    ) as solver:
        with pytest.raises(ValueError, match=r"another codec than latents.mdct.*compand=0.7 \(there: 0.2\)"):
            solver.restore()


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_a_model_is_not_measured_with_another_schedule_and_trained_on_with_a_warning(
    folder, sources, tmp_path, kind, caplog
):
    other = ["diffusion.schedule.kind=flow", "diffusion.schedule.prediction=v", f"continue_from={sources[kind]}"]
    with solver_in(tmp_path, *one_epoch(folder, *other, "execute_only=evaluate")) as solver:
        with pytest.raises(ValueError, match=r"another schedule: diffusion.schedule.*kind=flow \(there: ddpm\)"):
            solver.restore()
    with solver_in(tmp_path, *one_epoch(folder, *other)) as solver:
        solver.restore()
    assert "another schedule" in caplog.text


def test_a_model_on_the_hub_is_continued_by_its_name(folder, sources, tmp_path, hub_server):
    hub_server.models["me/model"] = {path.name: path.read_bytes() for path in sources["export"].iterdir()}
    expected = loading.load(sources["export"]).model
    with solver_in(tmp_path, *one_epoch(folder, "continue_from=me/model")) as solver:
        solver.restore()
        assert all(torch.equal(value, expected[key]) for key, value in solver.model.state_dict().items())


def test_a_run_whose_codec_changed_is_not_resumed(folder, sources, tmp_path):
    with solver_in(tmp_path, *one_epoch(folder, "latents.mdct.compand=0.7")) as solver:
        shutil.copy(sources["checkpoint"], solver.folder / "checkpoint.th")
        with pytest.raises(ValueError, match=r"checkpoint.th: trained on latents of another codec"):
            solver.restore()


def test_a_source_that_is_not_there_is_named(folder, tmp_path):
    with solver_in(tmp_path, *one_epoch(folder, f"continue_from={tmp_path / 'none.th'}")) as solver:
        with pytest.raises((ValueError, OSError), match="none.th"):
            solver.restore()


def test_scores_that_came_after_the_first_run_count_on_resume_and_other_ones_are_refused(tmp_path):
    audio = make_folder(tmp_path / "audio", quality=False)
    with solver_in(tmp_path, *one_epoch(audio)) as solver:
        solver.run()
        assert not solver.quality_statistics
    make_folder(tmp_path / "audio")  # as `qamdt annotate` leaves it
    with solver_in(tmp_path, *one_epoch(audio)) as solver:
        solver.restore()
        assert solver.epoch == 2
        assert solver.quality_statistics["mean"] == pytest.approx(3.5)
        solver.save_checkpoints()
    quality = json.loads((audio / "quality.json").read_text())
    (audio / "quality.json").write_text(json.dumps({**quality, "mean": 2.0}))
    with solver_in(tmp_path, *one_epoch(audio)) as solver:
        with pytest.raises(ValueError, match=r"mean 2.000, test\) differs from .*mean 3.500.*label=NAME"):
            solver.restore()
    (audio / "quality.json").unlink()
    with solver_in(tmp_path, *one_epoch(audio)) as solver:
        solver.restore()
        assert solver.quality_statistics["mean"] == pytest.approx(3.5)


def test_full_disk_keeps_the_previous_checkpoint(folder, tmp_path):
    """The process may write no file as large as the checkpoint: the write fails half-way, as on a full disk."""
    with solver_in(tmp_path, *one_epoch(folder)) as solver:
        solver.run()
        before = (solver.folder / "checkpoint.th").read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        try:
            with pytest.raises(OSError, match="could not be saved.*The previous checkpoint is untouched"):
                solver.save_checkpoints()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (solver.folder / "checkpoint.th").read_bytes() == before
        assert not list(solver.folder.glob("*.tmp*"))
        solver.save_checkpoints()
        assert loading.load(solver.folder).model


def test_a_second_run_of_an_experiment_says_who_runs_it(folder, tmp_path):
    with solver_in(tmp_path, *one_epoch(folder)) as solver, locked(solver.folder / train.LOCK):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on .*wait for it"), train._alone():
            pass


def test_malicious_checkpoint_is_refused_not_run(folder, tmp_path):
    flag = tmp_path / "ran"
    torch.save({"best_state": Payload(flag)}, tmp_path / "evil.th")
    with solver_in(tmp_path, *one_epoch(folder, f"continue_from={tmp_path / 'evil.th'}")) as solver:
        with pytest.raises(ValueError, match="evil.th: refused, it holds more than tensors"):
            solver.restore()
    assert not flag.exists()


def test_truncated_checkpoint_is_named(folder, tmp_path):
    torch.save({"best_state": {"model": torch.zeros(1000)}}, tmp_path / "cut.th")
    (tmp_path / "cut.th").write_bytes((tmp_path / "cut.th").read_bytes()[:1000])
    with solver_in(tmp_path, *one_epoch(folder, f"continue_from={tmp_path / 'cut.th'}")) as solver:
        with pytest.raises(ValueError, match="cut.th: damaged"):
            solver.restore()
