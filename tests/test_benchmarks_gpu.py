"""The GPU's benchmark, small and on the CPU: what it writes, its checks, its end; not how long anything takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer
from benchmarks import bench_network, gpu
from benchmarks.gpu import Line, main, relative_error


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(bench_network, "LATENTS", (8, 16, 16))
    monkeypatch.setattr(bench_network, "EMBEDDED_LATENTS", (32, 8, 1))
    monkeypatch.setattr(gpu, "REPEATS", 1)


def lines(tmp_path, *arguments: str) -> tuple[int, dict[str, dict]]:
    """The exit status, and the lines that were written, by name."""
    small = ["--device", "cpu", "--size", "xsmall", "--batch", "2", "--out", str(tmp_path / "out")]
    code = main([*small, *arguments])
    content = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert len((tmp_path / "out" / "gpu.md").read_text().splitlines()) == 4 + len(content["lines"])
    return code, {line["what"]: line for line in content["lines"]}


def test_timed_lines_have_a_time_a_share_of_the_peak_and_a_reference(tmp_path):
    code, found = lines(tmp_path, "--only", "nothing masked", "forward")
    assert code == 0 and len(found) == 2
    for line in found.values():
        assert line["seconds"] > 0 and line["peak_percent"] > 0 and line["reference"] > 0


def test_sampling_by_the_embedded_models_network_is_timed(tmp_path):
    code, found = lines(tmp_path, "--only", "embedded")
    assert code == 0 and [line["seconds"] > 0 for line in found.values()] == [True]


def test_precisions_and_fsdp_are_checked(tmp_path):
    code, found = lines(tmp_path, "--only", "bfloat16 against", "half precision", "FSDP")
    assert code == 0
    figures = {what.split()[0]: line["figure"] for what, line in found.items()}
    assert figures["network"].startswith("equal: ")
    before, after = map(float, re.findall(r"\d+\.\d+", figures["half"]))
    assert after < before, "five steps on one batch learn something"
    assert float(figures["FSDP"].split("within ")[1].split()[0]) < 0.02


def test_a_wrong_network_is_not_called_equal(tmp_path, monkeypatch):
    cpu = MaskedDiffusionTransformer.forward
    calls = []

    def broken(self, *args, **kwargs):
        calls.append(1)
        return cpu(self, *args, **kwargs) * (1.1 if len(calls) == 3 else 1)

    monkeypatch.setattr(MaskedDiffusionTransformer, "forward", broken)
    code, found = lines(tmp_path, "--only", "bfloat16 against")
    assert code == 1
    assert next(iter(found.values()))["figure"].startswith("NOT EQUAL")


def test_a_line_that_fails_says_why_and_the_next_one_runs(tmp_path, monkeypatch):
    def failing(*args):
        raise ZeroDivisionError  # without a text

    monkeypatch.setattr(bench_network, "forward", failing)
    code, found = lines(tmp_path, "--only", "forward", "half precision")
    assert code == 1 and "FAILED: ZeroDivisionError" in found["forward"]["figure"]
    assert "loss" in found["half precision with a gradient scaler"]["figure"]


def test_no_line_begins_after_the_limit(tmp_path):
    code, found = lines(tmp_path, "--limit", "-1")
    assert code == 0 and len(found) == 11 and all("not begun" in line["figure"] for line in found.values())


def test_pytorch_alone_is_enough(tmp_path):
    missing = ("audiocraft", "omegaconf", "hydra", "dora", "flashy", "diffusers", "transformers", "torchaudio", "numpy")
    arguments = ["--device", "cpu", "--size", "playground", "--batch", "1", "--only", "forward", "--out", str(tmp_path)]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); from benchmarks.gpu import main; main({arguments})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=bench_network.CONFIG.parents[2], check=True)
    assert "FAILED" not in (tmp_path / "gpu.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_how_to_try_it(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "no CUDA device here" in capsys.readouterr().err


@pytest.mark.parametrize("size", bench_network.SHAPES)
def test_sizes_without_the_config_are_the_configs(size):
    sizes = [OmegaConf.load(bench_network.CONFIG / f"{name}.yaml") for name in {"default": 0, size: 0}]
    arguments = (OmegaConf.merge(*sizes).mdt, bench_network.shape(size))
    with torch.device("meta"):
        models = [
            MaskedDiffusionTransformer(latent_channels=8, latent_frames=16, latent_bins=16, **options)
            for options in arguments
        ]
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]


def test_relative_error_is_of_root_mean_squares():
    assert relative_error(torch.tensor([1.1, 2.2]), torch.tensor([1.0, 2.0])) == pytest.approx(0.1)
    assert Line("x").row() == "| x |  |  |  |  |  |  |"
