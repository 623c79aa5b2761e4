"""The solver's evaluate stage, whole, on the playground."""

from __future__ import annotations

import json
import math

import pytest
import torch

from audiocraft_qamdt.metrics.networks import NETWORKS
from audiocraft_qamdt.metrics.table import METRICS
from audiocraft_qamdt.playground.dataset import make_dataset
from audiocraft_qamdt.quality.predictors.acoustic import Acoustic

from ..helpers.runs import TINY, dora, experiment, history, log_of, main_in, solver_in

PLAYGROUND = ["solver/qamdt/evaluation=playground", "dataset.evaluate.num_samples=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    splits = make_dataset(tmp_path_factory.mktemp("music"), tracks=20, duration=3.0, splits={"all": 1.0})
    return splits["all"]


def argv(folder, *more):
    return [*TINY, f"folder={folder}", "optim.epochs=1", "optim.updates_per_epoch=2", "generate.every=null", *more]


@pytest.mark.slow
def test_evaluate_runs_end_to_end_with_all_metrics_that_need_no_download(folder, tmp_path):
    with solver_in(tmp_path, *argv(folder, "evaluate.every=null")) as solver:
        solver.run()
    evaluate = argv(folder, *PLAYGROUND, "execute_only=evaluate", f"continue_from=//sig/{solver.folder.name}")
    assert dora(tmp_path, *evaluate).returncode == 0, log_of(tmp_path)[-3000:]
    run = experiment(tmp_path, *evaluate)
    numbers = history(run)[0]["evaluate"]
    paired = f"{folder.name}_n20/best1_seed0"
    assert set(numbers) >= {
        "loss",
        "chroma_cosine",
        f"audiocraft_chroma_cosine_chroma_base/{paired}",
        f"frechet_playground-1/{paired}",
        f"frechet_inf_playground-1/{paired}",
        "inception_playground-1/n20/best1_seed0",
        f"kl_playground-1/{paired}",
        f"kl_reverse_playground-1/{paired}",
        f"pmos_acoustic-{Acoustic.version}/n20/best1_seed0",
        "silent/n20/best1_seed0",
        "clipped/n20/best1_seed0",
    }
    assert all(map(math.isfinite, numbers.values()))
    record = json.loads((run / "evaluation" / "1.json").read_text())
    keys = {number["key"] for number in record["numbers"]}
    assert {key for key in keys if not key.startswith("rtf")} <= set(numbers) and len(keys) > len(numbers) - 4
    assert len(record["scores"]) == 20 and all("frechet_playground-1" in scores for scores in record["scores"].values())


@pytest.mark.parametrize("recipe", ["none", "playground", "objective_eval"])
def test_recipes_fit_the_published_solver(folder, tmp_path, recipe):
    arguments = ["solver=qamdt", f"solver/qamdt/evaluation={recipe}", "dset=folder", f"folder={folder}"]
    config = main_in(tmp_path).get_xp(arguments).cfg
    assert config.dataset.evaluate.num_samples == 1000, "AudioCraft wants a number where segments have a duration"
    assert set(config.evaluate.metrics) - {"base"} == set(METRICS)
    assert set(NETWORKS) <= set(config.metrics)


def evaluation(outputs, folder, *more):
    with solver_in(outputs, *argv(folder, "execute_only=evaluate", *more)) as solver:
        return evaluate_in(solver)


def evaluate_in(solver):
    solver.model.eval()
    with torch.no_grad():
        numbers = solver.run_stage("evaluate", solver.evaluate_audio_generation)
    return {key: value for key, value in numbers.items() if key != "duration"}


def test_batch_size_changes_no_number(folder, tmp_path):
    """Generation included: each clip's noise is its own, and the network sees items alone."""
    found = [
        evaluation(tmp_path, folder, *PLAYGROUND, "evaluate.metrics.rtf=false", f"dataset.batch_size={size}")
        for size in (5, 20)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-5)


def test_reference_folder_and_what_is_off(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["dataset.evaluate.num_samples=4", "dataset.batch_size=4"]
    assert evaluation(tmp_path, folder, *small) == {}
    clean = make_dataset(tmp_path / "clean", tracks=3, duration=2.0, seed=5, splits={"clean": 1.0})["clean"]
    options = ["evaluate.metrics.frechet=[playground]", f"metrics.frechet.reference={clean}"]
    found = evaluation(tmp_path, folder, *small, *options)
    assert list(found) == ["frechet_playground-1/clean_n4/best1_seed0"]
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_generated_nan_names_the_file(folder, tmp_path):
    with solver_in(tmp_path, *argv(folder, *PLAYGROUND, "execute_only=evaluate")) as solver:
        for parameter in solver.model.parameters():
            parameter.data.fill_(math.nan)
        with pytest.raises(ValueError, match=r"generated for .*track_\d+.flac@.*NaN"):
            evaluate_in(solver)


def test_missing_weights_are_said_before_training(folder, tmp_path):
    options = ["evaluate.metrics.frechet=[vggish]", "metrics.vggish.checkpoint=/nowhere/vggish.pth"]
    with pytest.raises(RuntimeError, match="(?s)VGGish.*/nowhere/vggish.pth.*github.com.*metrics.vggish.checkpoint"):
        with solver_in(tmp_path, *argv(folder, *options)):
            pass
