"""The solver in this process: randomness, statistics, checkpoints, cache and errors of the user."""

from __future__ import annotations

import json
import os
import resource
import shutil

import pytest
import torch

from audiocraft_qamdt import train
from audiocraft_qamdt.checkpoints import loading, store
from audiocraft_qamdt.quality.noise_range import NoiseRange
from audiocraft_qamdt.utils.files import locked

from .helpers.audio_folder import make_folder
from .helpers.payload import Payload
from .helpers.runs import TINY, history, solver_in
from .models.test_compiling import needs_compiler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("audio"))


def argv(folder, *more):
    return [
        *TINY,
        f"folder={folder}",
        "optim.epochs=1",
        "optim.updates_per_epoch=4",
        "generate.every=null",
        "evaluate.every=null",
        *more,
    ]


def stage(solver, name):
    """Put the solver into a stage, as `run_stage` does."""
    solver._current_stage = name
    solver.model.train(name == "train")


def test_statistics_give_unit_variance_and_repeat(folder, tmp_path):
    with solver_in(tmp_path, *argv(folder)) as solver:
        solver.restore()
        first = solver.codec.statistics.std.clone()
        batch = next(iter(solver.dataloaders["train"]))
        assert solver.codec.encode(batch[0]).std().item() == pytest.approx(1, abs=0.15)
        solver._estimate_statistics()
        assert torch.equal(solver.codec.statistics.std, first)


def test_draws_are_keyed_by_seed_rank_and_step(folder, tmp_path, monkeypatch):
    import flashy

    latents = torch.zeros(4, 16, 160, 16)

    def draw(step, rank=0, **override):
        monkeypatch.setattr(flashy.distrib, "rank", lambda: rank)
        draws = solver._draw(step, latents, infos)
        return torch.cat([draws.noise.flatten(), draws.timesteps.float(), draws.mask.hidden.float().flatten()])

    with solver_in(tmp_path, *argv(folder)) as solver:
        stage(solver, "train")
        infos = next(iter(solver.dataloaders["train"]))[1]
        base = draw(0)
        assert torch.equal(draw(0), base)
        assert not torch.equal(draw(1), base)
        assert not torch.equal(draw(0, rank=1), base)
        solver.cfg.seed += 1
        assert not torch.equal(draw(0), base)


RANGE = "quality.noise_range=[800,600,400,200,0]"


def test_a_noise_range_raises_what_worse_levels_draw_and_changes_nothing_else(folder, tmp_path):
    latents, drawn = torch.zeros(4, 16, 160, 16), []
    for index, more in enumerate(([], [RANGE])):
        with solver_in(tmp_path / str(index), *argv(folder, "quality.rule=even", *more)) as solver:
            stage(solver, "train")
            infos = next(iter(solver.dataloaders["train"]))[1]
            infos[0].pmos = None  # unknown quality is held to be the worst
            for step in range(40):
                drawn.append(
                    (solver._draw(step, latents, infos), [solver.qamdt.rule.level(i.pmos or 1) for i in infos])
                )
    for (plain, levels), (raised, _) in zip(drawn[:40], drawn[40:], strict=True):
        lowest = torch.tensor([1000 - 200 * level for level in levels])
        allowed = plain.timesteps >= lowest
        assert (raised.timesteps >= lowest).all()
        assert torch.equal(raised.timesteps[allowed], plain.timesteps[allowed])
        assert torch.equal(raised.noise, plain.noise)
        assert torch.equal(raised.mask.hidden, plain.mask.hidden)
    assert any(not torch.equal(a.timesteps, b.timesteps) for (a, _), (b, _) in zip(drawn[:40], drawn[40:], strict=True))


def measured_range(folder, lowest):
    """Put a measurement for the tests' recipe into a data set's quality.json."""
    content = json.loads((folder / "quality.json").read_text())
    fields = dict.fromkeys(NoiseRange.__dataclass_fields__)
    content["noise_range"] = {**fields, "codec": "mdct", "rule": "even", "lowest": lowest}
    (folder / "quality.json").write_text(json.dumps(content))


