"""Files are whole or as they were."""

from __future__ import annotations

import json

import pytest

from audiocraft_qamdt.utils.files import replacing, write_json


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
