"""The layers of the package, enforced from the source's own imports: a module imports strictly lower levels only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import audiocraft_qamdt

PACKAGE = Path(audiocraft_qamdt.__file__).parent

# First match wins. A folder at level 0 may import within itself.
LEVELS = [
    ("compat", -1),
    ("cluster", 0),
    ("randomness", 0),
    ("quality.levels", 0),
    ("quality.attributes", 0),
    ("data.manifest", 0),
    ("models", 0),
    ("diffusion", 0),
    ("latents.compression", 1),
    ("latents.chunks", 1),
    ("latents", 0),
    ("plots", 1),
    ("pages", 1),
    ("shards", 1),
    ("laion", 0),
    ("rerank", 1),
    ("playground", 1),
    ("quality.predictors", 2),
    ("quality.annotate", 3),
    ("data.dataset", 1),
    ("data.cache", 2),
    ("conditioners", 1),
    ("checkpoints", 1),
    ("model", 2),
    ("request", 2),
    ("pipeline", 3),
    ("builders", 3),
    ("metrics", 4),
    ("captions", 4),
    ("generate", 4),
    ("solver", 5),
    ("register", 6),
    ("train", 7),
    ("importing", 5),
    ("quality_curve", 5),
    ("exporting", 5),
    ("jobs", 5),
    ("app", 6),
    ("demo", 8),
    ("report", 8),
    ("flops", 4),
    ("overrides", 0),
    ("local_runs", 0),
    ("local_grid", 1),
    ("sweeps", 8),
    ("grid_report", 9),
    ("commands", 10),
    ("cli", 11),
]
TORCH_ONLY = ("models", "diffusion", "latents.codec", "latents.mdct", "latents.mel_vae", "randomness")
ALLOWED = {"torch", "numpy", "diffusers", "transformers", "safetensors", "librosa"}
SEES_CFG = {"checkpoints", "exporting", "importing", "builders", "solver", "train", "cli", "generate", "register"}
SEES_CFG |= {"flops"}


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def level(name: str) -> int:
    for prefix, value in LEVELS:
        if name == prefix or name.startswith(f"{prefix}."):
            return value
    raise AssertionError(f"{name} has no level: add it to LEVELS")


def own_imports(name: str) -> set[str]:
    """Modules of this package that `name` imports, as dotted names inside the package."""
    targets = set()
    parts = name.split(".")
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            base += node.module.split(".") if node.module else []
            candidates = [".".join([*base, alias.name]) for alias in node.names] + [".".join(base)]
            targets |= {candidate for candidate in candidates if candidate in MODULES}
    return targets


def foreign_imports(name: str) -> set[str]:
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    for target in own_imports(name):
        same_folder = "." in name and name.rsplit(".", 1)[0] == target.rsplit(".", 1)[0]
        if same_folder and level(name) == level(target):
            continue
        assert level(target) < level(name), f"{name} (level {level(name)}) imports {target} (level {level(target)})"


@pytest.mark.parametrize("name", sorted(n for n in MODULES if n.startswith(TORCH_ONLY)))
def test_network_diffusion_and_codecs_run_without_audiocraft(name):
    assert foreign_imports(name) <= ALLOWED


def test_models_and_diffusion_do_not_know_each_other():
    for name in MODULES:
        for target in own_imports(name):
            assert {name.split(".")[0], target.split(".")[0]} != {"models", "diffusion"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - SEES_CFG))
def test_cfg_is_seen_by_few(name):
    arguments = {
        argument.arg
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.FunctionDef)
        for argument in node.args.args
    }
    assert "cfg" not in arguments


@pytest.mark.parametrize(
    "statement, forbidden",
    [
        ("import audiocraft_qamdt", "torch"),
        ("import audiocraft_qamdt.models.mdt", "audiocraft"),
        ("import audiocraft_qamdt.diffusion.samplers", "diffusers"),
        ("import audiocraft_qamdt.quality.levels", "torch"),
    ],
)
def test_imports_stay_light(statement, forbidden):
    code = f"{statement}; import sys; sys.exit({forbidden!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
