"""The solver in this process: randomness, statistics, conditions, options that train and errors of the user."""

from __future__ import annotations

import json

import pytest
import torch

from audiocraft_qamdt.quality.noise_range import NoiseRange
from audiocraft_qamdt.solver import QAMDTSolver

from .helpers.audio_folder import make_folder
from .helpers.runs import history, one_epoch, solver_in
from .models.test_compiling import needs_compiler


def stage(solver, name):
    """Put the solver into a stage, as `run_stage` does."""
    solver._current_stage = name
    solver.model.train(name == "train")


def test_statistics_give_unit_variance_and_repeat(folder, tmp_path):
    with solver_in(tmp_path, *one_epoch(folder)) as solver:
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

    with solver_in(tmp_path, *one_epoch(folder)) as solver:
        stage(solver, "train")
        infos = next(iter(solver.dataloaders["train"]))[1]
        base = draw(0)
        assert torch.equal(draw(0), base)
        assert not torch.equal(draw(1), base)
        assert not torch.equal(draw(0, rank=1), base)
        solver.cfg.seed += 1
        assert not torch.equal(draw(0), base)


RANGE = "quality.noise_range=[800,600,400,200,0]"


def test_a_noise_range_gives_what_worse_levels_draw_to_better_ones_and_changes_nothing_else(folder, tmp_path):
    latents, drawn = torch.zeros(4, 16, 160, 16), []
    for index, more in enumerate(([], [RANGE])):
        with solver_in(tmp_path / str(index), *one_epoch(folder, "quality.rule=even", *more)) as solver:
            stage(solver, "train")
            infos = next(iter(solver.dataloaders["train"]))[1]
            infos[0].pmos = None  # unknown quality is held to be the worst
            for step in range(40):
                drawn.append(
                    (solver._draw(step, latents, infos), [solver.qamdt.rule.level(i.pmos or 1) for i in infos])
                )
    given = 0
    for (plain, levels), (moved, _) in zip(drawn[:40], drawn[40:], strict=True):
        lowest = torch.tensor([1000 - 200 * level for level in levels])
        allowed = plain.timesteps >= lowest
        somebody = (plain.timesteps[:, None] >= lowest[None]).any(dim=1)
        assert plain.items is None
        assert (moved.timesteps >= lowest[moved.items]).all()
        assert torch.equal(moved.items[allowed], torch.arange(4)[allowed])
        assert torch.equal(moved.timesteps[somebody], plain.timesteps[somebody])
        assert torch.equal(moved.noise, plain.noise)
        assert torch.equal(moved.mask.hidden, plain.mask.hidden)
        given += (moved.items != torch.arange(4)).sum().item()
    assert given > 0


def test_an_item_that_takes_anothers_timestep_is_trained_with_its_own_words(folder, tmp_path):
    with solver_in(tmp_path, *one_epoch(folder, "quality.rule=even", RANGE)) as solver:
        stage(solver, "train")
        latents, infos = solver._latents_and_infos(next(iter(solver.dataloaders["train"])))
        for info, pmos in zip(infos, (5.0, 1.0, 1.0, 1.0), strict=True):
            info.pmos = pmos
        seen = []
        solver._attributes = lambda idx, chosen: seen.extend(chosen) or QAMDTSolver._attributes(solver, idx, chosen)
        draws = solver._draw(0, latents, infos)
        _, timesteps, trained = solver._losses(0, latents, infos)
        assert torch.equal(timesteps, draws.timesteps)
        assert [infos.index(info) for info in trained] == draws.items.tolist()
        assert trained == seen
        assert draws.items.tolist().count(0) > 1


def measured_range(folder, lowest):
    """Put a measurement for the tests' recipe into a data set's quality.json."""
    content = json.loads((folder / "quality.json").read_text())
    fields = dict.fromkeys(NoiseRange.__dataclass_fields__)
    content["noise_range"] = {**fields, "codec": "mdct", "rule": "even", "lowest": lowest}
    (folder / "quality.json").write_text(json.dumps(content))