@pytest.mark.parametrize("flow", [[], ["diffusion.schedule.kind=flow", "diffusion.schedule.prediction=null"]], ids=str)
def test_a_measured_noise_range_trains_and_does_not_change_on_resume(tmp_path, flow):
    audio = make_folder(tmp_path / "audio")
    options = argv(audio, "conditioner=qamdt/prefix_clip_noise", "conditioners.description.model=words", *flow)
    with pytest.raises(ValueError, match="quality.json: no 'noise_range': run `qamdt noise-range`"):
        with solver_in(tmp_path, *options):
            pass
    measured_range(audio, [4.0, 2.0, 1.0, 0.5, 0.0])
    with solver_in(tmp_path, *options) as solver:
        solver.run()
        half = solver.objective.schedule.timestep_at(1.0)
        assert solver.lowest_timesteps[3] == half
        assert solver.lowest_timesteps[0] == solver.lowest_timesteps[1] > half
        assert history(solver.folder)[0]["train"]["loss"] > 0
    with solver_in(tmp_path, *options) as solver:
        solver.restore()
        assert solver.epoch == 2
    measured_range(audio, [8.0, 2.0, 1.0, 0.5, 0.0])
    with solver_in(tmp_path, *options) as solver:
        with pytest.raises(ValueError, match="quality.noise_range .*began with"):
            solver.restore()


def test_a_noise_range_of_another_codec_or_rule_is_refused(tmp_path):
    audio = make_folder(tmp_path / "audio")
    measured_range(audio, [4.0, 2.0, 1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="quality.rule=official, but the noise range .* was measured with even"):
        with solver_in(tmp_path, *argv(audio, "quality.noise_range=measured", "quality.rule=official")):
            pass


def test_validation_draws_the_same_for_every_run_and_epoch(folder, tmp_path):
    latents = torch.zeros(4, 16, 160, 16)
    drawn = []
    for seed in (1, 2):
        with solver_in(tmp_path, *argv(folder, f"seed={seed}")) as solver:
            stage(solver, "valid")
            drawn.append(solver._draw_fixed(1, latents))
    assert torch.equal(drawn[0].noise, drawn[1].noise)
    assert torch.equal(drawn[0].timesteps, drawn[1].timesteps)
    assert drawn[0].mask is None


def test_conditions_are_dropped_in_training_only(folder, tmp_path):
    with solver_in(tmp_path, *argv(folder, "condition_dropout.description=1", "condition_dropout.quality=1")) as solver:
        solver.restore()
        _, infos = next(iter(solver.dataloaders["train"]))
        stage(solver, "train")
        dropped = solver.model.encode_conditions(solver._attributes(0, infos))
        assert dropped["context_mask"].sum() == 0
        assert dropped["quality"]["clip"].sum() == 0
        stage(solver, "valid")
        kept = solver.model.encode_conditions(solver._attributes(0, infos))
        assert kept["context_mask"].sum() > 0
        assert kept["quality"]["clip"].min() >= 1


def test_ranks_drop_different_conditions_each_on_its_own(folder, tmp_path, monkeypatch):
    import flashy

    dropout = ["condition_dropout.description=0.5", "condition_dropout.quality=0.5"]

    def dropped(rank):
        monkeypatch.setattr(flashy.distrib, "rank", lambda: rank)
        conditions = solver.model.encode_conditions(solver._attributes(0, infos))
        return (conditions["context_mask"].sum(1) == 0).tolist(), (conditions["quality"]["clip"] == 0).tolist()

    with solver_in(tmp_path, *argv(folder, *dropout, "dataset.batch_size=16")) as solver:
        _, infos = next(iter(solver.dataloaders["train"]))
        stage(solver, "train")
        first, again, other = dropped(0), dropped(0), dropped(1)
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]
    assert first[0] != first[1]
    assert all(0 < sum(items) < 16 for items in first)


def test_tracks_without_a_score_train_with_the_null_quality_and_are_counted(tmp_path):
    half = make_folder(tmp_path / "audio")
    for index in range(0, 6, 2):
        sidecar = half / f"track{index}.json"
        sidecar.write_text(json.dumps({"description": f"track number {index}"}))
    with solver_in(tmp_path, *argv(half, "dataset.batch_size=8", "condition_dropout.quality=0")) as solver:
        solver.restore()
        stage(solver, "train")
        batch = next(iter(solver.dataloaders["train"]))
        unscored = [int(info.description.split()[-1]) % 2 == 0 for info in batch[1]]
        levels = solver.model.encode_conditions(solver._attributes(0, batch[1]))["quality"]["clip"]
        assert (levels == 0).tolist() == unscored
        assert 0 < sum(unscored) < 8
        assert solver.run_step(0, batch, {})["unscored"] == sum(unscored) / 8


