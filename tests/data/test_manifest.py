"""Manifests and sidecars: AudioCraft's own formats, written whole or not at all, read with errors that say where."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audiocraft_qamdt.data import manifest
from audiocraft_qamdt.data.manifest import (
    Quality,
    build_manifest,
    find_manifest,
    read_manifest,
    read_quality,
    read_sidecar,
    write_manifest,
    write_sidecar_key,
)
from audiocraft_qamdt.utils.audio import AudioInfo
from audiocraft_qamdt.utils.files import replacing

FIELDS = {"pmos": 3.7, "hop": 1.0, "frames": [3.0, 4.0, 5.0], "predictor": "acoustic", "version": "1"}


def quality(**changes) -> Quality:
    return Quality.from_dict(FIELDS | changes, "track.json")


def write_tone(path: Path, seconds: float = 2.0, gain: float = 0.5, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * 16000)) / 16000
    soundfile.write(path, gain * np.sin(2 * np.pi * 220 * time), 16000, **how)
    return path


# Quality


def test_quality_survives_json():
    assert Quality.from_dict(json.loads(json.dumps(quality().to_dict())), "track.json") == quality()
    assert quality().to_dict() == FIELDS


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"pmos": math.nan}, "pmos must be a finite"),
        ({"pmos": 5.1}, "pmos must be between 1 and 5"),
        ({"pmos": "3"}, "pmos"),
        ({"pmos": True}, "pmos"),
        ({"pmos": None}, "pmos"),
        ({"hop": 0}, "hop"),
        ({"hop": None}, "hop"),
        ({"frames": []}, "frames must be a list"),
        ({"frames": [3.0, 0.5]}, r"frames\[1\]"),
        ({"frames": [math.inf]}, r"frames\[0\]"),
        ({"predictor": None}, "predictor"),
        ({"version": ""}, "version"),
    ],
)
def test_bad_quality_names_file_and_field(changes, field):
    with pytest.raises(ValueError, match=rf"track\.json: quality\.{field}"):
        quality(**changes)


@pytest.mark.parametrize(
    "start, stop, expected",
    [
        (0, 3, 4.0),
        (0, 1, 3.0),
        (1, 3, 4.5),
        (0.5, 1.5, 3.0),
        (0.6, 1.6, 4.0),
        (0.6, 0.9, 3.0),
        (1.1, 1.3, 4.0),
        (7, 9, 5.0),
    ],
)
def test_segment_takes_the_frames_whose_centres_it_holds_else_the_nearest(start, stop, expected):
    assert quality().pmos_between(start, stop) == expected


def test_without_frames_the_track_stands_for_every_segment():
    whole = quality(frames=None)
    assert whole.pmos_between(1, 2) == 3.7
    assert whole.curve(0, 2, 5) == [3.7] * 10


def test_curve_is_linear_between_centres_and_constant_beyond():
    curve = quality().curve(-1, 4, 10)
    times = -1 + (np.arange(50) + 0.5) / 10
    assert curve == pytest.approx(np.interp(times, [0.5, 1.5, 2.5], [3, 4, 5]).tolist())
    assert (curve[0], curve[-1]) == (3, 5)


@given(st.floats(0, 3), st.floats(0.5, 3), st.sampled_from((12.5, 25.0, 50.0)))
def test_a_later_cut_sees_the_same_curve_shifted(start, length, rate):
    """What a latent frame is told depends on its time in the track alone, not on where the segment begins."""
    shift = 4 / rate
    early = quality().curve(start, start + length, rate)
    late = quality().curve(start + shift, start + shift + length, rate)
    assert early[4:] == pytest.approx(late[: len(early) - 4])
    assert len(early) == math.ceil(round(length * rate, 6))


# Sidecars


def test_a_key_is_set_and_the_others_stay_in_order(tmp_path):
    sidecar = tmp_path / "a.json"
    sidecar.write_text('{"title": "é", "quality": 1, "bpm": ""}')
    write_sidecar_key(tmp_path / "a.mp3", "quality", FIELDS)
    assert list(read_sidecar(sidecar).items()) == [("title", "é"), ("quality", FIELDS), ("bpm", "")]
    assert read_quality(tmp_path / "a.mp3") == quality()


def test_a_missing_sidecar_is_created(tmp_path):
    assert read_quality(tmp_path / "a.mp3") is None
    write_sidecar_key(tmp_path / "a.mp3", "title", "x")
    assert read_sidecar(tmp_path / "a.json") == {"title": "x"}
    assert read_quality(tmp_path / "a.mp3") is None


@pytest.mark.parametrize("content", ['{"title": ', "[1]", "\xff"])
def test_a_corrupt_sidecar_is_refused_by_name_and_left_alone(tmp_path, content):
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"a\.json.*repair or remove it"):
        read_quality(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"a\.json.*repair or remove it"):
        write_sidecar_key(tmp_path / "a.wav", "quality", FIELDS)
    assert (tmp_path / "a.json").read_text(encoding="latin-1") == content


def test_a_score_that_is_not_an_object_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"quality": 3.5}')
    with pytest.raises(ValueError, match=r"a\.json: quality must be an object"):
        read_quality(tmp_path / "a.wav")


def test_nothing_half_written_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as part:
        part.write_text("ne")
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_sidecar_key(tmp_path / "a.wav", "quality", {"pmos": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_a_linked_sidecar_stays_a_link(tmp_path):
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "a.json").symlink_to(tmp_path / "real.json")
    write_sidecar_key(tmp_path / "a.wav", "title", "x")
    assert (tmp_path / "a.json").is_symlink()
    assert read_sidecar(tmp_path / "real.json") == {"title": "x"}


# Manifests


@pytest.mark.parametrize("name", ["", "data.jsonl.gz"], ids=["folder", "file"])
def test_a_missing_manifest_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="data.jsonl.gz"):
        find_manifest(tmp_path / name)


def test_an_empty_manifest_says_what_to_do(tmp_path):
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(b"\n"))
    with pytest.raises(ValueError, match="is empty: make it again with `qamdt manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        pytest.param(b"not gzip", "cannot be read", id="not-gzip"),
        pytest.param(gzip.compress(b"{}" * 999)[:30], "cannot be read", id="cut-off"),
        pytest.param(gzip.compress(b"\n{"), "line 2: not JSON", id="not-json"),
        pytest.param(gzip.compress(b'{"path": "a"}'), "line 1: no duration, sample_rate", id="keys-missing"),
        pytest.param(gzip.compress(b"3"), "line 1: no duration, path, sample_rate", id="not-an-object"),
    ],
)
def test_a_broken_manifest_names_file_and_line(tmp_path, content, message):
    (tmp_path / "data.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data\.jsonl\.gz.*{message}"):
        read_manifest(tmp_path)


def test_the_plain_manifest_comes_first_as_in_audiocraft(tmp_path):
    for name in ("data.jsonl", "data.jsonl.gz"):
        write_manifest(tmp_path / name, [{"path": name, "duration": 1.0, "sample_rate": 1, "mine": 7}])
    assert read_manifest(tmp_path) == [{"path": "data.jsonl", "duration": 1.0, "sample_rate": 1, "mine": 7}]


def test_manifest_is_what_audiocraft_itself_would_write(tmp_path):
    from audiocraft.data.audio_dataset import find_audio_files, load_audio_meta, save_audio_meta

    for name in ("b.WAV", "deep/er/c.flac", "deep/a.ogg"):
        write_tone(tmp_path / name)
    report = build_manifest(tmp_path)
    expected = find_audio_files(tmp_path, minimal=False)
    save_audio_meta(tmp_path / "theirs.jsonl.gz", expected)
    assert load_audio_meta(report.path) == expected
    assert gzip.decompress(report.path.read_bytes()) == gzip.decompress((tmp_path / "theirs.jsonl.gz").read_bytes())
    assert all(Path(row["path"]).is_absolute() for row in read_manifest(tmp_path))
    assert (report.tracks, report.seconds) == (3, pytest.approx(6))
    assert sorted(report.kinds.items()) == [("flac", 1), ("ogg", 1), ("wav", 1)]
    assert "1 flac" in report.lines()[0]


def test_what_cannot_be_used_is_left_out_by_name(tmp_path):
    good = write_tone(tmp_path / "in" / "good.wav")
    write_tone(tmp_path / "in" / "silent.wav", gain=0.0005)
    write_tone(tmp_path / "in" / "short.wav", seconds=0.5)
    write_tone(tmp_path / "in" / "good.flac")  # before good.wav in the alphabet: it takes the sidecar
    (tmp_path / "in" / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "in" / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "in" / "nan.wav", np.full(32000, np.nan), 16000, subtype="FLOAT")
    whole = write_tone(tmp_path / "in" / "cut.wav", seconds=4).read_bytes()
    (tmp_path / "in" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    report = build_manifest(tmp_path / "in", tmp_path / "out", workers=2)

    def names(paths):
        return sorted(Path(path).name for path in paths)

    rows = read_manifest(tmp_path / "out")
    assert names(row["path"] for row in rows) == ["cut.wav", "good.flac"]
    assert max(row["duration"] for row in rows) <= 2.01
    assert names(report.unreadable) == ["empty.wav", "nan.wav", "noise.mp3"]
    assert names(report.silent) == ["silent.wav"]
    assert names(report.short) == ["short.wav"]
    assert report.same_stem == [str(good)]
    text = "\n".join(report.lines())
    assert all(name in text for name in ("empty.wav", "noise.mp3", "silent.wav", "short.wav", "good.wav", "not finite"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["data.jsonl.gz"]


def test_the_part_of_a_truncated_file_that_can_be_decoded_is_listed(tmp_path, monkeypatch):
    path = write_tone(tmp_path / "a.wav", seconds=2)
    monkeypatch.setattr(manifest, "audio_info", lambda _: AudioInfo(16000, 15.0, 1))  # as an mp3's header says
    report = build_manifest(tmp_path)
    assert report.truncated == [str(path)]
    assert read_manifest(tmp_path)[0]["duration"] == 2.0
    assert "truncated" not in read_manifest(tmp_path)[0]


def test_nothing_to_list_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no audio in .*looked for .wav"):
        build_manifest(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        build_manifest(tmp_path / "nowhere")
    write_tone(tmp_path / "short.wav", seconds=0.2)
    with pytest.raises(ValueError, match=r"no file can be used:\n.*too short: .*short\.wav"):
        build_manifest(tmp_path)
    assert not (tmp_path / "data.jsonl.gz").exists()


def test_a_manifest_that_would_not_be_read_is_not_written(tmp_path):
    write_tone(tmp_path / "a.wav")
    (tmp_path / "data.jsonl").write_text("")
    with pytest.raises(FileExistsError, match="data.jsonl before data.jsonl.gz: remove it"):
        build_manifest(tmp_path)
