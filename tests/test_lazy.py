"""Imports that wait: what is not imported to generate, and that it comes when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from audiocraft_qamdt.lazy import LazyImports

HEAVY = {
    "torchmetrics",
    "transformers",
    "spacy.language",
    "matplotlib",
    "tensorboard",
    "torchvision",
    "triton",
    "torch._dynamo",
    "torch.distributed.fsdp",
}
SOLVERS = {"audiocraft.solvers.builders", "audiocraft.solvers.musicgen", "audiocraft.models.musicgen"}


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("module", ["generation.qamdt", "generation.files"])
def test_the_class_that_generates_is_imported_without_heavy_packages(module):
    code = f"import sys, audiocraft_qamdt.{module}; print(*({HEAVY | SOLVERS | {'diffusers'}!r} & sys.modules.keys()))"
    assert run(code).split() == []


def test_a_clip_is_generated_without_heavy_packages(tmp_path):
    unwanted = HEAVY | SOLVERS | {"av", "requests"}
    code = f"""
import sys
from audiocraft_qamdt.cli import main
from audiocraft_qamdt.lazy import Deferred
assert main(["generate", "piano", "--duration", "0.5", "--steps", "2", "--out", sys.argv[1]]) == 0
print(*(name for name in {unwanted!r} & sys.modules.keys() if not isinstance(sys.modules[name], Deferred)))
"""
    assert run(code, str(tmp_path / "clip.wav")).splitlines()[1:] == [""]


def test_the_solver_is_imported_without_metrics_and_fsdp():
    code = f"import sys, audiocraft_qamdt.train; print(*({HEAVY!r} & sys.modules.keys()))"
    assert run(code).split() == []


def test_metrics_and_fsdp_are_the_real_ones_when_used():
    code = """
import audiocraft_qamdt.train, torch
from audiocraft.solvers import base, builders, diffusion, musicgen
import audiocraft.metrics, torch.distributed.fsdp
for module in (builders.metrics, musicgen.eval_metrics):
    assert module.ViSQOL is audiocraft.metrics.ViSQOL
assert isinstance(diffusion.RelativeVolumeMel(), audiocraft.metrics.RelativeVolumeMel)
assert base.fsdp.FSDP is torch.distributed.fsdp.FullyShardedDataParallel
assert not isinstance(torch.nn.Linear(1, 1), base.fsdp.FSDP)
"""
    run(code)


def test_an_optimiser_is_made_without_pytorchs_compiler():
    code = """
import sys, torch
from omegaconf import OmegaConf
from audiocraft_qamdt.training import setup
method = torch.optim.Optimizer.add_param_group
cfg = OmegaConf.create({"optimizer": "adamw", "lr": 1e-3, "adam": {"betas": [0.9, 0.95], "weight_decay": 0.1}})
optimizer = setup.get_optimizer(torch.nn.Linear(3, 2), cfg)
assert "torch._dynamo" not in sys.modules and torch.optim.Optimizer.add_param_group is method
assert [len(group["params"]) for group in optimizer.param_groups] == [2]
"""
    run(code)


def test_the_map_of_packages_is_read_when_something_is_looked_up():
    code = """
import importlib.metadata, sys
import audiocraft_qamdt.utils.prepared
read, calls = importlib.metadata.packages_distributions, []
importlib.metadata.packages_distributions = lambda: calls.append(1) or read()
from diffusers.utils import import_utils
assert not calls and import_utils._package_map["numpy"] == ["numpy"] and len(import_utils._package_map) > 10
assert calls == [1]
"""
    run(code)


def test_audiocrafts_packages_give_what_they_always_gave():
    code = """
import audiocraft_qamdt.utils.prepared, sys
import audiocraft
assert "audiocraft.solvers.base" not in sys.modules
assert audiocraft.models.MusicGen.__name__ == "MusicGen"
assert audiocraft.__version__.startswith("1.")
from audiocraft.solvers import get_solver, builders
assert get_solver is builders.get_solver
"""
    run(code)


def test_names_of_transformers_are_the_real_ones_when_used():
    code = """
import audiocraft_qamdt.utils.prepared
from audiocraft.modules import conditioners
import transformers
assert conditioners.T5Tokenizer.from_pretrained == transformers.T5Tokenizer.from_pretrained
"""
    run(code)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `waiting`, whose `__init__` fails for as long as the file `broken` is there."""
    folder = tmp_path / "waiting"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from pathlib import Path\nassert not (Path(__file__).parent / 'broken').exists()\nfrom .inner import value\n"
    )
    (folder / "inner.py").write_text("value = 3\n")
    finder = LazyImports(["waiting"], {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    yield folder
    for name in ("waiting", "waiting.inner"):
        sys.modules.pop(name, None)


def test_a_submodule_is_imported_without_its_package(package):
    import waiting.inner  # type: ignore[import-not-found]

    assert "value" not in vars(waiting)
    assert waiting.value == waiting.inner.value == 3


def test_an_unknown_name_is_an_attribute_error(package):
    import waiting

    with pytest.raises(AttributeError, match="module 'waiting' has no attribute 'nothing'"):
        _ = waiting.nothing


def test_a_package_that_failed_can_be_tried_again(package):
    (package / "broken").touch()
    import waiting

    with pytest.raises(AssertionError):
        _ = waiting.value
    (package / "broken").unlink()
    assert waiting.value == 3
