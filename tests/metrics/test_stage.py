"""The solver's evaluate stage, whole, on the playground."""

from __future__ import annotations

import json
import math
import re

import pytest
import soundfile
import torch

from audiocraft_qamdt.data.dataset import QualityMusicInfo
from audiocraft_qamdt.metrics.base import Network, Number, Outputs
from audiocraft_qamdt.metrics.networks import NETWORKS
from audiocraft_qamdt.metrics.protocols import PROTOCOLS
from audiocraft_qamdt.metrics.signal import Level
from audiocraft_qamdt.metrics.stage import (
    evaluation_file,
    generated_batch,
    read_intervals,
    stage_metrics,
    write_evaluation,
)
from audiocraft_qamdt.metrics.table import METRICS, Evaluation
from audiocraft_qamdt.playground.dataset import make_dataset
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.predictors.acoustic import Acoustic

from ..helpers.runs import TINY, dora, experiment, history, log_of, main_in, solver_in

from audiocraft.data.audio_dataset import AudioMeta

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
    assert {key for key in keys if not key.startswith("rtf")} <= set(numbers)
    assert len(keys) > len(numbers) - 4
    assert len(record["scores"]) == 20
    assert all("frechet_playground-1" in scores for scores in record["scores"].values())


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
    found = evaluation(tmp_path, folder, *small, *options, "evaluate.protocol=fadtk")
    assert list(found) == ["frechet_playground-1.fadtk/clean_n4/best1_seed0"]
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


LEVELS = {
    "loudness": {"format": "wav", "strategy": "loudness", "sample_rate": 16000, "loudness_headroom_db": 14},
    "rms": {"strategy": "rms"},
    "peak": {"strategy": "peak"},
}
NONE = {"strategy": "none"}
MEASURED = ("frechet", "kl", "kl_reverse", "kl_both")
SWITCHES = {"base": False, "frechet": ["loud"], "kl": ["loud"]}
OPTIONS = {"frechet": {"reference": None, "extrapolate": False, "per_clip": False}}


class Loud(Network):
    """A network that hears levels, as VGGish does: log energies of three bands."""

    name, dim, classes, module = "loud", 3, 3, torch.nn.Identity()

    def __init__(self, **_) -> None:
        pass

    def __call__(self, audio, sample_rate):
        bands = torch.stft(audio, 508, window=torch.hann_window(508), return_complex=True).abs().square()
        energies = (bands.view(3, -1, bands.shape[-1]).mean(1).T + 1e-3).log()  # [frames, 3]
        return Outputs(energies, (energies.mean(0) * torch.arange(3)).softmax(0))


@pytest.fixture
def loud(monkeypatch):
    monkeypatch.setitem(NETWORKS, "loud", Loud)


def music(clips=6):
    return torch.stack([torch.from_numpy(render(compose(3, index), 2.0, 16000)) for index in range(clips)])[:, None]


def measured(generated, reference, level, options=OPTIONS, protocol="ours"):
    infos = [
        QualityMusicInfo(AudioMeta(f"{index}.wav", 2.0, 16000), 0.0, 24000, 32000, 16000, 1)
        for index in range(len(generated))
    ]
    evaluation = Evaluation(stage_metrics(SWITCHES, options, "cpu", None, level, protocol))
    evaluation.update(generated_batch(generated, reference, infos, 1.0, level))
    return {number.metric: number.value for number in evaluation.numbers()}


@pytest.mark.parametrize("settings", LEVELS.values(), ids=LEVELS)
def test_references_12_db_below_what_is_generated_are_at_no_distance(loud, settings):
    audio = music()
    assert measured(audio, audio / 4, Level(settings)) == pytest.approx(dict.fromkeys(MEASURED, 0.0), abs=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_treats_references_as_generated_clips(loud, protocol):
    found = measured(audio := music(), audio / 4, Level(LEVELS["loudness"]), protocol=protocol)
    assert list(found.values()) == pytest.approx([0.0] * len(found), abs=1e-3)


def test_a_level_is_what_takes_12_db_away(loud):
    """With no level the same clips are at a distance, so that the test above is one."""
    found = measured(audio := music(), audio / 4, Level(NONE))
    assert min(found.values()) > 0.01


def test_a_reference_folder_12_db_below_what_is_generated_is_at_no_distance(loud, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    audio, folder = music(), tmp_path / "quiet"
    folder.mkdir()
    for index, clip in enumerate(audio[:, 0, :24000]):
        soundfile.write(folder / f"{index}.wav", clip.numpy() / 4, 16000, subtype="FLOAT")
    options = {"frechet": {**OPTIONS["frechet"], "reference": folder}}
    loud, as_it_is = (measured(audio, audio, Level(settings), options) for settings in (*LEVELS.values(), NONE)[::3])
    assert loud["frechet"] == pytest.approx(0, abs=1e-4)
    assert as_it_is["frechet"] > 0.01


@pytest.mark.parametrize("clip", [torch.zeros(1, 16000), 0.1 * torch.ones(1, 160)], ids=["silence", "short"])
def test_silence_and_clips_without_a_loudness_keep_their_level(clip):
    level = Level(LEVELS["loudness"])
    assert level(clip, 16000) is clip


def test_intervals_of_an_evaluation_are_read_by_key(tmp_path):
    with_one = Number("frechet", "playground-1", 3.0, "evaluate", 8, 1, 0, 0.5)
    write_evaluation(tmp_path, 2, [with_one, Number("rtf", "", 0.1, "", 8)], {})
    assert read_intervals(tmp_path, 2) == {with_one.key: 0.5}
    assert read_intervals(tmp_path, 1) == {}


@pytest.mark.parametrize("content", ["[]", "{}", '{"numbers": [{"key": "a"}]}', '{"numbers": 3}'])
def test_another_file_in_an_evaluations_place_is_named(tmp_path, content):
    path = evaluation_file(tmp_path, 1)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: it is not an evaluation's file"):
        read_intervals(tmp_path, 1)
