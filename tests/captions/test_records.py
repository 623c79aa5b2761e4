"""Sidecars: three keys are added, every other stays, and all of it can be taken back."""

from __future__ import annotations

import json

import pytest

from audiocraft_qamdt.captions.records import Candidate, read_texts, undo_texts, write_texts

SIDECAR = {"title": "ü", "description": "old", "quality": {"pmos": 3.0}, "other": [1, {"a": None}]}


@pytest.fixture
def audio(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(SIDECAR, indent=2))
    return tmp_path / "a.wav"


def content(audio):
    return json.loads(audio.with_suffix(".json").read_text())


def test_three_keys_are_written_and_undone(audio):
    texts = read_texts(audio)
    candidates = [
        Candidate("old", "original", score=0.1, kept=False, reason="score"),
        Candidate("new 🎹", "caption", "m", 0.5, (0.0, 10.0), refined=True),
    ]
    assert write_texts(audio, texts, candidates, "new 🎹")
    written = content(audio)
    assert written["description"] == "new 🎹"
    assert written["description_original"] == "old"
    assert {key: written[key] for key in SIDECAR if key != "description"} == {
        key: value for key, value in SIDECAR.items() if key != "description"
    }
    assert [Candidate.from_dict(entry) for entry in written["captions"]] == candidates
    assert not write_texts(audio, read_texts(audio), candidates, "new 🎹")  # nothing changes the second time
    assert read_texts(audio).original == "old"
    assert undo_texts(audio)
    assert content(audio) == SIDECAR
    assert list(content(audio)) == list(SIDECAR)
    assert not undo_texts(audio)


def test_a_second_refinement_keeps_the_first_original(audio):
    write_texts(audio, read_texts(audio), [], "new")
    write_texts(audio, read_texts(audio), [], "newer")
    assert (content(audio)["description"], content(audio)["description_original"]) == ("newer", "old")
    undo_texts(audio)
    assert content(audio) == SIDECAR


def test_a_description_that_does_not_pass_any_more_goes(tmp_path):
    audio = tmp_path / "b.wav"
    write_texts(audio, read_texts(audio), [Candidate("new", "caption")], "new")
    write_texts(audio, read_texts(audio), [Candidate("new", "caption", kept=False)], None)
    assert content(audio)["description"] is None
    assert content(audio)["captions"][0]["kept"] is False
    undo_texts(audio)
    assert not audio.with_suffix(".json").exists()


@pytest.mark.parametrize("sidecar", [None, {"title": "x"}, {"title": "x", "description": None}])
def test_a_track_without_a_description_gets_back_to_none(tmp_path, sidecar):
    audio, path = tmp_path / "b.wav", tmp_path / "b.json"
    if sidecar is not None:
        path.write_text(json.dumps(sidecar))
    texts = read_texts(audio)
    assert texts.original is None
    write_texts(audio, texts, [Candidate("new", "caption")], "new")
    assert content(audio)["description_original"] is None
    undo_texts(audio)
    assert path.exists() == (sidecar is not None)
    assert sidecar is None or content(audio).get("description") is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "must hold a JSON object"),
        ("{", "not JSON"),
        ('{"description": 3}', "description must be a text"),
        ('{"captions": [{"text": 1}]}', "captions must be a list"),
    ],
    ids=["list", "half", "number", "captions"],
)
def test_broken_sidecars_are_named_and_left_alone(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=f"c.json.*{message}"):
        read_texts(tmp_path / "c.wav")
    assert (tmp_path / "c.json").read_text() == text
