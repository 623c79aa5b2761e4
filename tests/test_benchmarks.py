"""What the benchmarks count and write. How long anything takes is not tested."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from audiocraft_qamdt.generation.qamdt import QAMDT
from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.harness import Bench, Result, Settings, Work, count_flops, measure, select
from benchmarks.sampler_error import Measured
from benchmarks.table import best_peak, markdown

PRODUCT = 2 * 64 * 48 * 32  # floating-point operations of a product of [64, 48] and [48, 32]


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path, threads=1, repeats=2, seconds=0.0)


@pytest.fixture
def benches(monkeypatch):
    """An empty table of benches."""
    monkeypatch.setattr(harness, "BENCHES", {})
    return harness.BENCHES


def multiply() -> torch.Tensor:
    return torch.ones(64, 48) @ torch.ones(48, 32)


def test_a_product_has_two_operations_for_each_pair_of_numbers():
    assert count_flops(multiply) == PRODUCT


@pytest.mark.parametrize("keys", [16, 24])
def test_attention_is_counted_forwards_and_backwards(keys):
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (16, keys, keys))
    product = 2 * 2 * 3 * 16 * keys * 8  # of a batch of 2 with 3 heads
    with torch.no_grad():
        assert count_flops(lambda: F.scaled_dot_product_attention(query, key, value)) == 2 * product
    # backwards: the scores again, and the gradients of scores, values, queries and keys
    there_and_back = count_flops(lambda: F.scaled_dot_product_attention(query, key, value).sum().backward())
    assert there_and_back == 7 * product


def test_a_bench_is_timed_counted_and_given_its_median(benches, settings):
    calls = []

    def prepare(given: Settings) -> Work:
        assert given is settings
        return Work(lambda: calls.append(multiply()), lambda seconds: {"per second": 1 / seconds})

    harness.bench("group/product")(prepare)
    result = measure("group/product", settings)
    assert len(calls) == 1 + result.repeats + 1  # to warm up, timed, counted
    assert result.repeats == settings.repeats
    assert result.flops == PRODUCT
    assert result.fastest <= result.seconds <= result.slowest
    assert result.figures == {"per second": 1 / result.seconds}
    assert result.memory > 2**20 and result.peak_flops > 0


def test_long_work_is_warmed_up_and_counted_by_its_part(benches, settings):
    whole, part = [], []
    benches["group/long"] = Bench(
        lambda given: Work(lambda: whole.append(1), part=lambda: part.append(multiply()), parts=7)
    )
    result = measure("group/long", settings)
    assert (len(whole), len(part)) == (settings.repeats, 2)
    assert result.flops == 7 * PRODUCT


def test_no_call_begins_after_the_limit(benches, settings):
    benches["group/slow"] = Bench(lambda given: Work(multiply))
    assert measure("group/slow", dataclasses.replace(settings, limit=0.0)).repeats == 1


def test_a_bench_of_figures_alone_is_not_timed(benches, settings):
    benches["group/figure"] = Bench(lambda given: Work(figures=lambda seconds: {"error": 0.25}))
    result = measure("group/figure", settings)
    assert (result.seconds, result.flops, result.figures) == (None, None, {"error": 0.25})
    assert markdown([result]).splitlines()[-1].endswith("error 0.25 |  |")


def test_names_and_groups_are_selected(benches):
    for name, on_request in (("a/one", False), ("a/two", True), ("b/one", False)):
        benches[name] = Bench(lambda given: Work(), on_request)
    assert select(None) == ["a/one", "b/one"]
    assert select(["a"]) == ["a/one", "a/two"]
    assert select(["b/one", "a/two"]) == ["a/two", "b/one"]
    with pytest.raises(ValueError, match="'c'; there are a/one, a/two, b/one"):
        select(["a", "c"])
    with pytest.raises(ValueError, match="two benches are called 'a/one'"):
        harness.bench("a/one")(lambda given: Work())


def test_shares_are_of_the_best_peak_of_the_run():
    results = [Result("a", 2.0, 1.9, 2.1, 3, 100, 100.0), Result("b", 0.004, 0.003, 0.005, 3, 2, 200.0)]
    assert best_peak(results) == 200
    first, second = markdown(results).splitlines()[2:]
    assert "| 2 s (1.9 s to 2.1 s) | 1e-07 | 5e-08 | 0.25 |" in first
    assert "| 4 ms (3 ms to 5 ms) |" in second


@pytest.mark.parametrize("share, verdict", [(0.9, "met"), (0.7, "missed")])
def test_the_table_says_which_targets_are_met(share, verdict):
    results = [
        Result("small/forward", 1.0, 1.0, 1.0, 3, int(share * 1000), 1000.0),
        Result("data/playground-epoch", figures={"audio / cached": 4 * share}),
        Result("data/mp3-segment", figures={"times real time": 3.0}),
    ]
    forward, epoch, segment = markdown(results).splitlines()[2:]
    assert forward.endswith(f"| share of peak ≥ 0.8: {verdict} |")
    assert epoch.endswith(f"| audio / cached ≥ 3: {verdict} |")
    assert segment.endswith("|  |")


def test_the_command_measures_in_processes_of_their_own_and_writes_json_table_and_plot(tmp_path, capsys):
    quick = ["--threads", "1", "--batch", "1", "--repeats", "1", "--seconds", "0", "--out", str(tmp_path)]
    assert main([*quick, "--only", "xsmall/forward", "xsmall/step-0.5", "--precision", "bfloat16"]) == 0
    record = json.loads((tmp_path / "benchmarks.json").read_text())
    forward, step = record["results"]
    assert (record["device"], record["threads"], record["precision"]) == ("cpu", 1, "bfloat16")
    assert forward["name"] == "xsmall/forward"
    # 12 D² multiplications in a block, 2 D² more for a skip; half as much again for attention and text
    linear = 2 * 1025 * 128**2 * (6 * 12 + 4 * 2)
    assert linear < forward["flops"] < 3 * linear
    assert 2 * forward["flops"] < step["flops"] < 3.2 * forward["flops"]
    table = (tmp_path / "benchmarks.md").read_text()
    assert table.count("\n| xsmall/") == 2 and table.splitlines()[-1] in capsys.readouterr().out
    assert Image.open(tmp_path / "benchmarks.png").size[0] > 500


def test_a_bench_that_fails_is_named_and_makes_the_exit_status_one(tmp_path, capsys):
    assert main(["--only", "xsmall/forward", "--batch", "-1", "--out", str(tmp_path)]) == 1
    assert "failed: xsmall/forward" in capsys.readouterr().out


def test_sampler_errors_are_of_the_clips_that_the_model_generates(trained):
    model = QAMDT.get_pretrained(str(trained.export), "cpu")
    expected = model.generate(["a warm piano", "a loud piano"], 5)
    measured = Measured(model, ["a warm piano", "a loud piano"], 5.0)
    steps = model.params.steps
    made, evaluations = measured.latents(model.params.sampler, steps)
    assert evaluations == 3 * steps  # the null, the prompt, the prompt with its quality
    torch.testing.assert_close(model.codec.decode(made)[..., : expected.shape[-1]], expected)
    assert measured.latents(model.params.sampler, steps, 0.9)[1] < evaluations


def test_ddim_is_compared_without_noise(trained):
    measured = Measured(QAMDT.get_pretrained(str(trained.export), "cpu"), ["a warm piano"], 5.0)
    (ddim, evaluations), (other, _) = measured.latents("ddim", 1000), measured.latents("dpmsolver++", 200)
    assert evaluations == 3 * 1001
    assert (other - ddim).norm() < 0.02 * ddim.norm()
