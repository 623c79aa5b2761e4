"""`qamdt report`: one page that needs nothing else, from real experiments."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.quality.levels import QualityStatistics, level_rule
from audiocraft_qamdt.reports.runs import Run, _sample, write_report

from ..helpers.audio_folder import make_folder
from ..helpers.runs import TINY, main_in, solver_in

RUN = [
    *TINY,
    "optim.epochs=2",
    "optim.updates_per_epoch=2",
    "dataset.generate.num_samples=6",
    "generate.steps=2",
    "evaluate.every=1",
    "evaluate.metrics.silence=true",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Outputs folder and signature of an experiment with losses, metrics of two epochs and samples."""
    outputs = tmp_path_factory.mktemp("outputs")
    arguments = [*RUN, f"folder={make_folder(tmp_path_factory.mktemp('audio'))}"]
    with solver_in(outputs, *arguments) as solver:
        solver.run()
    return outputs, solver.folder.name


def test_page_holds_everything_it_shows(trained, tmp_path, capsys):
    outputs, signature = trained
    main_in(outputs)
    assert main(["report", signature, "--out", str(tmp_path), "--samples", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith(("data:image/png", "data:audio/flac")) for source in sources)
    assert "http" not in re.sub(r'"data:[^"]*"|http-equiv', "", page)
    assert "default-src 'none'" in page
    assert "unsafe" not in page
    headings = re.findall(r"<h3>(Quality .): (\d+) of (\d+), epoch 2</h3>", page)
    clips = list((outputs / "xps" / signature / "samples" / "2").glob("*.wav"))
    assert len(headings) > 1
    assert sum(int(total) for *_, total in headings) == len(clips)
    assert page.count("<audio") == sum(int(shown) for _, shown, _ in headings)
    assert "silent/n4/best1_seed0" in page
    assert "epoch 2" in page
    assert "solver=qamdt/debug" in page
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert {"loss.png", "metric_silent-n4-best1_seed0.png"} <= pictures
    assert {f"loss_by_timestep_{signature}.png", f"loss_by_level_{signature}.png"} <= pictures
    if shutil.which("chromium") is None:
        pytest.skip("the page was not opened: chromium is not installed")
    assert "Quality" in rendered(tmp_path / "report.html", tmp_path / "profile")


def rendered(page, profile) -> str:
    """The page's document after a headless Chromium has loaded it."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=5000 --dump-dom"
    command = ["chromium", *flags.split(), f"--user-data-dir={profile}", f"file://{page}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_what_is_missing_is_said_and_text_is_escaped(tmp_path):
    run = Run("abc", ["label=<script>"], [{"train": {"loss": 1.0}}], [])
    page = write_report([run, Run("def", [], [], [])], tmp_path).read_text()
    assert "<script>" not in page
    assert "label=&lt;script&gt;" in page
    assert "abc was not evaluated" in page
    assert "def has no samples" in page


@pytest.mark.parametrize(
    "asked, quality, rule, level",
    [
        pytest.param(None, 4, True, 4, id="level of the reference"),
        pytest.param(2, 4, True, 2, id="level that was asked for"),
        pytest.param(4.6, None, False, 5, id="fraction that was asked for"),
        pytest.param(None, 4, False, 4, id="level without a rule"),
        pytest.param(None, None, True, None, id="unknown"),
        pytest.param(None, 4.9, True, 5, id="p-MOS of samples made before"),
        pytest.param(None, 4.9, False, None, id="p-MOS without a rule"),
    ],
)
def test_level_is_what_was_asked_for_else_that_of_the_reference(tmp_path, asked, quality, rule, level):
    statistics = QualityStatistics.from_scores([1.0, 2.0, 3.0, 4.0, 5.0], "test", "1", 0)
    conditioning = {"description": "slow piano", "quality_frame": [quality], "quality_clip": quality}
    fields = {"conditioning": conditioning, "generation_args": {"quality": asked}, "epoch": 3}
    (tmp_path / "clip_a.b.json").write_text(json.dumps(fields))
    (tmp_path / "clip_a.b.wav").touch()
    sample = _sample(tmp_path / "clip_a.b.json", level_rule("quantile", statistics) if rule else None)
    assert (sample.level, sample.epoch, sample.audio.name) == (level, 3, "clip_a.b.wav")


def test_unknown_signature_is_named(tmp_path, caplog):
    main_in(tmp_path)
    assert main(["report", "0badc0de", "--out", str(tmp_path / "report")]) == 2
    assert "no experiment 0badc0de" in caplog.text
    assert not (tmp_path / "report").exists()
