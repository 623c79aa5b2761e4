"""`qamdt generate` as it is typed: files, settings beside them, resuming, interruption, bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import contextmanager

import pytest
import soundfile
import torch

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.generation import files
from audiocraft_qamdt.generation.files import make_jobs, run_jobs
from audiocraft_qamdt.generation.prompts import read_prompts
from audiocraft_qamdt.generation.qamdt import QAMDT
from audiocraft_qamdt.utils.memory import peak_memory_of

from ..helpers.forked import start

FAST = ["--steps", "2", "--duration", "1"]


@pytest.fixture
def run(trained, capsys):
    """`qamdt generate` with the trained model: exit status, and the files that it names."""

    def run(*argv: object) -> tuple[int, list[str]]:
        status = main(["generate", "--model", str(trained.export), "--device", "cpu", *map(str, argv)])
        return status, capsys.readouterr().out.splitlines()

    return run


def settings(path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("audio_format", files.FORMATS)
def test_one_prompt_to_one_file_of_each_format(run, tmp_path, audio_format):
    out = tmp_path / "new" / f"x.{audio_format}"
    assert run("a warm lo-fi piano", "--quality", 5, "--seed", 3, "--out", out, *FAST) == (0, [str(out)])
    audio, sample_rate = soundfile.read(out)
    assert sample_rate == 16000
    assert abs(len(audio) - 16000) < 2500
    assert audio.std() > 1e-4
    known = settings(out)
    assert (known["prompt"], known["quality"], known["seed"], known["steps"]) == ("a warm lo-fi piano", 5, 3, 2)
    assert sorted(path.name for path in out.parent.iterdir()) == sorted([out.name, "x.json"])


def test_a_clip_of_the_settings_beside_a_file_is_that_file(run, trained, tmp_path):
    run("drums", "--quality", "0:1,1:5", "--seed", 7, "--out", tmp_path / "x.wav", *FAST)
    known = settings(tmp_path / "x.wav")
    model = QAMDT.get_pretrained(known["model"], "cpu")
    model.set_generation_params(seed=known["seed"], steps=known["steps"], duration=known["duration"])
    made = model.generate([known["prompt"]], [tuple(point) for point in known["quality"]])[0, 0]
    audio = torch.from_numpy(soundfile.read(tmp_path / "x.wav", dtype="float32")[0])
    assert torch.corrcoef(torch.stack([made, audio]))[0, 1] > 0.99  # loudness and its compressor are what differs


def test_a_file_of_prompts_with_settings_in_each_line(run, tmp_path):
    rows = [
        {"prompt": "piano", "quality": 5, "seed": 4},
        {"prompt": "drums", "pmos": 3.2, "duration": 0.5, "sampler": "ddim"},
        {"prompt": "drums", "quality": [[0, 1], [1, 5]], "negative_prompt": "noise", "guidance_scale": 2.0},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    status, files = run("strings", "--file", tmp_path / "p.jsonl", "--out", tmp_path / "out", *FAST)
    assert status == 0
    assert len(files) == 4
    known = [settings(tmp_path / "out" / f"{index:04d}.wav") for index in range(4)]
    assert [item["prompt"] for item in known] == ["strings", "piano", "drums", "drums"]
    assert (known[1]["quality"], known[1]["seed"], known[2]["pmos"], known[2]["sampler"]) == (5, 4, 3.2, "ddim")
    assert (known[3]["negative_prompt"], known[3]["guidance_scale"], known[3]["seed"]) == ("noise", 2.0, 1)
    assert soundfile.info(tmp_path / "out" / "0002.wav").duration == pytest.approx(0.5)


def test_prompts_are_batched_by_what_they_share_and_sound_as_alone(run, tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [{"prompt": f"piano {index}", "duration": (0.5, 1.0)[index % 2], "quality": 1 + index} for index in range(5)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("--file", tmp_path / "p.jsonl", "--out", tmp_path / "batched", *FAST)[0] == 0
    assert "3 clips at once" in caplog.text
    assert "2 clips at once" in caplog.text
    assert run("--file", tmp_path / "p.jsonl", "--out", tmp_path / "single", "--batch-size", 1, *FAST)[0] == 0
    for index, row in enumerate(rows):
        batched, single = (soundfile.read(tmp_path / kind / f"{index:04d}.wav")[0] for kind in ("batched", "single"))
        assert len(batched) == len(single) == 16000 * row["duration"]
        assert abs(batched - single).max() < 1e-3, row


@pytest.mark.parametrize("room, sizes", [(2.1, [2, 2, 1]), (0.1, [1] * 5), (100, [5])])
def test_a_batch_is_as_large_as_memory_allows(model, tmp_path, monkeypatch, room, sizes):
    jobs = make_jobs(
        [{"prompt": f"piano {index}"} for index in range(5)], tmp_path, None, {"steps": 2, "duration": 1.0}
    )
    clips = [files._clip(model, job, {}) for job in jobs]
    files._make(clips[:1], model, None)  # tables of positions are kept from now on
    one = peak_memory_of(lambda: files._make(clips[:1], model, None), model.device)
    assert one > 4 * 16000
    monkeypatch.setattr(files, "free_memory", lambda device: int(room * one / files.USED_SHARE))
    assert [len(batch) for batch in files._batches(clips, model, None)] == sizes
    assert [len(batch) for batch in files._batches(clips, model, 3)] == [3, 2]


def test_quality_of_one_clip_is_not_that_of_the_next_in_its_batch(run, trained, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "quality": 5}\n{"prompt": "b"}\n')
    run("--file", tmp_path / "p.jsonl", "--out", tmp_path / "out", *FAST)
    assert settings(tmp_path / "out" / "0001.wav")["quality"] is None


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"steps": 5000}, "steps=5000: sampling takes between 1 and 1000 steps"),
        ({"null_level": 9}, "null_level=9: give a quality level from 1 to 5"),
        ({"candidates": 2}, "candidates=2, but clap names no model"),
        ({"candidates": 2, "rerank": "pmos:deaf"}, "unknown predictor 'deaf'"),
        ({"candidates": 2, "clap": "/nonexistent"}, "CLAP '/nonexistent' could not be loaded"),
        ({"quality": 9}, "quality=9: levels go from 1 to 5"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_row_is_named_by_file_and_line_before_any_clip_is_made(model, tmp_path, bad, message):
    rows = [{"prompt": "a"}, {"prompt": "b", **bad}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs = make_jobs(read_prompts(tmp_path / "p.jsonl"), tmp_path / "out", None, {})
    with pytest.raises(ValueError, match=f"p.jsonl:2: {re.escape(message)}"):
        next(run_jobs(model, "m", jobs, batch_size=1))
    assert not (tmp_path / "out").exists()


def test_a_refused_clip_leaves_the_models_settings_alone(model, tmp_path):
    before = model.params
    jobs = make_jobs([{"prompt": "a", "steps": 2}, {"prompt": "b", "quality": 9}], tmp_path, None, {})
    with pytest.raises(ValueError, match="levels go from 1 to 5"):
        list(run_jobs(model, "m", jobs))
    assert model.params == before


def test_clips_that_nobody_waits_for_leave_the_models_settings_alone(model, tmp_path):
    before = model.params
    made = run_jobs(
        model, "m", make_jobs([{"prompt": "a"}, {"prompt": "b"}], tmp_path, None, {"steps": 2}), batch_size=1
    )
    next(made)
    made.close()
    assert model.params == before


def test_a_clip_made_by_an_earlier_version_is_not_made_again(run, tmp_path):
    """Until 0.1.0 was released, guidance was a section of its own in the file beside a clip."""
    run("piano", "--out", tmp_path / "x.wav", *FAST)
    record = settings(tmp_path / "x.wav")
    shorter = {"guidance_scale": "scale", "guidance_interval": "interval", "guidance_rescale": "rescale"}
    shorter |= {name: name for name in ("quality_scale", "apg_eta", "apg_norm", "apg_momentum")}
    record["guidance"] = {old: record.pop(name) for name, old in shorter.items()} | {"num_steps": 1000}
    record["num_candidates"] = record.pop("candidates")
    (tmp_path / "x.json").write_text(json.dumps(record))
    before = (tmp_path / "x.wav").stat().st_mtime_ns
    assert run("piano", "--out", tmp_path / "x.wav", *FAST)[0] == 0
    assert (tmp_path / "x.wav").stat().st_mtime_ns == before


def test_what_is_there_is_not_made_again_and_a_gap_is_filled_with_the_same(run, tmp_path, monkeypatch):
    arguments = ("piano", "piano", "drums", "--out", tmp_path, *FAST)
    run(*arguments)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.wav")}
    (tmp_path / "0001.wav").unlink()
    made = []
    write = files.write
    monkeypatch.setattr(files, "write", lambda job, *rest: made.append(job.path.name) or write(job, *rest))
    assert run(*arguments)[0] == 0
    assert made == ["0001.wav"]
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.wav")}
    assert before["0000.wav"] == after["0000.wav"]
    assert before["0002.wav"] == after["0002.wav"]
    first, again = (
        torch.frombuffer(bytearray(files["0001.wav"][0][44:]), dtype=torch.int16) for files in (before, after)
    )
    assert (first.int() - again.int()).abs().max() <= 8  # another batch rounds otherwise


def test_clips_of_other_settings_are_not_replaced_unless_told(run, tmp_path, caplog):
    run("piano", "--out", tmp_path, *FAST)
    before = (tmp_path / "0000.wav").read_bytes()
    assert run("drums", "--out", tmp_path, *FAST)[0] == 2
    assert "made with other settings" in caplog.text
    assert (tmp_path / "0000.wav").read_bytes() == before
    assert run("drums", "--out", tmp_path, "--overwrite", *FAST)[0] == 0
    assert settings(tmp_path / "0000.wav")["prompt"] == "drums"


def test_candidates_are_the_clips_of_the_seeds_that_follow(run, tmp_path):
    _, files = run("piano", "--candidates", 3, "--seed", 5, "--out", tmp_path / "three", *FAST)
    assert len(files) == 3
    assert [settings(tmp_path / "three" / f"0000_{copy}.wav")["seed"] for copy in range(3)] == [5, 6, 7]
    run("piano", "--seed", 6, "--out", tmp_path / "one.wav", *FAST)
    pair = [soundfile.read(tmp_path / name, dtype="float32")[0] for name in ("one.wav", "three/0000_1.wav")]
    assert abs(pair[0] - pair[1]).max() < 1e-3


def test_reranking_keeps_the_candidate_that_agrees_best(run, tmp_path, monkeypatch):
    asked = []

    def loudest(name, device):
        asked.append(name)
        return lambda audio, sample_rate, texts: audio.square().mean((1, 2))

    monkeypatch.setattr("audiocraft_qamdt.builders.get_clap", loudest)
    status, files = run("piano", "--candidates", 3, "--rerank", "clap", "--clap", "my/clap", "--out", tmp_path, *FAST)
    assert status == 0
    assert len(files) == 1
    assert set(asked) == {"my/clap"}
    record = settings(tmp_path / "0000.wav")
    assert (record["candidates"], record["rerank"], len(record["scores"]["clap"])) == (3, "clap", 3)


def test_reranking_by_quality_records_what_chose_and_is_not_done_again(run, tmp_path):
    arguments = ("piano", "--candidates", 2, "--rerank", "pmos:acoustic", "--seed", 3, "--out", tmp_path / "x.wav")
    assert run(*arguments, *FAST)[0] == 0
    record, before = settings(tmp_path / "x.wav"), (tmp_path / "x.wav").stat().st_mtime_ns
    scores = record["scores"]["pmos:acoustic"]
    assert record["rerank"] == "pmos:acoustic"
    assert scores[record["chosen"]] == max(scores)
    assert len(set(scores)) == 2
    assert run(*arguments, *FAST)[0] == 0
    assert (tmp_path / "x.wav").stat().st_mtime_ns == before
    assert run(*arguments[:-1], tmp_path / "x.wav", "--rerank", "clap", *FAST)[0] == 2


def test_a_line_of_prompts_can_say_what_chooses(run, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "candidates": 2, "rerank": "pmos"}\n{"prompt": "b"}\n')
    assert run("--file", tmp_path / "p.jsonl", "--out", tmp_path / "out", *FAST)[0] == 0
    chosen, plain = (settings(tmp_path / "out" / f"{index:04d}.wav") for index in range(2))
    assert list(chosen["scores"]) == ["pmos:acoustic"]
    assert "scores" not in plain
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "candidates": 2, "rerank": "pmos:os:system"}\n')
    assert run("--file", tmp_path / "p.jsonl", "--out", tmp_path / "other", *FAST)[0] == 2


def test_a_clip_from_before_the_knob_was_there_is_not_made_again(run, tmp_path):
    run("piano", "--out", tmp_path / "x.wav", *FAST)
    record, before = settings(tmp_path / "x.wav"), (tmp_path / "x.wav").stat().st_mtime_ns
    del record["rerank"]
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert run("piano", "--out", tmp_path / "x.wav", *FAST)[0] == 0
    assert (tmp_path / "x.wav").stat().st_mtime_ns == before


def test_ctrl_c_leaves_no_half_file(trained, tmp_path):
    out = tmp_path / "out"
    prompts = [f"prompt {index}" for index in range(60)]
    options = ["--model", trained.export, "--out", out, "--batch-size", 1, "--device", "cpu", "--steps", 5]
    process = start("qamdt", "generate", *prompts, *options, log=tmp_path / "log")
    while not list(out.glob("*.wav")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    files = sorted(out.glob("*.wav"))
    assert 0 < len(files) < 60
    assert {path.suffix for path in out.iterdir()} <= {".wav", ".json"}
    assert all(
        soundfile.info(path).duration == pytest.approx(1.0) and settings(path)["file"] == path.name for path in files
    )


def test_a_write_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(part, *args, **kwargs):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "audio_write", fail)
    assert run("piano", "--out", tmp_path / "out", *FAST)[0] == 130
    assert list((tmp_path / "out").iterdir()) == []


@contextmanager
def nobody():
    """As a user who may not write everywhere, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_named_before_any_work(run, tmp_path, caplog):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with nobody():
        assert run("piano", "--out", folder / "x.wav")[0] == 2
    assert "locked: cannot be written to" in caplog.text
    assert "--out" in caplog.text


