"""The folder of a listening test: blind, of one loudness, and what makes no test is refused by name."""

from __future__ import annotations

import json
import random
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.listening.audio import LOUDNESS, SOFTEST
from audiocraft_qamdt.listening.design import Key, design
from audiocraft_qamdt.listening.page import make_test
from audiocraft_qamdt.utils.loudness import measure_loudness

from ..helpers.listening import MARKUP, make_systems


@pytest.fixture
def systems(tmp_path):
    return make_systems(tmp_path / "systems")


def page_data(public) -> dict:
    page = (public / "index.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="test">(.*?)</script>', page)[1])


@pytest.mark.parametrize("kind, trials", [("rating", 4), ("preference", 2)])
def test_nothing_that_raters_get_says_which_system_is_which(systems, tmp_path, kind, trials):
    key = make_test(systems, tmp_path / "page", kind=kind, checks=2)
    assert len(key.trials) == trials + 2
    public = tmp_path / "page" / "public"
    content = b"".join(path.read_bytes() + path.name.encode() for path in public.rglob("*") if path.is_file())
    for secret in (b"ours", b"baseline", b"secret", b"one.wav", b'"one"', b'"beeps":'):
        assert secret not in content
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"public", "key.json"}
    assert Key.read(tmp_path / "page" / "key.json") == key


def test_the_order_in_the_page_is_that_of_random_ids(systems, tmp_path):
    make_test(systems, tmp_path / "page", kind="preference", checks=2)
    data = page_data(tmp_path / "page" / "public")
    trials = [trial for item in data["items"] for trial in item["trials"]]
    assert [trial["clips"] for trial in trials] == [sorted(trial["clips"]) for trial in trials]
    assert [trial["id"] for trial in trials] == sorted(trial["id"] for trial in trials)


def test_ids_are_others_each_time(systems, tmp_path):
    first, second = (make_test(systems, tmp_path / name) for name in ("a", "b"))
    assert first.test != second.test
    assert not set(first.sounds) & set(second.sounds)


def test_all_clips_and_checks_have_one_loudness_and_no_tags(systems, tmp_path):
    key = make_test(systems, tmp_path / "page")
    clips = list((tmp_path / "page" / "public" / "clips").iterdir())
    assert len(clips) == len(key.sounds) + 3
    for path in clips:
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert len(samples) in (9600, 158760)  # all checks are of one length
        assert measure_loudness(torch.from_numpy(samples.T), sample_rate) == pytest.approx(key.loudness, abs=0.05)


def test_a_clip_of_high_peaks_is_not_limited_but_all_get_softer(systems, tmp_path, caplog):
    loud, sample_rate = soundfile.read(systems["ours-secret"] / "one.wav", dtype="float32")
    loud[100], quiet = 1.0, 0.5 * loud
    quiet[100] = 1.0
    soundfile.write(systems["ours-secret"] / "one.wav", quiet, sample_rate)
    key = make_test(systems, tmp_path / "page")
    assert SOFTEST < key.loudness < -28
    assert f"in place of -23.0 LUFS, for the peaks of {systems['ours-secret'] / 'one.wav'}" in caplog.text
    written = next(clip for clip, sound in key.sounds.items() if (sound.name, sound.system) == ("one", "ours-secret"))
    samples, _ = soundfile.read(tmp_path / "page" / "public" / "clips" / f"{written}.flac", dtype="float32")
    scale = samples[100] / quiet[100]
    assert scale == pytest.approx(10 ** (-1 / 20), abs=1e-3)
    assert np.abs(samples - scale * quiet).max() < 1e-4


def test_one_very_soft_clip_does_not_turn_the_others_down(systems, tmp_path, caplog):
    soft, sample_rate = soundfile.read(systems["ours-secret"] / "one.wav", dtype="float32")
    soft = 0.001 * soft
    soft[100] = 1.0
    soundfile.write(systems["ours-secret"] / "one.wav", soft, sample_rate, subtype="FLOAT")
    key = make_test(systems, tmp_path / "page")
    assert key.loudness == LOUDNESS
    assert re.search(r"ours-secret/one.wav: its peaks let it have -\d+.\d LUFS at most", caplog.text)
    for clip, sound in key.sounds.items():
        samples, _ = soundfile.read(tmp_path / "page/public/clips" / f"{clip}.flac", dtype="float32", always_2d=True)
        if (sound.name, sound.system) == ("one", "ours-secret"):
            assert samples.max() == pytest.approx(10 ** (-1 / 20), abs=1e-3), "not limited"
        else:
            loudness = measure_loudness(torch.from_numpy(samples.T), sample_rate)
            assert loudness == pytest.approx(LOUDNESS, abs=0.05)


def test_a_page_inside_a_folder_of_clips_is_refused(systems, tmp_path):
    out = systems["ours-secret"] / "page"
    with pytest.raises(ValueError, match=f"{out} is in {systems['ours-secret']}, whose clips are judged"):
        make_test(systems, out)
    assert not out.exists()


@pytest.mark.parametrize(
    "field, value",
    [
        ("trials", {"a": {"clips": ["nowhere"], "asks": ["ovl"]}}),
        ("trials", {"a": {"clips": 3, "asks": ["ovl"]}}),
        ("trials", []),
        ("sounds", {"a": {"name": 1, "system": "ours-secret"}}),
        ("systems", [1]),
        ("systems", None),
        ("prompts", ["a"]),
        ("loudness", "loud"),
        ("per_rater", "all"),
        ("kind", "guess"),
    ],
)
def test_a_damaged_key_is_refused_in_one_line(systems, tmp_path, field, value):
    make_test(systems, tmp_path / "page")
    path = tmp_path / "page" / "key.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match="key.json: the key of a listening test is damaged"):
        Key.read(path)


