"""The grid files: what they launch, which runs they share, and what a wrong override does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dora.grid import RunGridArgs, run_grid

from audiocraft_qamdt.cli import main as qamdt
from audiocraft_qamdt.compat import CONFIG_ROOT
from audiocraft_qamdt.sweeps.arms import Sweep, _name, _read
from audiocraft_qamdt.sweeps.runner import collect, find_explorer, grid_names

from .helpers.audio_folder import make_folder
from .helpers.runs import main_in

FOLDER = CONFIG_ROOT.parent / "grids"
NAMES = grid_names(FOLDER)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("QAMDT_SOLVER", "QAMDT_DSET", "QAMDT_ARGS", "QAMDT_EVALUATION", "QAMDT_FROM", "QAMDT_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QAMDT_SEEDS", "0")


def launched(name: str, outputs: Path) -> dict[str, list[str]]:
    """Signature → overrides of a grid's experiments."""
    main = main_in(outputs)
    return {one.xp.sig: list(one.xp.argv) for one in collect(main, find_explorer(main, f"qamdt.{name}"))}


def test_all_grids_are_there_and_short():
    wanted = "mask_ratio mos_granularity masked_vs_full patch_overlap levels guidance controls pretrained_eval".split()
    assert set(NAMES) >= {f"qamdt.{name}" for name in wanted}
    assert all(len(path.read_text().splitlines()) <= 60 for path in (FOLDER / "qamdt").glob("[!_]*.py"))


def test_what_the_sweeps_launch_and_share(tmp_path):
    runs = {
        name: launched(name, tmp_path)
        for name in ("mask_ratio", "mos_granularity", "levels", "patch_overlap", "masked_vs_full", "controls")
    }
    assert {name: len(found) for name, found in runs.items()} == {
        "mask_ratio": 11, "mos_granularity": 8, "levels": 4, "patch_overlap": 3, "masked_vs_full": 3, "controls": 6
    }  # fmt: skip
    common = set.intersection(*(set(found) for found in runs.values()))
    assert len(common) == 1, "prefix_clip with the published masking is one run for all grids"
    assert len(set(runs["masked_vs_full"]) & set(runs["mask_ratio"])) == 2, "and so is the model without masks"
    assert len(set(runs["controls"]) & set(runs["mos_granularity"])) == 2, "and the one that knows no quality"


@pytest.mark.parametrize("name, count", [("negative_prompt", 3), ("patch_size", 5), ("filtering", 5), ("backbone", 4)])
def test_ablations_of_the_paper_share_what_they_can(name, count, tmp_path):
    runs = launched(name, tmp_path)
    assert len(runs) == count
    if name != "patch_size":
        assert len(set(runs) & set(launched("controls", tmp_path))) == 2, "text alone, and quality"
    if name == "negative_prompt":
        assert any("low quality" in argument for argv in runs.values() for argument in argv)


@pytest.mark.parametrize("name, cache", [("claim", None), ("claim_95", "latents")])
def test_the_claims_baseline_is_the_arm_that_knows_no_quality_and_sees_all_tracks(tmp_path, monkeypatch, name, cache):
    if cache:
        monkeypatch.setenv("QAMDT_CACHE", cache)
    main = main_in(tmp_path)
    makefile = (FOLDER.parent / "Makefile").read_text()
    baseline = re.search(r"^CLAIM_BASELINE = (.*?[^\\])\n", makefile, re.M | re.S)[1]
    baseline = re.sub(r"\s*\\\n\s*", " ", baseline)
    sheep = collect(main, find_explorer(main, f"qamdt.{name}"))
    runs = [_read(main, Path(main.init_xp(one.xp).sig)) for one in sheep]
    arms, _ = _name(runs)
    found = runs[arms.index(Sweep(name, {}, arms, []).arm(baseline))]
    assert len(runs) == 8
    assert found.config.fuser.prepend == []
    assert found.config.dataset.train.filter_below is None
    assert found.config.quality.noise_range is None
    assert found.config.continue_from is None
    evaluated = next(run for run in runs if run.config.continue_from)
    assert evaluated.config.continue_from == f"//sig/{found.signature}", "of the same grid, so that it waits for it"
    caches = {run.config.cache.path for run in runs if run is not evaluated}
    assert len(caches) == (4 if cache else 1), "each share of the degraded tracks has latents of its own"


def test_seeds_recipe_and_more_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("QAMDT_SEEDS", "3,4")
    monkeypatch.setenv("QAMDT_SOLVER", "qamdt/debug")
    monkeypatch.setenv("QAMDT_ARGS", "optim.epochs=1 'label=a b'")
    argvs = list(launched("levels", tmp_path).values())
    typed = {"solver=qamdt/debug", "optim.epochs=1", "label=a b"}
    assert len(argvs) == 8
    assert all(typed <= set(argv) for argv in argvs)
    assert ["seed=3" in argv for argv in argvs] == [True] * 4 + [False] * 4


