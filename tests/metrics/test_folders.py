"""`qamdt evaluate` on folders of audio."""

from __future__ import annotations

import json
import math
import re
import unicodedata

import numpy as np
import pytest
import soundfile
from soxr import resample

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.commands.evaluate import parse_metrics
from audiocraft_qamdt.metrics.folders import named_audio
from audiocraft_qamdt.metrics.texts import read_captions
from audiocraft_qamdt.playground.degradation import degrade
from audiocraft_qamdt.playground.synthesis import compose, render
from audiocraft_qamdt.quality.predictors.acoustic import Acoustic

COUNT = 8
PMOS = f"pmos_acoustic-{Acoustic.version}"


def write(folder, seed, fault=0.0, names="clip{:02d}.wav"):
    folder.mkdir(parents=True)
    for index in range(COUNT):
        clip = render(compose(seed, index), 2.0, 16000)
        clip = degrade(clip, 16000, "noise", fault, np.random.default_rng(index))
        soundfile.write(folder / names.format(index), clip, 16000)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return write(root / "clean", 7), write(root / "noisy", 7, fault=0.6), write(root / "other", 8)


def evaluate(tmp_path, generated, *more, out="out.json"):
    argv = ["evaluate", "--generated", str(generated), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / out)]
    code = main([*argv, *map(str, more)])
    return code, json.loads((tmp_path / out).read_text()) if code == 0 else None


METRICS = "frechet:playground,inception:playground,kl:playground,pmos:acoustic,silence"


def numbers(report):
    return {number["metric"]: number["value"] for number in report["numbers"]}


def test_noise_is_worse_by_every_number(folders, tmp_path, capsys):
    clean, noisy, _ = folders
    options = ("--reference", clean, "--metrics", METRICS)
    _, good = evaluate(tmp_path, clean, *options)
    _, bad = evaluate(tmp_path, noisy, *options, "--best-of", 3, "--seed", 5)
    assert numbers(good)["frechet"] == pytest.approx(0, abs=1e-6) and numbers(bad)["frechet"] > 1
    assert numbers(good)["kl"] < numbers(bad)["kl"] and numbers(good)["pmos"] > numbers(bad)["pmos"] + 1
    assert all(map(math.isfinite, numbers(bad).values())) and bad["clips"] == COUNT
    assert bad["numbers"][0]["key"] == "frechet_playground-1/clean_n8/best3_seed5"
    assert set(bad["scores"]["clip00"]) >= {"frechet_playground-1", PMOS, "kl_playground-1"}
    head, rule, row = (tmp_path / "out.md").read_text().splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") and PMOS in head
    assert row in capsys.readouterr().out


@pytest.mark.parametrize("out, table", [("t.md", "t.md.md"), ("t.v1", "t.v1.md"), ("T.JSON", "T.md")])
def test_json_goes_to_the_path_as_typed_and_the_table_beside_it(folders, tmp_path, out, table):
    clean, _, _ = folders
    assert main(["evaluate", "--generated", str(clean), "--metrics", "silence", "--out", str(tmp_path / out)]) == 0
    assert "numbers" in json.loads((tmp_path / out).read_text())
    assert {path.name for path in tmp_path.iterdir()} == {out, table}


def test_a_second_folder_gives_differences_and_how_sure_they_are(folders, tmp_path, capsys):
    clean, noisy, _ = folders
    options = ("--reference", clean, "--metrics", METRICS + ",kad:playground,coverage:playground", "--no-extrapolate")
    _, report = evaluate(tmp_path, clean, *options, "--against", noisy)
    found = {one["measured"]: one for one in report["comparison"]}
    assert found[PMOS]["p"] < 1e-3 and found[PMOS]["difference"] - found[PMOS]["ci95"] > 1
    assert found["kad_playground-1"]["p"] < 0.05 and found["kad_playground-1"]["difference"] < 0
    assert found["silent"]["p"] == 1 and "against" in report and "replicates" not in report
    assert found.keys() == {
        one["metric"] + ("_" + one["instrument"]) * bool(one["instrument"]) for one in report["numbers"]
    }
    table = (tmp_path / "out.md").read_text()
    assert (
        len(table.splitlines()) == 6 and " ± " in table and "p = " in table and table in capsys.readouterr().out + "\n"
    )


