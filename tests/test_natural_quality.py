"""`tools/natural_quality.py`: excerpts of real music at one loudness, and copies that a codec or a room damaged."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from audiocraft_qamdt.data.manifest import read_manifest, read_sidecar, sidecar_path
from audiocraft_qamdt.playground.dataset import LEVEL, make_dataset
from audiocraft_qamdt.quality.annotate import score_clip
from audiocraft_qamdt.quality.predictors.base import load_predictor
from tools import natural_quality
from tools.natural_quality import COMPRESSION, DAMAGES, main

SPLITS = {"train": 0.6, "valid": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    make_dataset(folder, tracks=10, duration=5.0, degraded=0.0, splits=SPLITS)
    return folder


@pytest.fixture(scope="module")
def natural(music, tmp_path_factory):
    folder = tmp_path_factory.mktemp("natural")
    main([str(music), str(folder), "--seconds", "2", "--most", "3", "--damaged", "0.7"])
    return folder


def tracks(folder, split="train"):
    return [(row, read_sidecar(sidecar_path(row["path"]))) for row in read_manifest(folder / split)]


def test_every_track_gives_excerpts_and_a_part_of_them_copies(natural, music):
    kinds = [facts["damage"] for _, facts in tracks(natural)]
    assert kinds.count("none") == 2 * len(tracks(music))  # five seconds hold two excerpts of two seconds
    assert {"none", *DAMAGES} == set(kinds)
    assert len(kinds) < 4 * len(tracks(music))
    for split in SPLITS:
        assert all(row["duration"] == 2 for row, _ in tracks(natural, split))


def test_loudness_does_not_tell_quality(natural):
    levels = [np.sqrt(np.mean(np.square(soundfile.read(row["path"])[0]))) for row, _ in tracks(natural)]
    assert max(levels) <= LEVEL * 1.01
    assert np.median(levels) == pytest.approx(LEVEL, rel=0.01)


def test_a_copy_has_its_originals_words(natural, music):
    said = {facts["description"] for _, facts in tracks(music)}
    assert {facts["description"] for _, facts in tracks(natural)} == said


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_heard(music, kind):
    predictor, change = load_predictor("acoustic", "cpu"), []
    for index, (row, _) in enumerate(tracks(music)):
        audio, sample_rate = soundfile.read(row["path"], dtype="float32")
        worse = DAMAGES[kind](audio, sample_rate, np.random.default_rng(index)).astype(np.float32)
        assert worse.shape == audio.shape
        assert np.abs(worse).max() <= 1
        before, after = (
            score_clip(predictor, torch.from_numpy(one)[None], sample_rate).mean() for one in (audio, worse)
        )
        change.append(float(after - before))
    assert np.mean(change) < -0.3


@pytest.mark.parametrize("level", COMPRESSION)
def test_a_codecs_copy_is_in_time_with_its_original(music, level, monkeypatch):
    monkeypatch.setattr(natural_quality, "COMPRESSION", (level,))
    audio, sample_rate = soundfile.read(tracks(music)[0][0]["path"], dtype="float32")
    heard = natural_quality.through_codec(audio, sample_rate, np.random.default_rng(0))
    similar = np.correlate(heard, audio[2000:-2000], "valid")
    assert abs(int(similar.argmax()) - 2000) <= 1


def test_what_clips_are_compared_with_has_no_copies(natural):
    assert {facts["damage"] for _, facts in tracks(natural, "test")} == {"none"}


@pytest.mark.parametrize("more", [["--seconds", "3"], ["--damaged", "0.1"], ["--seed", "4"]])
def test_other_settings_are_refused_by_name(music, natural, capsys, more):
    before = sorted(natural.rglob("*"))
    with pytest.raises(SystemExit):
        main([str(music), str(natural), "--seconds", "2", "--most", "3", "--damaged", "0.7", *more])
    assert f"made with another {more[0].removeprefix('--')} (" in capsys.readouterr().err
    assert sorted(natural.rglob("*")) == before


def test_the_music_itself_and_a_file_are_no_place(music, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out, says in ((music, "is the music itself"), (tmp_path / "file", str(tmp_path / "file"))):
        with pytest.raises(SystemExit) as error:
            main([str(music), str(out), "--seconds", "2"])
        assert error.value.code == 2
        assert says in capsys.readouterr().err


def test_what_is_there_is_not_made_again_and_a_lost_file_is(natural, music):
    rows = [row["path"] for row, _ in tracks(natural)]
    before = {path: open(path, "rb").read() for path in rows}
    stamp = sidecar_path(rows[1]).stat().st_mtime_ns
    (natural / "train" / rows[0].rsplit("/", 1)[1]).unlink()
    main([str(music), str(natural), "--seconds", "2", "--most", "3", "--damaged", "0.7"])
    assert {path: open(path, "rb").read() for path in rows} == before
    assert sidecar_path(rows[1]).stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--damaged", "1.5"], "--damaged 1.5: give a share from 0 to 1"),
        (["--seconds", "0"], "--seconds and --most must be above 0, and finite"),
        (["--seconds", "nan"], "--seconds and --most must be above 0, and finite"),
        (["--seconds", "60"], "is as long as --seconds 60"),
        (["--most", "0"], "--seconds and --most must be above 0, and finite"),
    ],
)
def test_bad_arguments_are_named(music, tmp_path, capsys, arguments, says):
    with pytest.raises(SystemExit) as error:
        main([str(music), str(tmp_path / "out"), *arguments])
    assert error.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_music_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "out")])
    assert str(tmp_path / "train") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