def test_a_silent_clip_and_many_channels_are_written(systems, tmp_path, caplog):
    soundfile.write(systems["ours-secret"] / "one.wav", np.zeros(16000), 16000)
    surround = 0.3 * np.random.default_rng(0).standard_normal((16000, 6)).clip(-1, 1)
    soundfile.write(systems["ours-secret"] / "two.wav", surround, 16000)
    key = make_test(systems, tmp_path / "page")
    assert "one.wav: silent" in caplog.text
    names = {sound.name: clip for clip, sound in key.sounds.items() if sound.system == "ours-secret"}
    infos = {name: soundfile.info(tmp_path / "page/public/clips" / f"{clip}.flac") for name, clip in names.items()}
    assert infos["two"].channels == 1
    assert infos["one"].frames == 16000


def test_markup_in_prompts_and_title_is_text(systems, tmp_path):
    make_test(systems, tmp_path / "page", title=MARKUP)
    page = (tmp_path / "page" / "public" / "index.html").read_text()
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "<script>alert" not in page
    data = page_data(tmp_path / "page" / "public")
    assert MARKUP in [item["prompt"] for item in data["items"]]
    assert "default-src 'none'" in page
    assert "unsafe" not in page


def test_relevance_is_asked_of_clips_with_a_prompt_only(systems, tmp_path, caplog):
    for folder in systems.values():
        (folder / "two.json").unlink()
    key = make_test(systems, tmp_path / "page", checks=0)
    asks = {key.name_of(name): trial.asks for name, trial in key.trials.items()}
    assert asks == {"one": ["ovl", "rel"], "two": ["ovl"]}
    assert "1 of 2 clips have no prompt, such as two" in caplog.text


def test_prompts_come_from_a_file_of_captions(systems, tmp_path):
    (tmp_path / "captions.csv").write_text("file,description\none.wav,first\ntwo,second\n")
    key = make_test(systems, tmp_path / "page", captions=tmp_path / "captions.csv")
    assert key.prompts == {"one": "first", "two": "second"}


def test_clips_that_not_every_system_has_are_left_out_by_name(systems, tmp_path, caplog):
    (systems["baseline-secret"] / "two.wav").unlink()
    key = make_test(systems, tmp_path / "page")
    assert {sound.name for sound in key.sounds.values()} == {"one"}
    assert "ours-secret: 1 clips left out that not every system has: two" in caplog.text


def test_right_answers_of_checks_are_spread():
    key = design("rating", ["a"], ["x"], {}, title="", loudness=-23, checks=10, draw=random.Random(0))
    beeps = sorted(trial.beeps for trial in key.trials.values() if trial.beeps)
    assert beeps == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def spoil(systems, what):
    ours, baseline = systems.values()
    if what == "other names":
        for path in list(baseline.glob("*")):
            path.rename(path.with_name(f"x{path.name}"))
    elif what == "NaN":
        soundfile.write(ours / "one.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    elif what == "700 kHz":
        soundfile.write(ours / "one.wav", np.full(700_000, 0.1), 700_000)
    elif what == "short":
        soundfile.write(ours / "one.wav", np.full(1600, 0.1), 16000)
    elif what == "other prompts":
        (baseline / "two.json").write_text('{"description": "another"}')
    elif what == "empty":
        shutil.rmtree(baseline)
        baseline.mkdir()


@pytest.mark.parametrize(
    "what, more, message",
    [
        ("nothing", ["nowhere=/no/such/folder"], "/no/such/folder is not a folder"),
        ("empty", [], "no audio in"),
        ("other names", [], "no clip has the same name in all folders"),
        ("NaN", [], "one.wav: the audio holds NaN"),
        ("700 kHz", [], "one.wav: 700000 Hz, but FLAC has 655350 Hz at most"),
        ("short", [], "one.wav: 0.10 s, but a loudness needs 0.5 s"),
        ("other prompts", [], "two: baseline-secret has the prompt 'another'"),
        ("nothing", ["folder"], "folder: give a system as NAME=DIR"),
        ("nothing", ["ours-secret=x"], "two systems are called ours-secret"),
        ("nothing", ["--checks", "-1"], "0 attention checks or more"),
        ("nothing", ["--per-rater", "0"], "1 prompt or more"),
    ],
)
def test_what_makes_no_test_is_named_and_nothing_is_written(systems, tmp_path, caplog, what, more, message):
    spoil(systems, what)
    given = [f"{name}={folder}" for name, folder in systems.items()]
    position = [*given, *more] if not more or more[0][0] != "-" else [*more, *given]
    assert main(["listening-test", *position, "--out", str(tmp_path / "page")]) == 2
    assert message in caplog.text
    assert not (tmp_path / "page").exists()


def test_a_preference_takes_two_systems(systems, tmp_path, caplog):
    given = f"a={systems['ours-secret']}"
    assert main(["listening-test", "--kind", "preference", given, "--out", str(tmp_path / "page")]) == 2
    assert "a preference is between two systems" in caplog.text


def test_a_test_is_never_replaced_nor_a_folder_of_others(systems, tmp_path, caplog):
    key = make_test(systems, tmp_path / "page")
    command = ["listening-test", *(f"{name}={folder}" for name, folder in systems.items()), "--out"]
    assert main([*command, str(tmp_path / "page")]) == 2
    assert "whose results need its key.json" in caplog.text
    assert Key.read(tmp_path / "page" / "key.json") == key
    assert main([*command, str(systems["ours-secret"])]) == 2
    assert not (systems["ours-secret"] / "key.json").exists()
