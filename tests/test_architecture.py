"""The floors of the package, read from the source's own imports: nothing imports upwards or in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import audiocraft_qamdt

PACKAGE = Path(audiocraft_qamdt.__file__).parent

FLOORS = [
    {"compat"},
    {"utils", "models", "diffusion"},
    {"latents", "data", "checkpoints", "clap", "slurm"},
    {"playground"},
    {"quality"},
    {"conditioning"},
    {"builders"},
    {"generation", "metrics", "captions"},
    {"solver", "generate"},
    {"register"},
    {"train"},
    {"reports", "sweeps"},
    {"commands"},
    {"cli"},
]
"""Folders and modules at the door, from the ground up: each imports from lower floors and from itself only."""

LEVELS = {room: level for level, floor in enumerate(FLOORS) for room in floor}
TORCH_ONLY = ("models", "diffusion", "latents.codec", "latents.mdct", "latents.mel_vae", "utils.randomness")
ALLOWED = {"torch", "numpy", "diffusers", "transformers", "safetensors", "librosa"}
SEES_CFG = {"builders", "solver", "train", "cli", "register", "checkpoints.store", "checkpoints.official"}
SEES_CFG |= {"generation.qamdt", "generation.export", "sweeps.flops"}


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def room(name: str) -> str:
    return name.split(".")[0]


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


def test_every_folder_and_module_at_the_door_has_a_floor():
    assert {room(name) for name in MODULES} == set(LEVELS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    for target in own_imports(name):
        if room(target) != room(name):
            assert LEVELS[room(target)] < LEVELS[room(name)], f"{name} imports {target}, which is not below it"


def test_no_imports_go_in_circles():
    graph = {name: own_imports(name) for name in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("name", sorted(n for n in MODULES if n.startswith(TORCH_ONLY)))
def test_network_diffusion_and_codecs_run_without_audiocraft(name):
    assert foreign_imports(name) <= ALLOWED


def test_models_and_diffusion_do_not_know_each_other():
    for name in MODULES:
        for target in own_imports(name):
            assert {room(name), room(target)} != {"models", "diffusion"}


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
