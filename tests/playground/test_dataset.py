"""The playground on disk is an AudioCraft data set with true labels; making it again changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiocraft_qamdt import cli
from audiocraft_qamdt.data.manifest import read_manifest, read_sidecar, write_sidecar_key
from audiocraft_qamdt.playground.dataset import SPLITS, draw_faults, make_dataset, make_track
from audiocraft_qamdt.playground.degradation import CALIBRATION_KINDS

RECIPE = {"tracks": 8, "duration": 1.5, "seed": 3, "sample_rate": 16000}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    make_dataset(tmp_path / "data", **RECIPE)
    return tmp_path / "data"


def test_audiocraft_reads_the_data_set(folder):
    from audiocraft.data.audio_dataset import find_audio_files, load_audio_meta
    from audiocraft.data.music_dataset import MusicDataset

    for split in SPLITS:
        metas = load_audio_meta(folder / split / "data.jsonl.gz")
        assert metas == find_audio_files(folder / split, minimal=False)
        dataset = MusicDataset.from_meta(
            folder / split,
            segment_duration=1.0,
            sample_rate=16000,
            channels=1,
            num_samples=4,
            info_fields_required=True,
        )
        wav, info = dataset[0]
        assert wav.shape == (1, 16000)
        assert wav.abs().max() > 0.01
        assert info.description
        assert info.has_music_meta
        assert info.bpm > 60


def test_splits_share_no_track(folder):
    stems = [Path(row["path"]).stem for split in SPLITS for row in read_manifest(folder / split)]
    assert sorted(stems) == [f"track_{index:05d}" for index in range(8)]
    assert len(read_manifest(folder / "train")) == 4  # 0.7 of those that are left when every split has one


def test_a_sidecar_tells_the_truth(folder):
    for row in read_manifest(folder / "train"):
        index = int(Path(row["path"]).stem.split("_")[1])
        audio, sidecar = make_track(3, index, 1.5, 16000)
        assert read_sidecar(Path(row["path"]).with_suffix(".json")) == json.loads(json.dumps(sidecar))
        assert np.array_equal(soundfile.read(row["path"], dtype="int16")[0], audio)
        truth = sidecar["playground"]
        assert truth["severity"] == pytest.approx(np.mean(truth["severity_curve"]), abs=1e-3)
        assert len(truth["severity_curve"]) * truth["hop"] == 1.5
        assert set(truth["kinds"]) <= set(CALIBRATION_KINDS)
        assert bool(truth["kinds"]) == (truth["severity"] > 0)
        assert "quality" not in sidecar["description"]
        assert "quality" not in sidecar


def test_the_same_recipe_gives_the_same_bytes(folder, tmp_path):
    make_dataset(tmp_path / "again", **RECIPE)
    again = {name: data for name, data in contents(tmp_path / "again").items() if not name.endswith(".gz")}
    assert again == {name: data for name, data in contents(folder).items() if not name.endswith(".gz")}
    other, _ = make_track(4, 0, 1.5, 16000)
    assert not np.array_equal(other, make_track(3, 0, 1.5, 16000)[0])


def test_made_again_what_is_missing_is_completed_and_annotations_stay(folder):
    before = contents(folder)
    rows = read_manifest(folder / "train")
    for name in (rows[0]["path"], str(Path(rows[1]["path"]).with_suffix(".json")), folder / "valid" / "data.jsonl.gz"):
        Path(name).unlink()
    make_dataset(folder, **RECIPE)
    assert contents(folder) == before
    write_sidecar_key(rows[0]["path"], "quality", {"pmos": 3.0, "predictor": "x", "version": "1"})
    annotated = contents(folder)
    make_dataset(folder, **RECIPE)
    assert contents(folder) == annotated


def test_another_recipe_in_the_same_folder_is_refused(folder):
    with pytest.raises(ValueError, match="made with another duration and seed"):
        make_dataset(folder, **RECIPE | {"seed": 4, "duration": 2.0})


@pytest.mark.parametrize("tracks, splits", [(1, SPLITS), (5, {"train": 0.0}), (5, {})])
def test_splits_that_cannot_be_filled_are_refused(tmp_path, tracks, splits):
    with pytest.raises(ValueError, match="each split needs a share above 0 and a track"):
        make_dataset(tmp_path, tracks=tracks, splits=splits)
    assert not any(tmp_path.iterdir()), "another call may make one here"


def test_most_tracks_are_degraded_often_in_several_ways_and_some_change_along_the_track():
    faults = [draw_faults(0, index) for index in range(2000)]
    bad = [fault for fault in faults if fault.kinds]
    assert len(bad) / len(faults) == pytest.approx(0.7, abs=0.03)
    assert np.mean([len(fault.kinds) > 1 for fault in bad]) == pytest.approx(0.91, abs=0.03)
    assert np.mean([fault.start != fault.stop for fault in bad]) == pytest.approx(0.3, abs=0.04)
    assert min(sum(kind in fault.kinds for fault in bad) for kind in CALIBRATION_KINDS) > 700
    assert draw_faults(0, 5) == faults[5]


def test_the_share_of_degraded_tracks_is_a_choice():
    assert not any(draw_faults(0, index, degraded=0.0).kinds for index in range(50))
    half, most = ([bool(draw_faults(0, index, degraded=share).kinds) for index in range(200)] for share in (0.5, 0.9))
    assert 70 < sum(half) < 130
    assert all(later for earlier, later in zip(half, most, strict=True) if earlier)


def test_the_share_of_changing_tracks_is_a_choice_that_leaves_the_rest_alone():
    none, most = ([draw_faults(0, index, changing=share) for index in range(200)] for share in (0.0, 0.9))
    assert not any(fault.start != fault.stop for fault in none)
    assert 100 < sum(fault.start != fault.stop for fault in most) < 150  # of about 140 degraded ones
    assert [(fault.kinds, fault.start) for fault in none] == [(fault.kinds, fault.start) for fault in most]


def test_a_data_set_has_the_share_of_changing_tracks_that_is_asked_for(tmp_path):
    def changing(share: float) -> list[bool]:
        folder = tmp_path / str(share)
        make_dataset(folder, tracks=4, duration=2.0, degraded=1.0, changing=share, splits={"train": 1.0})
        sidecars = sorted((folder / "train").glob("*.json"))
        curves = [json.loads(path.read_text())["playground"]["severity_curve"] for path in sidecars]
        return [len(set(curve)) > 1 for curve in curves]

    assert changing(0.0) == [False] * 4
    assert changing(1.0) == [True] * 4
    with pytest.raises(ValueError, match="changing=2.0: give a share from 0 to 1"):
        changing(2.0)


def test_a_folder_made_before_changing_was_a_choice_is_completed(folder):
    path = folder / "playground.json"
    recipe = json.loads(path.read_text())
    del recipe["changing"]
    path.write_text(json.dumps(recipe))
    make_dataset(folder, **RECIPE)
    with pytest.raises(ValueError, match="made with another changing"):
        make_dataset(folder, **RECIPE, changing=0.8)


def test_clean_tracks_are_what_was_played_at_the_level_of_all(tmp_path):
    from audiocraft_qamdt.playground.dataset import LEVEL
    from audiocraft_qamdt.playground.synthesis import compose, render

    played, (audio, sidecar) = render(compose(3, 1), 1.5, 16000), make_track(3, 1, 1.5, 16000, degraded=0.0)
    gain = np.dot(audio, played) / np.dot(played, played)
    assert np.abs(audio - gain * played).max() <= 0.51
    assert sidecar["playground"]["severity"] == 0
    assert sidecar["playground"]["kinds"] == []
    levels = [np.sqrt(np.mean((make_track(3, index, 1.5, 16000)[0] / 32768) ** 2)) for index in range(20)]
    assert max(levels) < 1.01 * LEVEL
    assert np.median(levels) > 0.99 * LEVEL


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_a_split_is_a_folder_of_the_set(tmp_path, name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["playground", str(tmp_path / "set"), "--tracks", "2", "--splits", f"{name}=1"])
    assert ended.value.code == 2
    assert "a split is a folder's name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_says_how_to_train_on_what_it_made(tmp_path, capsys):
    folder = tmp_path / "set"
    assert cli.main(["playground", str(folder), "--tracks", "2", "--duration", "1", "--splits", "train=1"]) == 0
    assert f"dset=playground datasource.train={folder}/train" in capsys.readouterr().out
