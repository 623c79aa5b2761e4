"""Rules by source: p-MOS and caption of the tracks that they fit, and nothing else."""

from __future__ import annotations

import json

import pytest

from audiocraft_qamdt.data.manifest import build_manifest, read_quality, update_sidecar
from audiocraft_qamdt.quality.annotate import annotate
from audiocraft_qamdt.quality.levels import QualityStatistics
from audiocraft_qamdt.quality.rules import apply_rules, read_rules

from ..helpers.audio_folder import write_track

RULES = """
- {source: "pixa_*", pmos: 5, caption: [caption_generated, caption_original]}
- {source: "msd_*", caption: caption_original}
"""


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("pixa_1", "msd_1", "fma_1")):
        path = tmp_path / f"{name}.wav"
        write_track(path, number, 2.0, 16000, 3.0, frames=[3.0, 3.0])
        update_sidecar(path, {"caption_generated": "none" if name == "fma_1" else "made", "caption_original": "human"})
    build_manifest(tmp_path)
    (tmp_path / "rules.yaml").write_text(RULES)
    return tmp_path


def test_the_first_rule_that_fits_says_quality_and_caption(folder):
    before = (folder / "fma_1.json").read_text()
    lines = apply_rules(folder, read_rules(folder / "rules.yaml"))
    assert lines == ["rule pixa_*: 1 tracks", "rule msd_*: 1 tracks"]
    pixa, msd = (json.loads((folder / f"{name}.json").read_text()) for name in ("pixa_1", "msd_1"))
    assert (pixa["description"], msd["description"]) == ("made", "human")
    assert read_quality(folder / "pixa_1.wav").pmos_between(0, 1) == 5
    assert read_quality(folder / "msd_1.wav").pmos == 3
    assert (folder / "fma_1.json").read_text() == before


def test_the_command_takes_them_and_the_published_weights(folder, capsys):
    from audiocraft_qamdt.cli import main

    rules = ["--rules", str(folder / "rules.yaml")]
    assert (
        main(["annotate", str(folder), "--predictor", "constant/3", "--overwrite", "--weights", "published", *rules])
        == 0
    )
    assert "rule pixa_*: 1 tracks" in capsys.readouterr().out
    assert QualityStatistics.load(folder).mean == pytest.approx((5 + 3 + 3) / 3)
    again = annotate(folder, "constant/3")
    assert again.skipped == 3
    assert read_quality(folder / "pixa_1.wav").pmos == 5
    assert main(["annotate", "--predictor", "constant/3", "--weights", str(folder)]) == 0, "as it was typed before"
    assert main(["annotate", str(folder), "--weights", "steep"]) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "give a list of rules"),
        ("- {pmos: 5}", "rule 1: give an object with source"),
        ("- {source: a, pmos: 6}", "rule 1: pmos=6"),
    ],
)
def test_wrong_rules_are_named(tmp_path, text, message):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rules(tmp_path / "rules.yaml")