def test_grids_that_only_evaluate_take_a_trained_runs_settings(tmp_path, monkeypatch):
    main = main_in(tmp_path)
    source = main.init_xp(main.get_xp(["solver=qamdt/debug", "mdt.dim=32"])).sig
    monkeypatch.setenv("QAMDT_FROM", source)
    monkeypatch.setenv("QAMDT_SCALES", "1,2")
    monkeypatch.setenv("QAMDT_QUALITY_SCALES", "3")
    argvs = list(launched("guidance", tmp_path).values())
    wanted = {"mdt.dim=32", f"continue_from=//sig/{source}", "execute_only=evaluate"}
    assert len(argvs) == 3
    assert all(wanted <= set(argv) for argv in argvs)
    monkeypatch.setenv("QAMDT_MODELS", f"//sig/{source},/some/export")
    monkeypatch.setenv("QAMDT_STEPS", "5")
    monkeypatch.setenv("QAMDT_LEVELS", "1,5")
    assert len(launched("pretrained_eval", tmp_path)) == 8
    monkeypatch.setenv("QAMDT_FROM", "00000000")
    with pytest.raises(SystemExit):
        launched("guidance", tmp_path)


def test_the_benchmark_evaluates_models_as_the_papers_table_does(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "set", tracks=3)
    monkeypatch.setenv("QAMDT_MODELS", "/some/export,owner/name")
    with pytest.raises(SystemExit):
        launched("benchmark", tmp_path)
    monkeypatch.setenv("QAMDT_SET", str(folder))
    argvs = list(launched("benchmark", tmp_path).values())
    wanted = {"solver=qamdt", f"folder={folder}", "execute_only=evaluate", "dataset.evaluate.num_samples=3"}
    assert len(argvs) == 2
    assert all(wanted <= set(argv) for argv in argvs)
    assert {"continue_from=/some/export", "continue_from=owner/name"} <= {one for argv in argvs for one in argv}
    cfg = main_in(tmp_path).get_xp(argvs[0]).cfg
    assert (cfg.sample_rate, cfg.dataset.segment_duration) == (16000, 10.24)
    assert (cfg.evaluate.metrics.frechet, cfg.evaluate.metrics.kl) == (["vggish"], ["passt"])


def test_a_wrong_override_ends_with_one_line_and_starts_nothing(tmp_path, monkeypatch, capsys):
    main_in(tmp_path)
    monkeypatch.setenv("QAMDT_ARGS", "optim.epoch=1")
    with pytest.raises(SystemExit) as ended:
        qamdt(["grid", "qamdt.levels"])
    assert ended.value.code == 1
    assert "optim.epoch=1: the config has no key optim.epoch, did you mean optim.epochs?" in capsys.readouterr().err
    assert not list(tmp_path.glob("xps/*"))
    assert not list(tmp_path.glob("grids/*"))


@pytest.mark.parametrize("name", ["levels", "masked_vs_full"])
def test_nor_does_dora_itself_whose_pool_composes_the_configs(tmp_path, monkeypatch, capsys, name):
    main = main_in(tmp_path)
    monkeypatch.setenv("QAMDT_ARGS", "conditioner=qamdt/loud")
    with pytest.raises(SystemExit):
        run_grid(main, find_explorer(main, f"qamdt.{name}"), f"qamdt.{name}", args=RunGridArgs(monitor=False))
    assert "conditioner=qamdt/loud: " in capsys.readouterr().err
    assert not list(tmp_path.glob("xps/*"))
    assert not list(tmp_path.glob("grids/*/*"))


def test_nor_does_a_value_of_the_wrong_kind(tmp_path, monkeypatch, capsys):
    main_in(tmp_path)
    monkeypatch.setenv("QAMDT_ARGS", "optim.epochs=many")
    with pytest.raises(SystemExit):
        qamdt(["grid", "qamdt.levels"])
    assert "optim.epochs=many: optim.epochs is a number" in capsys.readouterr().err
    assert not list(tmp_path.glob("xps/*"))
    assert not list(tmp_path.glob("grids/*"))


def test_dry_run_lists_and_makes_nothing(tmp_path, capsys):
    main_in(tmp_path)
    assert qamdt(["grid", "qamdt.levels", "--dry-run", "--patterns", "official"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("PEN") == 1
    assert "\x1b" not in shown
    assert not list(tmp_path.glob("xps/*"))
    assert not list(tmp_path.glob("grids/*"))


@pytest.mark.parametrize(
    "arguments", [["qamdt.nothing"], ["qamdt.levels", "--patterns", "zzz"], ["qamdt.levels", "--jobs", "0"]]
)
def test_unknown_grids_patterns_and_numbers_are_refused(tmp_path, arguments):
    main_in(tmp_path)
    assert qamdt(["grid", *arguments]) == 2


def test_metrics_are_found_by_the_quantity_they_are_of(tmp_path):
    main = main_in(tmp_path)
    find_explorer(main, "qamdt.levels")
    from grids.qamdt._explorers import find_metric

    values = {
        "frechet_inf_playground-1/evaluate_n64/best1_seed0": 1.0,
        "frechet_playground-1/evaluate_n64/best1_seed0": 2.0,
        "kl_reverse_playground-1/evaluate_n64/best1_seed0": 3.0,
        "kl_playground-1/evaluate_n64/best1_seed0": 4.0,
        "silent/n64/best1_seed0": 5.0,
    }
    found = [find_metric(values, name) for name in ("frechet", "frechet_inf", "kl", "silent", "inception")]
    assert found == [2.0, 1.0, 4.0, 5.0, None]
