"""Several language models and prompts over the same tracks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from audiocraft_qamdt.captions.compare import compare
from audiocraft_qamdt.captions.settings import load_settings
from audiocraft_qamdt.cli import main

from ..helpers.audio_folder import make_folder
from ..helpers.clap import write_clap
from .server import Reply, serve

CONFIG = """
match: {{model: clap, threshold: -1, clap: {{name: {clap}, device: cpu}}}}
rewrite: {{model: endpoint, margin: 3, endpoint: {{url: {url}, model: good, backoff: 0.01, retries: 0}}}}
compare:
  - {{name: good}}
  - {{name: good short, rewrite: {{prompt: short}}}}
  - {{name: same, rewrite: {{endpoint: {{model: good2}}}}}}
  - {{name: bad, rewrite: {{endpoint: {{model: bad}}}}}}
  - {{name: by rule, rewrite: {{model: join}}}}
"""


def respond(body, number):
    if body["model"] == "bad":
        return Reply(status=400) if number % 4 == 0 else Reply("A high quality song by Elvis Presley.")
    kind = (
        "soft slow chords" if "one English sentence" in body["messages"][0]["content"] else "loud fast drums and bass"
    )
    return Reply(f"a piece with {kind} {len(body['messages'][1]['content']) % 2}")


@pytest.fixture
def config(tmp_path):
    with serve(respond) as server:
        (tmp_path / "clap").mkdir()
        path = tmp_path / "compare.yaml"
        path.write_text(CONFIG.format(clap=write_clap(tmp_path / "clap"), url=server.url))
        yield path


def test_a_comparison_says_what_each_variant_did(tmp_path, config, capsys):
    folder = make_folder(tmp_path / "data", 8, duration=2.0, quality=False)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert (
        main(
            [
                "captions",
                "compare",
                str(folder),
                "--config",
                str(config),
                "--tracks",
                "6",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    out = capsys.readouterr().out
    assert "| good | 6 |" in out and "tracks without an answer" in out  # the bad model's
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    rows, agreement = {row["name"]: row for row in content["table"]}, np.array(content["agreement"], float)
    assert rows["good"]["tracks"] == 6
    assert rows["good"]["rejected"] == 0
    assert rows["good"]["words"] == 9
    assert rows["bad"]["rejected"] == 1
    assert rows["bad"]["tracks"] + rows["bad"]["failed"] == 6
    assert rows["good"]["before"] == pytest.approx(rows["good short"]["before"])  # the same inputs
    assert agreement[0, 2] == 1  # they wrote the same
    assert agreement[0, 4] < 0.9999
    assert np.allclose(agreement, agreement.T, atol=1e-4)
    assert len(content["captions"]["good"]) == 6
    assert (tmp_path / "out" / "compare.md").read_text().startswith("| variant |")
    assert (tmp_path / "out" / "compare.png").stat().st_size > 20000


@pytest.mark.parametrize(
    "variants, message",
    [
        ("[]", "at least two variants"),
        ("[{name: a}, {name: a}]", "at least two variants of different `name`"),
        ("[{name: a}, {name: b, rewrite: {modle: join}}]", "variant 'b'.*modle"),
        ("[{name: a}, {name: b, match: {threshold: 1}}]", "variant 'b'.*match"),
    ],
    ids=["none", "twice", "key", "stage"],
)
def test_mistakes_in_the_variants_are_named(tmp_path, variants, message):
    folder = make_folder(tmp_path / "data", 1, duration=2.0, quality=False)
    (tmp_path / "c.yaml").write_text(f"compare: {variants}\nrewrite: {{model: join}}")
    with pytest.raises(ValueError, match=message):
        compare(folder, load_settings(tmp_path / "c.yaml"))
