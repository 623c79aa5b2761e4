"""`qamdt report --grid`: one page, Markdown and CSV that say the same, from real experiments and from known numbers."""

from __future__ import annotations

import csv
import re
import shutil
import statistics

import pytest
import torch

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.sweeps import report
from audiocraft_qamdt.sweeps.arms import make_sweep
from audiocraft_qamdt.sweeps.report import mask_curves, write_grid_report

from ..helpers.audio_folder import make_folder
from ..helpers.runs import TINY, experiment, history, main_in, solver_in
from ..reports.test_runs import rendered
from .test_arms import FRECHET, evaluated, run


def rows(path) -> list[dict[str, str]]:
    return list(csv.DictReader(open(path, newline="")))


@pytest.fixture
def granularity():
    values = {"none": (10.0, 12.0, 14.0), "clip": (8.0, 8.5, 9.0), "all": (12.0,)}
    return make_sweep(
        "qamdt.mos_granularity",
        [
            run(f"{name}{seed}", evaluated(frechet=value, inception=value), conditioner=f"qamdt/{name}", seed=seed)
            for name, found in values.items()
            for seed, value in enumerate(found)
        ]
        + [run("late", [], "0 of 2 epochs done", conditioner="qamdt/<late>")],
    )


def test_tables_say_mean_deviation_best_and_difference(granularity, tmp_path):
    written = write_grid_report(granularity, tmp_path, baseline="none")
    text, page = written.text.read_text(), written.page.read_text()
    assert f"| arm | seeds | {FRECHET} ↓ | inception_playground/evaluate_n64/best1 ↑ |" in text
    assert "| conditioner=qamdt/none | 3 | 12 ± 2 | **12 ± 2** |" in text
    assert "| conditioner=qamdt/clip | 3 | **8.5 ± 0.5** | 8.5 ± 0.5 |" in text
    assert "| conditioner=qamdt/all | 1 | 12 ± – | **12 ± –** |" in text
    assert "| conditioner=qamdt/clip | −29.2 %, apart | −29.2 %, apart |" in text
    assert "| conditioner=qamdt/all | +0.0 % | +0.0 % |" in text
    assert "- late (conditioner=qamdt/&lt;late&gt;): 0 of 2 epochs done" in text
    assert "unequal numbers of seeds" in text
    assert "<td><b>8.5 ± 0.5</b></td>" in page
    assert "−29.2 %, apart" in page
    assert "qamdt/<late>" not in page
    assert "qamdt/&lt;late&gt;" in page
    table = {(row["arm"], row["metric"]): row for row in rows(written.table)}
    clip = table["conditioner=qamdt/clip", FRECHET]
    assert (float(clip["mean"]), float(clip["sd"]), clip["seeds"], clip["best"]) == (8.5, 0.5, "3", "1")
    assert (clip["better"], clip["sd_intervals"], clip["conditioner"]) == ("lower", "apart", "qamdt/clip")
    assert float(clip["relative_percent"]) == pytest.approx(-350 / 12)
    assert (
        table["conditioner=qamdt/all", FRECHET]["sd"]
        == table["conditioner=qamdt/none", FRECHET]["relative_percent"]
        == ""
    )
    runs = rows(written.runs)
    assert [row["signature"] for row in runs if row["counted"] == "0"] == ["late"]
    assert len(runs) == 8
    assert {row["signature"]: row[FRECHET] for row in runs}["clip1"] == "8.5"


def test_intervals_over_clips_stand_beside_the_deviation_over_seeds(granularity, tmp_path):
    for half, one in zip((1.0, 3.0), granularity.arms[0].runs, strict=False):
        one.intervals[FRECHET] = half
    written = write_grid_report(granularity, tmp_path)
    assert "| conditioner=qamdt/none | 3 | 12 ± 2 [2.2] | **12 ± 2** |" in written.text.read_text()
    assert "[half the 95 % bootstrap interval of one run over its clips]" in written.text.read_text()
    table = {(row["arm"], row["metric"]): row["ci95"] for row in rows(written.table)}
    assert float(table["conditioner=qamdt/none", FRECHET]) == pytest.approx(5**0.5)
    assert table["conditioner=qamdt/clip", FRECHET] == ""
    table = rows(written.runs)
    columns = list(table[0])
    assert columns.index(f"{FRECHET} ci95") > columns.index("inception_playground/evaluate_n64/best1")
    runs = {row["signature"]: row[f"{FRECHET} ci95"] for row in table}
    assert (runs["none0"], runs["none1"], runs["none2"], runs["clip0"]) == ("1.0", "3.0", "", "")


def test_page_without_a_baseline_compares_nothing_and_an_unknown_one_writes_nothing(granularity, tmp_path):
    written = write_grid_report(granularity, tmp_path / "a")
    assert "Relative to" not in written.text.read_text() + written.page.read_text()
    assert "relative_percent" not in written.table.read_text()
    with pytest.raises(ValueError, match="no arm is called 'frame'"):
        write_grid_report(granularity, tmp_path / "b", baseline="frame")
    assert not (tmp_path / "b").exists()