def test_one_epoch_then_continue_from_its_export(folder, tmp_path):
    """Train, export, continue: weights, latent statistics and quality statistics arrive."""
    with solver_in(tmp_path / "a", *argv(folder)) as solver:
        solver.run()
        trained = loading.load(solver.folder)
        store.export(tmp_path / "export", trained)
    with solver_in(tmp_path / "b", *argv(folder, f"continue_from={tmp_path / 'export'}")) as other:
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
    with solver_in(outputs, *argv(folder)) as solver:
        solver.run()
        store.export(outputs / "export", loading.load(solver.folder))
        return {"checkpoint": solver.folder / "checkpoint.th", "export": outputs / "export"}


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
@pytest.mark.parametrize(("override", "key"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_a_model_of_another_kind_is_not_continued(folder, sources, tmp_path, kind, override, key):
    with solver_in(tmp_path, *argv(folder, override, f"continue_from={sources[kind]}")) as solver:
        with pytest.raises(ValueError, match=rf"is a model of another kind: .* parameters .*{key}=") as raised:
            solver.restore()
    assert str(sources[kind]) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_a_codec_of_the_same_name_and_shape_with_other_latents_is_not_continued(folder, sources, tmp_path, kind):
    with solver_in(tmp_path, *argv(folder, "latents.mdct.compand=0.7", f"continue_from={sources[kind]}")) as solver:
        with pytest.raises(ValueError, match=r"another codec than latents.mdct.*compand=0.7 \(there: 0.2\)"):
            solver.restore()


def test_a_model_on_the_hub_is_continued_by_its_name(folder, sources, tmp_path, hub_server):
    hub_server.models["me/model"] = {path.name: path.read_bytes() for path in sources["export"].iterdir()}
    expected = loading.load(sources["export"]).model
    with solver_in(tmp_path, *argv(folder, "continue_from=me/model")) as solver:
        solver.restore()
        assert all(torch.equal(value, expected[key]) for key, value in solver.model.state_dict().items())


def test_a_run_whose_codec_changed_is_not_resumed(folder, sources, tmp_path):
    with solver_in(tmp_path, *argv(folder, "latents.mdct.compand=0.7")) as solver:
        shutil.copy(sources["checkpoint"], solver.folder / "checkpoint.th")
        with pytest.raises(ValueError, match=r"checkpoint.th: trained on latents of another codec"):
            solver.restore()


def test_a_source_that_is_not_there_is_named(folder, tmp_path):
    with solver_in(tmp_path, *argv(folder, f"continue_from={tmp_path / 'none.th'}")) as solver:
        with pytest.raises((ValueError, OSError), match="none.th"):
            solver.restore()


def test_scores_that_came_after_the_first_run_count_on_resume_and_other_ones_are_refused(tmp_path):
    audio = make_folder(tmp_path / "audio", quality=False)
    with solver_in(tmp_path, *argv(audio)) as solver:
        solver.run()
        assert not solver.quality_statistics
    make_folder(tmp_path / "audio")  # as `qamdt annotate` leaves it
    with solver_in(tmp_path, *argv(audio)) as solver:
        solver.restore()
        assert solver.epoch == 2
        assert solver.quality_statistics["mean"] == pytest.approx(3.5)
        solver.save_checkpoints()
    quality = json.loads((audio / "quality.json").read_text())
    (audio / "quality.json").write_text(json.dumps({**quality, "mean": 2.0}))
    with solver_in(tmp_path, *argv(audio)) as solver:
        with pytest.raises(ValueError, match=r"mean 2.000, test\) differs from .*mean 3.500.*label=NAME"):
            solver.restore()
    (audio / "quality.json").unlink()
    with solver_in(tmp_path, *argv(audio)) as solver:
        solver.restore()
        assert solver.quality_statistics["mean"] == pytest.approx(3.5)


def test_full_disk_keeps_the_previous_checkpoint(folder, tmp_path):
    """The process may write no file as large as the checkpoint: the write fails half-way, as on a full disk."""
    with solver_in(tmp_path, *argv(folder)) as solver:
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
    with solver_in(tmp_path, *argv(folder)) as solver, locked(solver.folder / train.LOCK):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on .*wait for it"), train._alone():
            pass


def test_malicious_checkpoint_is_refused_not_run(folder, tmp_path):
    flag = tmp_path / "ran"
    torch.save({"best_state": Payload(flag)}, tmp_path / "evil.th")
    with solver_in(tmp_path, *argv(folder, f"continue_from={tmp_path / 'evil.th'}")) as solver:
        with pytest.raises(ValueError, match="evil.th: refused, it holds more than tensors"):
            solver.restore()
    assert not flag.exists()


def test_truncated_checkpoint_is_named(folder, tmp_path):
    torch.save({"best_state": {"model": torch.zeros(1000)}}, tmp_path / "cut.th")
    (tmp_path / "cut.th").write_bytes((tmp_path / "cut.th").read_bytes()[:1000])
    with solver_in(tmp_path, *argv(folder, f"continue_from={tmp_path / 'cut.th'}")) as solver:
        with pytest.raises(ValueError, match="cut.th: damaged"):
            solver.restore()


def test_cached_latents_train_like_fresh_ones(folder, tmp_path):
    cache = [f"cache.path={tmp_path / 'cache'}"]
    losses = []
    for more in ([], [*cache, "cache.write=true"], cache):
        with solver_in(tmp_path / f"run{len(losses)}", *argv(folder, "dataset.num_workers=0", *more)) as solver:
            solver.run()
            losses.append(history(solver.folder)[0]["train"]["loss"])
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


@pytest.fixture(scope="module")
def latents(folder, tmp_path_factory):
    """A cache of one epoch."""
    root = tmp_path_factory.mktemp("latents")
    writer = argv(folder, "dataset.num_workers=0", f"cache.path={root / 'cache'}", "cache.write=true")
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
    with solver_in(tmp_path, *argv(folder, f"cache.path={latents}", option, *more)) as solver:
        with pytest.raises(ValueError, match=f"cache.path={latents}: .*{message}"):
            solver.run()
    assert sorted(latents.rglob("*.zip")) == before


def test_latents_of_other_data_are_refused(folder, latents, tmp_path):
    other = make_folder(tmp_path / "audio", tracks=5)
    with solver_in(tmp_path / "outputs", *argv(other, f"cache.path={latents}")) as solver:
        with pytest.raises(ValueError, match=r"datasource.train=6 tracks \(\w+\), here it is 5 tracks"):
            solver.run()


def test_latents_that_do_not_say_what_they_are_of_are_read_with_a_warning(folder, latents, tmp_path, caplog):
    old = tmp_path / "cache"
    shutil.copytree(latents, old)
    (old / "latents.json").unlink()
    with solver_in(tmp_path / "outputs", *argv(folder, f"cache.path={old}")) as solver:
        solver.run()
    assert f"cache.path={old} has no latents.json" in caplog.text


@pytest.mark.parametrize("epochs", [1, 2], ids=["finished", "resumed"])
def test_a_writer_whose_latents_were_removed_does_not_call_them_written(folder, tmp_path, epochs):
    cache = tmp_path / "cache"
    writer = argv(folder, "dataset.num_workers=0", f"cache.path={cache}", "cache.write=true")
    with solver_in(tmp_path / "outputs", *writer) as solver:
        solver.run()
    shutil.rmtree(cache)
    with solver_in(tmp_path / "outputs", *writer) as solver:
        solver.cfg.optim.epochs = epochs
        with pytest.raises(FileNotFoundError, match=rf"cache.path={cache} has lost latents.*epoch 1.*--clear"):
            solver.run()


def test_a_run_is_opened_without_its_cache(folder, latents, tmp_path):
    with solver_in(tmp_path, *argv(folder, f"cache.path={tmp_path / 'gone'}")) as solver:
        solver.restore()
        with pytest.raises(FileNotFoundError, match="gone holds no complete epoch of latents"):
            solver.run()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_trains(folder, tmp_path, precision):
    with solver_in(tmp_path, *argv(folder, "autocast=true", f"autocast_dtype={precision}")) as solver:
        solver.run()
        assert 0 < history(solver.folder)[0]["train"]["loss"] < 10


@pytest.mark.parametrize(
    "options",
    [
        ["masking.kind=time_frequency", "mdt.ffn=swiglu"],
        ["mdt.positions=sincos", "mdt.overlap=[1,1]", "masking.ratio=0", "masking.spread=0"],
        ["conditioner=qamdt/all", "mdt.checkpointing=true", "diffusion.schedule.prediction=x0"],
        ["diffusion.schedule.kind=flow", "diffusion.schedule.prediction=null", "diffusion.schedule.shift=2"],
    ],
    ids=["time and frequency", "no masks", "all conditions", "flow"],
)
def test_masking_kinds_and_options_of_the_network_train(folder, tmp_path, options):
    with solver_in(tmp_path, *argv(folder, *options)) as solver:
        solver.run()
        assert 0 < history(solver.folder)[0]["valid"]["loss"] < 100


BAD = {
    "missing manifest": (["datasource.valid=/nonexistent/music"], "datasource.valid.*/nonexistent/music"),
    "sample rates": (
        ["sample_rate=32000"],
        "sample_rate=32000, but latents.codec=mdct works at 16000: set sample_rate=16000",
    ),
    "unknown codec": (["latents.codec=opus"], "latents.codec='opus' is unknown: choose one of mdct, encodec, mel_vae"),
    "codec without weights": (["latents.codec=mel_vae"], "latents.mel_vae: set checkpoint"),
    "unknown mask": (["masking.kind=stripes"], "stripes.*random"),
    "patches": (["mdt.patch=[4,64]"], "patch"),
    "overlap": (["mdt.overlap=[4,0]"], "overlap"),
    "heads": (["mdt.num_heads=3"], "num_heads"),
    "rule": (["quality.rule=best"], "best.*official"),
    "noise range": (["quality.noise_range=[1,2]"], "quality.noise_range=.*of each level 1 to 5"),
    "unknown dropout": (["+condition_dropout.tempo=0.1"], "condition_dropout.tempo"),
    "compiled shards": (["fsdp.use=true", "compile.generate=default"], "fsdp.use=true compiles each block, for all"),
    "recorded shards": (["fsdp.use=true", "compile.train=reduce-overhead"], "'reduce-overhead' is unknown"),
    "shards on the CPU": (["fsdp.use=true", "device=cpu"], "fsdp.use=true needs GPUs"),
    "compile mode": (["compile.generate=fast"], "compile mode 'fast' is unknown"),
    "best metric": (["checkpoint.best_metric=pmos"], "checkpoint.best_metric=pmos is not measured by evaluate.metrics"),
    "sample rate of the data": (["datasource.max_sample_rate=8000"], "sample_rate=16000, but the data have 8000"),
    "fuser": (["fuser.sum=[description]", "fuser.cross=[]"], "fuser.sum"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_name_their_key(folder, tmp_path, case):
    options, message = BAD[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        with solver_in(tmp_path, *argv(folder, *options)) as solver:
            solver.run()


def test_empty_manifest_is_named(tmp_path):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "data.jsonl").write_text("")
    with pytest.raises(ValueError, match="datasource.train.*data.jsonl"):
        with solver_in(tmp_path, *argv(tmp_path / "music")):
            pass


@pytest.mark.parametrize("kind", ["cosine", "polynomial_decay"])
def test_a_run_that_is_all_warmup_ends(folder, tmp_path, kind):
    arguments = argv(folder, f"schedule.lr_scheduler={kind}", f"schedule.{kind}.warmup=4")
    with solver_in(tmp_path, *arguments) as solver:
        solver.run()
        assert solver.optimizer.param_groups[0]["lr"] == pytest.approx(solver.cfg.optim.lr)


@pytest.mark.parametrize("optimizer, fused", [("adamw", True), ("adam", True), ("dadam", None)])
def test_adam_is_fused_unless_told_otherwise(folder, tmp_path, optimizer, fused):
    with solver_in(tmp_path, *argv(folder, f"optim.optimizer={optimizer}")) as solver:
        assert solver.optimizer.param_groups[0].get("fused") is fused
    if fused:
        plain = ("+optim.adam.fused=false", f"optim.optimizer={optimizer}")
        with solver_in(tmp_path, *argv(folder, *plain)) as solver:
            assert solver.optimizer.param_groups[0]["fused"] is False


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_trains_and_generates_like_a_plain_one(folder, tmp_path):
    losses = []
    for mode in ("null", "default"):
        with solver_in(tmp_path / mode, *argv(folder, f"compile.train={mode}", f"compile.generate={mode}")) as solver:
            solver.run()
            losses.append([entry["train"]["loss"] for entry in solver.history])
            clips = solver.qamdt.generate(["slow piano"], quality=5)
            assert clips.isfinite().all()
            assert clips.std() > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
