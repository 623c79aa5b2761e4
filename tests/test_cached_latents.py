"""The solver on latents that were computed before: the same training, and which are refused."""

from __future__ import annotations

import shutil

import pytest

from .helpers.audio_folder import make_folder
from .helpers.runs import history, one_epoch, solver_in


def test_cached_latents_train_like_fresh_ones(folder, tmp_path):
    cache = [f"cache.path={tmp_path / 'cache'}"]
    losses = []
    for more in ([], [*cache, "cache.write=true"], cache):
        with solver_in(tmp_path / f"run{len(losses)}", *one_epoch(folder, "dataset.num_workers=0", *more)) as solver:
            solver.run()
            losses.append(history(solver.folder)[0]["train"]["loss"])
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


@pytest.fixture(scope="module")
def latents(folder, tmp_path_factory):
    """A cache of one epoch."""
    root = tmp_path_factory.mktemp("latents")
    writer = one_epoch(folder, "dataset.num_workers=0", f"cache.path={root / 'cache'}", "cache.write=true")
    with solver_in(root / "outputs", *writer) as solver:
        solver.run()
    return root / "cache"


@pytest.mark.parametrize(
    "option, message",
    [
        ("latents.mdct.channels=32", r"another codec than latents.mdct.*latents.mdct.channels=32 \(there: 16\)"),
        ("latents.mdct.compand=0.9", r"another codec than latents.mdct.*latents.mdct.compand=0.9 \(there: 0.2\)"),
        ("dataset.segment_duration=1.28", "written with dataset.segment_duration=2.56, here it is 1.28"),
        ("dataset.caption=random", "written with dataset.caption=refined, here it is random"),
        ("dataset.train.share=0.5", r"dataset.train.share or filter_below=6 tracks kept \(\w+\), here it is 3 tracks"),
    ],
)
@pytest.mark.parametrize("write", [False, True])
def test_latents_of_another_codec_or_other_settings_are_refused(folder, latents, tmp_path, option, message, write):
    before = sorted(latents.rglob("*.zip"))
    more = ["cache.write=true", "optim.epochs=2"] if write else []
    with solver_in(tmp_path, *one_epoch(folder, f"cache.path={latents}", option, *more)) as solver:
        with pytest.raises(ValueError, match=f"cache.path={latents}: .*{message}"):
            solver.run()
    assert sorted(latents.rglob("*.zip")) == before


def test_latents_of_other_data_are_refused(folder, latents, tmp_path):
    other = make_folder(tmp_path / "audio", tracks=5)
    with solver_in(tmp_path / "outputs", *one_epoch(other, f"cache.path={latents}")) as solver:
        with pytest.raises(ValueError, match=r"datasource.train=6 tracks \(\w+\), here it is 5 tracks"):
            solver.run()


def test_latents_that_do_not_say_what_they_are_of_are_read_with_a_warning(folder, latents, tmp_path, caplog):
    old = tmp_path / "cache"
    shutil.copytree(latents, old)
    (old / "latents.json").unlink()
    with solver_in(tmp_path / "outputs", *one_epoch(folder, f"cache.path={old}")) as solver:
        solver.run()
    assert f"cache.path={old} has no latents.json" in caplog.text


@pytest.mark.parametrize("epochs", [1, 2], ids=["finished", "resumed"])
def test_a_writer_whose_latents_were_removed_does_not_call_them_written(folder, tmp_path, epochs):
    cache = tmp_path / "cache"
    writer = one_epoch(folder, "dataset.num_workers=0", f"cache.path={cache}", "cache.write=true")
    with solver_in(tmp_path / "outputs", *writer) as solver:
        solver.run()
    shutil.rmtree(cache)
    with solver_in(tmp_path / "outputs", *writer) as solver:
        solver.cfg.optim.epochs = epochs
        with pytest.raises(FileNotFoundError, match=rf"cache.path={cache} has lost latents.*epoch 1.*--clear"):
            solver.run()


def test_a_run_is_opened_without_its_cache(folder, latents, tmp_path):
    with solver_in(tmp_path, *one_epoch(folder, f"cache.path={tmp_path / 'gone'}")) as solver:
        solver.restore()
        with pytest.raises(FileNotFoundError, match="gone holds no complete epoch of latents"):
            solver.run()