def test_reference_statistics_are_kept_by_content(folders, tmp_path, caplog):
    clean, noisy, other = folders
    caplog.set_level("INFO")
    options = ("--metrics", "frechet:playground", "--no-extrapolate")
    _, first = evaluate(tmp_path, noisy, "--reference", clean, *options)
    assert "statistics from" not in caplog.text and len(list((tmp_path / "cache").iterdir())) == 1
    renamed = write(tmp_path / "renamed", 7, names="another_{:02d}.wav")
    _, second = evaluate(tmp_path, noisy, "--reference", renamed, *options)
    assert "statistics from" in caplog.text and len(list((tmp_path / "cache").iterdir())) == 1
    assert numbers(first) == numbers(second)
    _, third = evaluate(tmp_path, noisy, "--reference", other, *options)
    assert len(list((tmp_path / "cache").iterdir())) == 2 and numbers(third) != numbers(first)


def test_clap_with_captions(folders, tmp_path, tiny_clap, caplog):
    clean, *_ = folders
    captions = tmp_path / "captions.csv"
    captions.write_text("file,description\nclip00.wav,slow piano\nclip01.wav,fast drums\n")
    code, report = evaluate(tmp_path, clean, "--metrics", f"clap:clap={tiny_clap}", "--captions", captions)
    assert code == 0 and -1 <= numbers(report)["clap"] <= 1
    assert len(report["scores"]) == 2 and report["numbers"][0]["instrument"].startswith("clap-")
    assert report["numbers"][0]["clips"] == 2 and "_n2" not in report["numbers"][0]["instrument"]
    assert report["numbers"][0]["key"].endswith("/n2") and "clap is of 2 of 8 clips" in caplog.text


def test_channels_are_measured_before_they_are_mixed(tmp_path, caplog):
    tone = 0.3 * np.sin(np.arange(16000) / 10)
    soundfile.write(tmp_path / "one_clipped.wav", np.stack([np.sign(tone), 0 * tone], 1), 16000)
    soundfile.write(tmp_path / "antiphase.wav", np.stack([tone, -tone], 1), 16000)
    code, report = evaluate(tmp_path, tmp_path, "--metrics", "silence")
    assert code == 0 and report["scores"] == {
        "antiphase": {"silent": 0.0, "clipped": 0.0},
        "one_clipped": {"silent": 0.0, "clipped": 1.0},
    }
    assert "antiphase.wav: its channels cancel each other" in caplog.text


