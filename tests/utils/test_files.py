"""Files are written whole; output folders are the command's own; locks name their holder; dead parts are removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from audiocraft_qamdt.utils.files import (
    claim,
    holds_only,
    locked,
    part_of,
    recover,
    remove_dead_parts,
    replacing,
    replacing_folder,
    write_json,
)

COMMAND = "qamdt test"


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with replacing(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(OSError), replacing(path) as part:
        part.write_text("half")
        raise OSError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["piano 🎹", "half a character \ud83c"], ids=["whole", "half"])
def test_json_holds_any_text(tmp_path, text):
    write_json(tmp_path / "x.json", {"text": text})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"text": text}


def test_json_refuses_what_other_readers_could_not_read(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["new", "empty", "own"])
def test_a_new_an_empty_and_an_own_folder_are_taken(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "empty":
        out.mkdir()
    elif kind == "own":
        (claim(out, COMMAND) / "result").write_text("earlier")
    assert claim(out, COMMAND) == out
    assert out.is_dir()


@pytest.mark.parametrize("kind", ["music", "hidden", "another command's", "file"])
def test_what_another_made_is_left_alone(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    elif kind == "another command's":
        claim(out, "qamdt other")
    else:
        out.mkdir()
        (out / (".hidden" if kind == "hidden" else "song.wav")).write_text("precious")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(OSError, match="out"):
        claim(out, COMMAND)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_folder_without_a_mark_is_known_by_its_files(tmp_path):
    (tmp_path / "report.html").write_text("")
    (tmp_path / "loss.png").write_text("")
    claim(tmp_path, COMMAND, holds_only("report.html", "*.png"))
    (tmp_path / ".qamdt.json").unlink()
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="did not make"):
        claim(tmp_path, COMMAND, holds_only("report.html", "*.png"))


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_parts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path, monkeypatch):
    living = part_of(tmp_path / "a.wav", "part")
    pid = ended_process()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        dead, folder = part_of(tmp_path / "a.wav", "part"), part_of(tmp_path / "model", "part")
    own = tmp_path / ".mine.part"
    for path in (living, dead, own):
        path.write_text("")
    folder.mkdir()
    assert sorted(remove_dead_parts(tmp_path)) == sorted([dead, folder])
    assert sorted(tmp_path.iterdir()) == sorted([living, own])


def test_a_lock_says_who_holds_it_and_ends_with_its_process(tmp_path):
    code = f"""
    import sys
    from pathlib import Path
    from audiocraft_qamdt.utils.files import locked
    with locked(Path({str(tmp_path / "lock")!r})):
        print("held", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError, match=f"process {holder.pid} on"), locked(tmp_path / "lock", wait=False):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock", wait=False):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    for text in ("first", "second"):
        with replacing_folder(folder, lambda path: (path / "text").exists(), COMMAND) as part:
            (part / "text").write_text(text)
    with pytest.raises(RuntimeError), replacing_folder(folder, lambda path: True, COMMAND) as part:
        (part / "text").write_text("third")
        raise RuntimeError
    assert (folder / "text").read_text() == "second"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_was_killed_between_the_renames_comes_back(tmp_path):
    (tmp_path / ".model.qamdt-old").mkdir()
    (tmp_path / ".model.qamdt-old" / "text").write_text("first")
    recover(tmp_path / "model")
    assert (tmp_path / "model" / "text").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_neighbours_named_like_parts_are_kept(tmp_path):
    for name in ("model.part", "model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("precious")
    with replacing_folder(tmp_path / "model", lambda path: False, COMMAND) as part:
        (part / "text").write_text("first")
    assert len(list(tmp_path.rglob("thesis.txt"))) == 2


def test_a_very_long_name_can_be_replaced(tmp_path):
    path = tmp_path / ("ü" * 120 + ".json")
    with replacing(path) as part:
        part.write_text("text")
    assert path.read_text() == "text"
