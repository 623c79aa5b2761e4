"""Damaged inputs of every kind that people write: an error names the file, a warning what is left out, nothing else."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiocraft_qamdt.data.manifest import read_manifest, read_quality, write_sidecar_key
from audiocraft_qamdt.data.metadata import KINDS, read_metadata
from audiocraft_qamdt.generation.params import KNOBS
from audiocraft_qamdt.generation.prompts import read_prompts
from audiocraft_qamdt.metrics.texts import read_captions
from audiocraft_qamdt.quality.levels import QualityStatistics
from audiocraft_qamdt.utils import reading

EXAMPLES = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def damaged(text: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Bytes of a text: whole, with a byte order mark, in other encodings, cut off, or with a byte in it changed."""
    spoil = st.sampled_from(["whole", "mark", "latin-1", "utf-16", "cut", "byte", "crlf", "blank"])
    return st.builds(_spoil, text, spoil, st.integers(0, 300), st.integers(0, 255))


def _spoil(text: str, how: str, place: int, byte: int) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    if how in ("latin-1", "utf-16"):
        return text.encode(how, "replace")
    if how == "byte":
        return content[:place] + bytes([byte]) + content[place + 1 :]
    changed = {"mark": b"\xef\xbb\xbf" + content, "cut": content[:place], "blank": b"\n\n" + content + b"\n\n"}
    return changed.get(how, content.replace(b"\n", b"\r\n") if how == "crlf" else content)


def json_of(*keys: str) -> st.SearchStrategy[str]:
    """A JSON object with some of the keys, or any other value."""
    fields = st.dictionaries(st.sampled_from(keys) | st.text(max_size=4), VALUES, max_size=5)
    return (fields | VALUES).map(json.dumps)


def rows_of(*keys: str) -> st.SearchStrategy[str]:
    """JSON lines with some of the keys each."""
    return st.lists(json_of(*keys), max_size=3).map("\n".join)


def named(path, read):
    """What `read` gives; its errors are one line that names the file."""
    try:
        return read()
    except (ValueError, OSError) as error:
        message = str(error)
        assert str(path) in message
        assert "Traceback" not in message
        return None


@EXAMPLES
@given(content=damaged(rows_of("path", "duration", "sample_rate", "weight", "amplitude")), zipped=st.booleans())
def test_manifests(tmp_path, content, zipped):
    path = tmp_path / ("data.jsonl.gz" if zipped else "data.jsonl")
    path.write_bytes(gzip.compress(content) if zipped else content)
    rows = named(path, lambda: read_manifest(path))
    if rows is not None:
        lines = [line for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        assert len(rows) == len(lines)  # none is dropped


@EXAMPLES
@given(content=damaged(json_of("quality", "title", *KINDS)))
def test_sidecars(tmp_path, caplog, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    reading.warn_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        kept = read_metadata(path)
        named(path, lambda: read_quality(tmp_path / "a.wav"))
    try:
        there = json.loads(content.decode("utf-8-sig"))
    except ValueError:
        there = None
    dropped = (
        KINDS.keys() & {key for key, value in (there or {}).items() if value is not None} - kept.keys()
        if (isinstance(there, dict))
        else {"all of it"}
    )
    assert not dropped or str(path) in caplog.text
    if (
        named(path, lambda: write_sidecar_key(tmp_path / "a.wav", "mine", 1)) is None
        and b"mine" not in path.read_bytes()
    ):
        assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@EXAMPLES
@given(content=damaged(json_of("mean", "std", "count", "quantiles", "predictor", "version", "unscored")))
def test_quality_files(tmp_path, content):
    path = tmp_path / "quality.json"
    path.write_bytes(content)
    named(path, lambda: QualityStatistics.load(path))


@EXAMPLES
@given(content=damaged(rows_of("prompt", *KNOBS)), suffix=st.sampled_from([".jsonl", ".txt", ".JSONL"]))
def test_prompts(tmp_path, content, suffix):
    path = tmp_path / f"prompts{suffix}"
    path.write_bytes(content)
    rows = named(path, lambda: read_prompts(path))
    if rows is not None:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        assert len(rows) == sum(bool(line.strip()) for line in text.split("\n"))
        assert all(isinstance(row["prompt"], str) and None not in row.values() for row in rows)


def _table(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([["file", "description"], *rows])
    return text.getvalue()


CELLS = st.sampled_from(["a.wav", "b", "c.flac", ""]) | st.text(max_size=6)
TABLES = st.lists(st.lists(CELLS, max_size=3), max_size=4).map(_table)


@EXAMPLES
@given(
    content=st.one_of(damaged(TABLES), damaged(rows_of("file", "description")), damaged(json_of("a.wav", "b"))),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".CSV"]),
)
def test_captions(tmp_path, content, suffix):
    path = tmp_path / f"captions{suffix}"
    path.write_bytes(content)
    files = {"a": tmp_path / "a.wav", "b": tmp_path / "b.wav"}
    texts = named(path, lambda: read_captions(path, files))
    assert texts is None or texts.keys() <= files.keys()


@pytest.mark.parametrize("content", ['{"a":' * 20000, "1" * 5000, '{"bpm": 1e999}'], ids=["deep", "long", "huge"])
def test_json_beyond_what_python_reads_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    named(path, lambda: reading.read_json(path))