def test_mask_ratio_is_a_curve_for_each_kind_and_a_spread_lies_at_its_mean():
    arms = [("random", 0.0, 0.0), ("random", 0.6, 0.0), ("random", 0.3, 0.0), ("random", 0.3, 0.2)]
    arms += [("time_frequency", 0.3, 0.0), ("time_frequency", 0.6, 0.0)]
    runs = [
        run(
            f"{index}{seed}",
            evaluated(kl=index + seed),
            masking__kind=kind,
            masking__ratio=ratio,
            masking__spread=spread,
            seed=seed,
        )
        for index, (kind, ratio, spread) in enumerate(arms)
        for seed in (0, 1)
    ]
    curves = mask_curves(make_sweep("g", runs), "kl_playground/evaluate_n64/best1")
    deviation = statistics.stdev([0, 1])
    assert curves == {
        "random": [(0.0, 0.5, deviation, 0.0), (0.3, 2.5, deviation, 0.0), (0.6, 1.5, deviation, 0.0)],
        "time_frequency": [(0.0, 0.5, deviation, 0.0), (0.3, 4.5, deviation, 0.0), (0.6, 5.5, deviation, 0.0)],
        "random + U(0, 0.2)": [(0.4, 3.5, deviation, 0.2)],
    }


def test_two_arms_without_a_mask_are_points_of_their_own():
    masks = {"a": (0.3, 200), "b": (0.0, 200), "c": (0.0, 189)}
    runs = [
        run(name, evaluated(kl=updates), masking__ratio=ratio, masking__spread=0.0, optim__updates_per_epoch=updates)
        for name, (ratio, updates) in masks.items()
    ]
    curves = mask_curves(make_sweep("g", runs), "kl_playground/evaluate_n64/best1")
    assert {label: [point.at for point in points] for label, points in curves.items()} == {
        "random optim.updates_per_epoch=200": [0.0, 0.3],
        "no mask optim.updates_per_epoch=189": [0.0],
    }


RATIOS = (0.1, 0.2, 0.3)


def test_pictures_are_curves_over_three_mask_ratios_and_bars_elsewhere(granularity, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report.plots, "error_lines", lambda series, *_, **__: drawn.append(sorted(series)))
    monkeypatch.setattr(report.plots, "error_bars", lambda bars, *_, **__: drawn.append(sorted(bars)))
    report.draw(make_sweep("g", [run(str(r), evaluated(kl=r), masking__ratio=r) for r in RATIOS]), tmp_path)
    report.draw(granularity, tmp_path)
    loss_over_time = [["0.1", "0.2", "0.3"], ["qamdt/all", "qamdt/clip", "qamdt/none"]]
    bars = [["qamdt/all", "qamdt/clip", "qamdt/none"]] * 2
    assert drawn == [["random + U(0, 0.2)"], loss_over_time[0], *bars, loss_over_time[1]]


def test_a_bars_label_says_what_its_arm_sets_and_no_more(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report.plots, "error_bars", lambda bars, *_, **__: drawn.append(list(bars)))
    runs = [
        run("a", evaluated(kl=1), conditioner="qamdt/none"),
        run("b", evaluated(kl=2), conditioner="qamdt/none", dataset__train__filter_below=4.1),
        run("c", evaluated(kl=3)),
        *(run(one, evaluated(kl=4), continue_from=f"//sig/a-long-name-that-ends-in-{one}") for one in "de"),
    ]
    report.draw(make_sweep("g", runs), tmp_path)
    assert drawn[0][:2] == ["conditioner=qamdt/none", "conditioner=qamdt/none filter_below=4.1"]
    assert len(set(drawn[0])) == 5


@pytest.mark.slow
def test_grid_of_real_runs(tmp_path, capsys):
    recipe = [*TINY, "optim.updates_per_epoch=1", "optim.epochs=1", "generate.steps=2", "generate.every=null"]
    recipe += ["evaluate.metrics.silence=true", f"folder={make_folder(tmp_path / 'audio', tracks=4)}"]
    outputs = tmp_path / "outputs"
    arms = {(ratio, seed): [f"masking.ratio={ratio}", f"seed={seed}"] for ratio in (0.1, 0.5) for seed in (1, 2)}
    for argv in arms.values():
        with solver_in(outputs, *recipe, *argv) as solver:
            solver.run()
        link = outputs / "grids" / "masks" / solver.folder.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(solver.folder)
    main_in(outputs)
    assert main(["report", "--grid", "masks", "--out", str(tmp_path / "r"), "--baseline", "masking.ratio=0.1"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == str(tmp_path / "r" / "report.html")
    losses = {key: history(experiment(outputs, *recipe, *argv))[-1]["evaluate"]["loss"] for key, argv in arms.items()}
    table = {row["arm"]: row for row in rows(tmp_path / "r" / "report.csv") if row["metric"] == "loss"}
    for ratio in (0.1, 0.5):
        expected = torch.tensor([losses[ratio, seed] for seed in (1, 2)], dtype=torch.float64)
        row = table[f"masking.ratio={ratio}"]
        assert float(row["mean"]) == pytest.approx(expected.mean().item())
        assert float(row["sd"]) == pytest.approx(expected.std().item())
        assert expected.std() > 0
    intervals = {row["metric"]: row["ci95"] for row in rows(tmp_path / "r" / "report.csv")}
    assert float(next(half for metric, half in intervals.items() if metric.startswith("silent"))) >= 0
    assert intervals["loss"] == ""
    page = (tmp_path / "r" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/png") for source in sources)
    assert (tmp_path / "r" / "metric_loss.png").read_bytes().startswith(b"\x89PNG")
    if shutil.which("chromium") is None:
        pytest.skip("the page was not opened: chromium is not installed")
    assert "Relative to masking.ratio=0.1" in rendered(tmp_path / "r" / "report.html", tmp_path / "profile")


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "give signatures, or --grid NAME"),
        (["abc", "--grid", "g"], "not both"),
        (["abc", "--baseline", "none"], "give --grid NAME"),
    ],
)
def test_what_does_not_go_together_is_said(argv, said, caplog):
    assert main(["report", *argv]) == 2
    assert said in caplog.text
