"""Outputs are refused before the work, and nobody's file is replaced."""

from __future__ import annotations

import io
import json

import pytest

from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.generation.files import Job, check_writable, make_jobs
from audiocraft_qamdt.generation.prompts import read_prompts
from audiocraft_qamdt.utils.errors import reporting
from audiocraft_qamdt.utils.files import replacing
from audiocraft_qamdt.utils.outputs import check_beside, check_file, check_folder
from audiocraft_qamdt.utils.quoting import quoted


@pytest.mark.parametrize("name", ["t.md", "T.MD", "t.csv", "t.wav", "t.jsonl", "folder", "file/t.json"])
def test_a_name_that_promises_something_else_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        check_file(tmp_path / name, (".json",))


@pytest.mark.parametrize("name", ["t.json", "T.JSON", "t", "res.v1", "new/t.json"])
def test_other_names_are_taken_and_nothing_is_left_behind(tmp_path, name):
    check_file(tmp_path / name, (".json",))
    assert not list(tmp_path.iterdir())


def test_files_beside_a_result_are_its_own_or_not_replaced(tmp_path):
    (tmp_path / "t.png").write_text("somebody's")
    with pytest.raises(FileExistsError, match="t.png is there without .*t.json"):
        check_beside(tmp_path / "t.json", tmp_path / "t.md", tmp_path / "t.png")
    (tmp_path / "t.json").write_text("{}")
    check_beside(tmp_path / "t.json", tmp_path / "t.md", tmp_path / "t.png")


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file, not a folder: choose another --out"):
        check_folder(tmp_path / "file" / "deep")


def test_the_longest_name_can_be_written(tmp_path):
    with replacing(tmp_path / ("x" * 250 + ".json")) as part:
        part.write_text("{}")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content", ['{"description": "mine"}', '{"file": "x.flac", "model": 1, "prompt": 1, "version": 1}', "[", ""]
)
def test_settings_replace_no_sidecar_of_another(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(FileExistsError, match=r"x\.json is there and was not written by this command"):
        check_writable([Job(tmp_path / "x.wav", "a", {})])
    assert (tmp_path / "x.json").read_text() == content


def test_a_clip_beside_audio_of_its_name_is_refused(tmp_path):
    (tmp_path / "x.mp3").write_text("")
    (tmp_path / "x.json").write_text('{"file": "x.mp3", "model": 1, "prompt": 1, "version": 1}')
    with pytest.raises(FileExistsError, match=r"x\.mp3 is there: x\.json would be taken for its metadata"):
        check_writable([Job(tmp_path / "x.wav", "a", {})])


def test_a_name_and_a_format_that_disagree_are_refused(tmp_path):
    with pytest.raises(ValueError, match="its name says mp3, --format wav"):
        make_jobs([{"prompt": "a"}], tmp_path / "x.mp3", "wav", {})


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".json", ".tsv", ".xlsx"])
def test_tables_are_no_prompts(tmp_path, suffix):
    (tmp_path / f"p{suffix}").write_text("prompt\nslow piano\n")
    with pytest.raises(ValueError, match="is not read: give a prompt a line"):
        read_prompts(tmp_path / f"p{suffix}")


WRONG = {"seed": ["3", 1.5, True, []], "guidance_scale": ["3", [1]], "negative_prompt": [5, []], "duration": ["1"]}
WRONG["guidance_interval"] = [0.5, [0.1], ["0", 1], [0, 0.5, 1]]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_of_another_type_is_named_with_line_and_key(tmp_path, key, value):
    (tmp_path / "p.jsonl").write_text("\n" + json.dumps({"prompt": "a", key: value}))
    with pytest.raises(ValueError, match=rf"p\.jsonl:2: {key} must be "):
        read_prompts(tmp_path / "p.jsonl")


def test_null_is_not_set_and_whole_floats_are_whole(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "seed": 3.0, "duration": null, "steps": NaN}')
    assert read_prompts(tmp_path / "p.jsonl") == [{"prompt": "a", "seed": 3}]


@pytest.mark.parametrize("name", ["日本", "rock, vol. 1", "a (b)", "it's", 'x"y', "[x]", "a=b", "a b", "plain"])
def test_folders_with_characters_of_hydras_grammar_are_taken(name):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(quoted(f"folder=/data/{name}"))
    assert override.value() == f"/data/{name}"


@pytest.mark.parametrize("argument", ["optim.lr=1e-3", "+a.b=[1,2]", "~x", "x={a: 1}", "show=true", "x='a, b'"])
def test_what_hydra_can_take_stays(argument):
    assert quoted(argument) == argument


@pytest.mark.parametrize(
    "error", [ValueError("x.json: wrong"), FileNotFoundError("no x"), ImportError("pip install x")]
)
def test_a_mistake_is_one_line_and_status_two(caplog, monkeypatch, error):
    def fail():
        raise error

    assert reporting(fail) == 2 and caplog.messages == [str(error)]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(type(error)):
        reporting(fail)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), RuntimeError("shapes"), AssertionError()])
def test_a_bug_is_a_traceback(error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        reporting(fail)


def test_results_are_printed_in_any_encoding(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    say(["日本.wav: 3.5"])
    assert terminal.buffer.getvalue() == b"\\u65e5\\u672c.wav: 3.5\n"