def test_a_cache_that_cannot_be_written_is_done_without(folders, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    options = ("--metrics", "fad:playground", "--no-extrapolate", "--cache", tmp_path / "file" / "cache")
    code, _ = evaluate(tmp_path, folders[0], "--reference", folders[1], *options)
    assert code == 0 and "cannot be kept" in caplog.text


@pytest.mark.parametrize(
    "name, content",
    [
        ("captions.json", '{"a": "slow piano", "b.wav": "fast drums"}'),
        (
            "captions.jsonl",
            '{"file": "a.wav", "description": "slow piano"}\n{"file": "b", "description": "fast drums"}',
        ),
        ("captions.csv", "file,description\na.wav,slow piano\nb,fast drums"),
    ],
)
def test_captions_in_three_forms(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    files = {"a": tmp_path / "a.wav", "b": tmp_path / "b.wav"}
    assert read_captions(tmp_path / name, files) == {"a": "slow piano", "b": "fast drums"}


def test_captions_from_sidecars_of_data_sets_samples_and_generated_clips(tmp_path):
    (tmp_path / "a.json").write_text('{"description": "slow piano"}')
    (tmp_path / "b.json").write_text('{"conditioning": {"description": "fast drums"}}')
    (tmp_path / "c.json").write_text('{"prompt": "warm pad", "model": "m", "quality": 5}')
    (tmp_path / "d.json").write_text('{"prompt": {"path": "x.wav"}, "conditioning": {}}')  # AudioCraft's: a sound
    files = {name: tmp_path / f"{name}.wav" for name in "abcde"}
    assert read_captions(None, files) == {"a": "slow piano", "b": "fast drums", "c": "warm pad"}


def test_broken_captions_are_named(tmp_path):
    (tmp_path / "captions.csv").write_text("name,text\na,b\n")
    with pytest.raises(ValueError, match="captions.csv: not captions.*file and description"):
        read_captions(tmp_path / "captions.csv", {})


BOM = b"\xef\xbb\xbf"
ODD_CAPTIONS = {
    "byte order mark": ("c.csv", BOM + b"file,description\r\na.wav,slow piano\r\n"),
    "blank lines": ("c.jsonl", b'\n{"file": "a.wav", "description": "slow piano"}\n\n'),
    "mark before JSON": ("c.json", BOM + b'{"a.wav": "slow piano"}'),
    "semicolons": ("c.csv", b"file;description\na.wav;slow piano\n"),
    "tabs": ("c.TSV", b"file\tdescription\na.wav\tslow piano\n"),
    "more columns": ("c.csv", b"id,file,description\n1,./a.WAV,slow piano\n\n"),
    "a null": ("c.jsonl", b'{"file": "a.wav", "description": "slow piano"}\n{"file": "b", "description": null}'),
}


@pytest.mark.parametrize(("name", "content"), ODD_CAPTIONS.values(), ids=ODD_CAPTIONS)
def test_captions_as_programs_write_them(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    files = {"a": tmp_path / "a.wav", "b": tmp_path / "b.wav"}
    assert read_captions(tmp_path / name, files) == {"a": "slow piano"}


BAD_CAPTIONS = {
    "Latin-1": ("c.csv", b"file,description\na.wav,caf\xe9\n", r"c\.csv:2: .*not UTF-8"),
    "UTF-16": ("c.csv", "file,description".encode("utf-16"), "UTF-16: save it as UTF-8"),
    "a number": ("c.jsonl", b'{"file": "a", "description": 5}', r"c\.jsonl:1: the description of a must be a text"),
    "cut off": ("c.jsonl", b'\n{"file": "a", ', r"c\.jsonl:2: not JSON"),
    "a list": ("c.json", b"[]", r"c\.json: not captions"),
    "another suffix": ("c.xlsx", b"PK", r"c\.xlsx: captions are a file of \.json"),
    "two for one": ("c.csv", b"file,description\na,x\na.wav,y\n", r"c\.csv:3: a second description of a\.wav"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_CAPTIONS.values(), ids=BAD_CAPTIONS)
def test_captions_that_are_none_are_named_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / name, {"a": tmp_path / "a.wav"})


def test_captions_of_no_clip_are_named(tmp_path, caplog):
    (tmp_path / "c.csv").write_text("file,description\na.wav,x\nnosuch.wav,y\n")
    read_captions(tmp_path / "c.csv", {"a": tmp_path / "a.wav"})
    assert "c.csv: no clip is called nosuch.wav: 1 of 2 left out" in caplog.text


FOREIGN = {
    "a list": '["slow piano"]',
    "conditioning a text": '{"conditioning": "piano"}',
    "cut off": '{"description":',
    "a number": '{"description": 5}',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_json_beside_clips_that_is_not_ours_is_named_and_stops_nothing(tmp_path, caplog, content):
    (tmp_path / "a.json").write_text(content)
    (tmp_path / "b.json").write_text('{"description": "fast drums"}')
    files = {name: tmp_path / f"{name}.wav" for name in "ab"}
    assert read_captions(None, files) == {"b": "fast drums"}
    assert str(tmp_path / "a.json") in caplog.text


def spoil(folder, name, samples):
    soundfile.write(folder / name, np.asarray(samples, np.float32), 16000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize(
    "spoilt, more, message",
    [
        (lambda folder: spoil(folder, "bad.wav", [0.0, math.nan]), [], "bad.wav: the audio holds NaN"),
        (lambda folder: spoil(folder, "bad.wav", []), [], "bad.wav.*"),
        (lambda folder: folder / "nothing", [], "nothing is not a folder"),
        (lambda folder: folder, ["--metrics", "frechet:playground"], "give --reference DIR"),
        (
            lambda folder: folder,
            ["--metrics", "clap"],
            "CLAP .*music_audioset_epoch_15_esc_90.14.pt.*\nGet them from.*laion_clap",
        ),
        (lambda folder: folder, ["--metrics", "rtf"], "how long generating took"),
        (lambda folder: folder, ["--metrics", "fid:playground"], "unknown metric fid"),
        (
            lambda folder: folder,
            ["--metrics", "kl:playground", "--reference", "{other}"],
            "no reference for .*good.wav",
        ),
    ],
    ids=["nan", "empty", "no folder", "no reference", "no weights", "rtf", "unknown", "unpaired"],
)
def test_what_cannot_be_judged_is_named(folders, tmp_path, caplog, spoilt, more, message):
    folder = tmp_path / "generated"
    folder.mkdir()
    spoil(folder, "good.wav", 0.1 * np.sin(np.arange(16000) / 10))
    more = [str(folders[2]) if option == "{other}" else option for option in more]
    code, _ = evaluate(tmp_path, spoilt(folder), *(more or ["--metrics", "inception:playground"]))
    assert code == 2 and not (tmp_path / "out.json").exists()
    assert re.search(message, caplog.text), caplog.text


def test_an_empty_folder_is_named(tmp_path, caplog):
    (tmp_path / "generated").mkdir()
    code, _ = evaluate(tmp_path, tmp_path / "generated", "--metrics", "silence")
    assert code == 2 and re.search(r"no audio in .*generated", caplog.text)


def test_nested_and_linked_folders_of_unequal_numbers_give_the_numbers_of_plain_ones(folders, tmp_path):
    """Five clips against eight, as they are, and the same five in folders and behind links to a file and a folder."""
    clean, noisy, _ = folders
    plain, odd, elsewhere = (tmp_path / name for name in ("plain", "odd", "elsewhere"))
    for folder in (plain, odd / "deep" / "er", elsewhere):
        folder.mkdir(parents=True)
    files = sorted(noisy.iterdir())[:5]
    for path in files:
        (plain / path.name).write_bytes(path.read_bytes())
    (odd / files[0].name).write_bytes(files[0].read_bytes())
    (odd / "deep" / "er" / files[1].name).write_bytes(files[1].read_bytes())
    (odd / files[2].name).symlink_to(files[2])
    for path in files[3:]:
        (elsewhere / path.name).write_bytes(path.read_bytes())
    (odd / "linked").symlink_to(elsewhere, target_is_directory=True)
    options = ("--reference", clean, "--no-extrapolate", "--metrics")
    metrics = "frechet:playground,kad:playground,coverage:playground,inception:playground,pmos:acoustic,silence"
    (_, one), (_, other) = (evaluate(tmp_path, folder, *options, metrics) for folder in (plain, odd))
    assert one["clips"] == other["clips"] == 5 and len(numbers(one)) == 8
    assert numbers(other) == pytest.approx(numbers(one), rel=1e-6, abs=1e-9)


def test_mixed_rates_and_channels_are_measured_as_one_rate_in_mono(folders, tmp_path):
    """Clips at 16 kHz in mono, and the same in stereo or at 32 and 48 kHz by turns: nearly the same numbers.

    Nothing of them lies above 7 kHz: between there and 8 kHz every resampler has its own slope.
    """
    clean, noisy, _ = folders
    plain, mixed = tmp_path / "plain", tmp_path / "mixed"
    plain.mkdir()
    mixed.mkdir()
    for index, path in enumerate(sorted(noisy.iterdir())):
        audio, rate = soundfile.read(path)
        audio = resample(resample(audio, rate, 14000), 14000, rate)
        soundfile.write(plain / path.name, audio, rate)
        if index % 3:
            audio, rate = resample(audio, rate, 16000 * (1 + index % 3)), 16000 * (1 + index % 3)
        soundfile.write(mixed / path.name, np.stack([audio, audio], 1) if index % 2 else audio, rate)
    options = ("--reference", clean, "--metrics", "frechet:playground,kl:playground,inception:playground")
    (_, one), (_, other) = (evaluate(tmp_path, folder, *options) for folder in (plain, mixed))
    assert numbers(other) == pytest.approx(numbers(one), rel=0.02)


def test_of_two_files_of_one_name_the_second_is_left_out_by_name(tmp_path, caplog):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, np.zeros(100), 16000)
    assert named_audio(tmp_path) == {"a": tmp_path / "a.flac"}
    assert f"left out: {tmp_path / 'a.wav'} (it has the name of {tmp_path / 'a.flac'})" in caplog.text


def test_names_are_the_same_in_both_unicode_forms(tmp_path):
    for form in ("NFC", "NFD"):
        (tmp_path / form).mkdir()
        soundfile.write(tmp_path / form / f"{unicodedata.normalize(form, 'café')}.wav", np.ones(100), 16000)
    composed, decomposed = (named_audio(tmp_path / form) for form in ("NFC", "NFD"))
    assert composed.keys() == decomposed.keys()
    (tmp_path / "c.csv").write_text(f"file,description\n{unicodedata.normalize('NFD', 'café.WAV')},warm\n")
    assert read_captions(tmp_path / "c.csv", composed) == {"café": "warm"}


def test_metrics_are_parsed():
    assert parse_metrics("frechet:vggish=a/b.pth, frechet:playground,silence") == (
        {"frechet": ["vggish", "playground"], "silence": [""]},
        {"vggish": {"checkpoint": "a/b.pth"}},
    )
    with pytest.raises(ValueError, match="two checkpoints of vggish"):
        parse_metrics("frechet:vggish=a,inception:vggish=b")


@pytest.mark.parametrize("old, name", [("fad", "frechet"), ("is", "inception")])
def test_the_names_that_metrics_had_before_still_work_and_the_log_gives_the_new_one(old, name, caplog):
    assert parse_metrics(f"{old}:playground")[0] == {name: ["playground"]}
    assert f"--metrics {old}: this metric is called {name}" in caplog.text