@pytest.mark.parametrize("flow", [[], ["diffusion.schedule.kind=flow", "diffusion.schedule.prediction=null"]], ids=str)
def test_a_measured_noise_range_trains_and_does_not_change_on_resume(tmp_path, flow):
    audio = make_folder(tmp_path / "audio")
    options = one_epoch(audio, "conditioner=qamdt/prefix_clip_noise", "conditioners.description.model=words", *flow)
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
        with solver_in(tmp_path, *one_epoch(audio, "quality.noise_range=measured", "quality.rule=official")):
            pass


def test_validation_draws_the_same_for_every_run_and_epoch(folder, tmp_path):
    latents = torch.zeros(4, 16, 160, 16)
    drawn = []
    for seed in (1, 2):
        with solver_in(tmp_path, *one_epoch(folder, f"seed={seed}")) as solver:
            stage(solver, "valid")
            drawn.append(solver._draw_fixed(1, latents))
    assert torch.equal(drawn[0].noise, drawn[1].noise)
    assert torch.equal(drawn[0].timesteps, drawn[1].timesteps)
    assert drawn[0].mask is None


def test_conditions_are_dropped_in_training_only(folder, tmp_path):
    with solver_in(
        tmp_path, *one_epoch(folder, "condition_dropout.description=1", "condition_dropout.quality=1")
    ) as solver:
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

    with solver_in(tmp_path, *one_epoch(folder, *dropout, "dataset.batch_size=16")) as solver:
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
    with solver_in(tmp_path, *one_epoch(half, "dataset.batch_size=8", "condition_dropout.quality=0")) as solver:
        solver.restore()
        stage(solver, "train")
        batch = next(iter(solver.dataloaders["train"]))
        unscored = [int(info.description.split()[-1]) % 2 == 0 for info in batch[1]]
        levels = solver.model.encode_conditions(solver._attributes(0, batch[1]))["quality"]["clip"]
        assert (levels == 0).tolist() == unscored
        assert 0 < sum(unscored) < 8
        assert solver.run_step(0, batch, {})["unscored"] == sum(unscored) / 8


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_trains(folder, tmp_path, precision):
    with solver_in(tmp_path, *one_epoch(folder, "autocast=true", f"autocast_dtype={precision}")) as solver:
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
    with solver_in(tmp_path, *one_epoch(folder, *options)) as solver:
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
        with solver_in(tmp_path, *one_epoch(folder, *options)) as solver:
            solver.run()


def test_empty_manifest_is_named(tmp_path):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "data.jsonl").write_text("")
    with pytest.raises(ValueError, match="datasource.train.*data.jsonl"):
        with solver_in(tmp_path, *one_epoch(tmp_path / "music")):
            pass


@pytest.mark.parametrize("kind", ["cosine", "polynomial_decay"])
def test_a_run_that_is_all_warmup_ends(folder, tmp_path, kind):
    arguments = one_epoch(folder, f"schedule.lr_scheduler={kind}", f"schedule.{kind}.warmup=4")
    with solver_in(tmp_path, *arguments) as solver:
        solver.run()
        assert solver.optimizer.param_groups[0]["lr"] == pytest.approx(solver.cfg.optim.lr)


@pytest.mark.parametrize("optimizer, fused", [("adamw", True), ("adam", True), ("dadam", None)])
def test_adam_is_fused_unless_told_otherwise(folder, tmp_path, optimizer, fused):
    with solver_in(tmp_path, *one_epoch(folder, f"optim.optimizer={optimizer}")) as solver:
        assert solver.optimizer.param_groups[0].get("fused") is fused
    if fused:
        plain = ("+optim.adam.fused=false", f"optim.optimizer={optimizer}")
        with solver_in(tmp_path, *one_epoch(folder, *plain)) as solver:
            assert solver.optimizer.param_groups[0]["fused"] is False


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_trains_and_generates_like_a_plain_one(folder, tmp_path):
    losses = []
    for mode in ("null", "default"):
        with solver_in(
            tmp_path / mode, *one_epoch(folder, f"compile.train={mode}", f"compile.generate={mode}")
        ) as solver:
            solver.run()
            losses.append([entry["train"]["loss"] for entry in solver.history])
            clips = solver.qamdt.generate(["slow piano"], quality=5)
            assert clips.isfinite().all()
            assert clips.std() > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