@pytest.mark.parametrize(
    "argv, message",
    [
        (["piano", "--quality", "0"], "quality=0: levels go from 1 to 5"),
        (["piano", "--quality", "6"], "quality=6: levels go from 1 to 5"),
        (["piano", "--quality", "0:1,2:9"], "quality=9.0"),
        (["piano", "--pmos", "0.5"], "pmos=0.5: p-MOS goes from 1 to 5"),
        (["piano", "--duration", "0"], "duration=0.0: give a number of seconds above 0"),
        (["piano", "--duration", "-3"], "duration=-3.0"),
        (["piano", "--sampler", "plms"], "sampler 'plms' is unknown: choose one of ddim"),
        (["piano", "--steps", "0"], "steps=0"),
        (["piano", "--candidates", "0"], "--candidates 0: give at least 1"),
        (["piano", "--format", "aac"], "format 'aac' is unknown: choose one of wav, flac, mp3, ogg"),
        (["piano", "--out", "x.aac"], "x.aac: .aac is no audio format"),
        (["piano", "drums", "--out", "x.wav"], "x.wav: 2 clips do not fit into one file"),
        (["piano", "--model", "/nothing/here"], "/nothing/here: neither an export"),
        (["piano", "--model", "nobody/nothing"], "nobody/nothing: neither an export or checkpoint here nor"),
        (["--file", "missing.txt"], "missing.txt: there is no such file of prompts"),
        ([], "nothing to generate"),
        (["piano", "--dtype", "int8"], "dtype='int8' is unknown"),
    ],
    ids=lambda value: "-".join(value).strip("-").replace("/", "_") if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line(run, tmp_path, caplog, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    status, files = run(*argv)
    assert status == 2
    assert files == []
    assert message in caplog.text
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("value", ["high", "0:low", "1:2:3", "nan:1", ""])
def test_quality_that_is_no_number_is_refused_by_the_parser(run, capsys, value):
    with pytest.raises(SystemExit):
        run("piano", f"--quality={value}")
    assert "neither a number from 1 to 5 nor a curve like 0:1,8:5" in capsys.readouterr().err


def test_odd_prompts_give_files(run, tmp_path):
    long = " ".join(f"word{index}" for index in range(5000))
    status, files = run("", long, "--out", tmp_path, *FAST)
    assert status == 0
    assert len(files) == 2
    assert settings(tmp_path / "0001.wav")["prompt"] == long


def test_without_a_model_it_says_how_to_come_by_one(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QAMDT_MODEL", raising=False)
    monkeypatch.setattr("audiocraft_qamdt.checkpoints.store.EMBEDDED", tmp_path / "nothing")
    assert main(["generate", "piano"]) == 2
    assert "QAMDT_MODEL" in caplog.text
    assert "make pretrained" in caplog.text


def test_the_fast_model_takes_four_steps(tmp_path):
    assert main(["generate", "slow piano", "--model", "fast", "--duration", "1", "--out", str(tmp_path / "x.wav")]) == 0
    assert settings(tmp_path / "x.wav")["steps"] == 4


def test_the_model_may_come_from_the_environment(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("QAMDT_MODEL", str(trained.export))
    assert main(["generate", "piano", "--out", str(tmp_path / "x.wav"), *FAST]) == 0


@pytest.mark.parametrize(
    "line, message",
    [
        ("not json", "p.jsonl:2: not JSON"),
        ('"piano"', 'p.jsonl:2: give an object with a "prompt"'),
        ('{"text": "piano"}', 'give an object with a "prompt"'),
        ('{"prompt": "piano", "quality": "loud"}', "p.jsonl:2: quality: 'loud' is neither a number from 1 to 5 nor"),
        ('{"prompt": "piano", "tempo": 90}', "p.jsonl:2: unknown tempo: choose among prompt, duration, quality"),
    ],
)
def test_bad_lines_of_prompts_are_named(tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "p.jsonl")


def test_equal_prompts_get_seeds_of_their_own(tmp_path):
    rows = [{"prompt": text} for text in ("a", "b", "a", "a")]
    assert [job.settings["seed"] for job in make_jobs(rows, tmp_path, None, {"seed": 10})] == [10, 10, 11, 12]


def test_another_model_under_the_same_name_has_another_fingerprint(model):
    before = files.fingerprint(model)
    assert files.fingerprint(model) == before
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.001)
    assert files.fingerprint(model) != before
