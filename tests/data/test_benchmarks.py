"""Small tables with the published columns, and audio that people have beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import soundfile

from audiocraft_qamdt.cli import main as qamdt
from audiocraft_qamdt.data.benchmarks import make_benchmark
from audiocraft_qamdt.data.manifest import read_manifest
from audiocraft_qamdt.generation.prompts import read_prompts
from audiocraft_qamdt.utils.audio import audio_info

from ..helpers.audio_folder import tone

RATE = 8000
MUSICCAPS = (
    "ytid start_s end_s audioset_positive_labels aspect_list caption author_id is_balanced_subset is_audioset_eval"
)
SONG_DESCRIBER = "caption_id track_id caption is_valid_subset familiarity artist_id album_id path duration"


def write_table(path, columns: str, *rows: dict) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns.split(), restval="x")
        table.writeheader()
        table.writerows(rows)


def write_audio(path, seconds: float, frequency: float = 220.0) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, tone(frequency, seconds, RATE), RATE)


def described(folder) -> dict[str, tuple[float, str]]:
    """Name of each track of a set → its seconds and its description."""
    tracks = [Path(track["path"]) for track in read_manifest(folder)]
    texts = [json.loads(track.with_suffix(".json").read_text())["description"] for track in tracks]
    return {track.name: (audio_info(track).duration, text) for track, text in zip(tracks, texts, strict=True)}


def test_musiccaps_cuts_what_is_whole_links_what_is_cut_and_names_what_is_missing(tmp_path, capsys):
    rows = [
        {"ytid": "-0Gj8-vB1q4", "start_s": "3", "end_s": "5", "caption": 'a guitar, and "drums"'},
        {"ytid": "_abcDEF_123", "start_s": "30", "end_s": "32", "caption": "two\nlines"},
        {"ytid": "missing0000", "start_s": "0", "end_s": "10", "caption": "not here"},
    ]
    write_table(tmp_path / "musiccaps-public.csv", MUSICCAPS, *rows)
    write_audio(tmp_path / "audio" / "-0Gj8-vB1q4.wav", 8.0)
    write_audio(tmp_path / "audio" / "[_abcDEF_123]-[30-32].wav", 2.0)
    for _ in range(2):  # the second time finds its own set, and leaves it alone
        assert qamdt(["benchmark", "musiccaps", str(tmp_path)]) == 0
    assert "2 of 3 clips; 3 prompts" in capsys.readouterr().out
    folder = tmp_path / "set"
    assert described(folder) == {
        "-0Gj8-vB1q4.flac": (2.0, 'a guitar, and "drums"'),
        "_abcDEF_123.wav": (2.0, "two\nlines"),
    }
    whole, _ = soundfile.read(tmp_path / "audio" / "-0Gj8-vB1q4.wav")
    cut, _ = soundfile.read(folder / "-0Gj8-vB1q4.flac")
    assert abs(cut - whole[3 * RATE : 5 * RATE]).max() < 1e-3
    assert (folder / "missing.txt").read_text() == "missing0000\n"
    assert [row["prompt"] for row in read_prompts(folder / "prompts.jsonl")] == [row["caption"] for row in rows]


def test_song_describer_has_one_track_for_all_its_captions(tmp_path):
    rows = [
        {"caption_id": "1", "track_id": "1004034", "caption": "first", "is_valid_subset": "False"},
        {"caption_id": "2", "track_id": "1004034", "caption": "second", "is_valid_subset": "True"},
        {"caption_id": "3", "track_id": "77", "caption": "third", "is_valid_subset": "True"},
    ]
    write_table(tmp_path / "song_describer.csv", SONG_DESCRIBER, *rows)
    write_audio(tmp_path / "34" / "1004034.2min.wav", 2.0)
    write_audio(tmp_path / "77" / "77.2min.wav", 3.0)
    assert qamdt(["benchmark", "song-describer", str(tmp_path), "--out", str(tmp_path / "sd")]) == 0
    assert described(tmp_path / "sd") == {"1004034.wav": (2.0, "second"), "77.wav": (3.0, "third")}
    assert json.loads((tmp_path / "sd" / "1004034.json").read_text())["captions"] == ["second", "first"]
    assert len(read_prompts(tmp_path / "sd" / "prompts.jsonl")) == 3


def test_what_is_not_the_published_table_is_refused(tmp_path, caplog):
    write_audio(tmp_path / "a.wav", 1.0)
    assert qamdt(["benchmark", "musiccaps", str(tmp_path)]) == 2
    assert "musiccaps-public.csv: put the published table of musiccaps there" in caplog.text
    write_table(tmp_path / "musiccaps-public.csv", "ytid caption", {"ytid": "a", "caption": "b"})
    assert qamdt(["benchmark", "musiccaps", str(tmp_path)]) == 2
    assert "no column start_s, end_s" in caplog.text


def test_without_any_audio_the_prompts_are_written(tmp_path):
    write_table(tmp_path / "musiccaps-public.csv", MUSICCAPS, {"ytid": "a", "start_s": 0, "end_s": 1, "caption": "b"})
    report = make_benchmark("musiccaps", tmp_path)
    assert report.missing == ["a"] and read_prompts(tmp_path / "set" / "prompts.jsonl") == [{"prompt": "b"}]
    assert not (tmp_path / "set" / "data.jsonl.gz").exists()
