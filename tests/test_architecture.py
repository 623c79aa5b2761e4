"""The floors of the package, read from the source's own imports: nothing imports upwards or in a circle."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import audiocraft_qamdt

PACKAGE = Path(audiocraft_qamdt.__file__).parent

FLOORS = [
    {"lazy"},
    {"compat"},
    {"utils", "models", "diffusion"},
    {"data", "checkpoints", "clap", "slurm"},
    {"latents"},
    {"playground"},
    {"quality"},
    {"conditioning"},
    {"builders"},
    {"generation", "metrics", "captions"},
    {"training"},
    {"solver", "generate"},
    {"distillation"},
    {"register"},
    {"train"},
    {"reports", "sweeps", "listening"},
    {"commands"},
    {"cli"},
]
"""Folders and modules at the door, from the ground up: each imports from lower floors and from itself only."""

LEVELS = {room: level for level, floor in enumerate(FLOORS) for room in floor}
TORCH_ONLY = ("models", "diffusion", "utils.randomness") + tuple(
    f"latents.{name}" for name in ("codec", "mdct", "mel_vae", "oobleck", "dac", "weights")
)
ALLOWED = {"torch", "numpy", "diffusers", "transformers", "safetensors", "librosa"}
SEES_CFG = {
    "builders",
    "solver",
    "train",
    "cli",
    "register",
    "checkpoints.store",
    "checkpoints.official",
    "checkpoints.config",
    "checkpoints.parts",
    "distillation",
}
SEES_CFG |= {
    "training.restoring",
    "training.base_model",
    "training.setup",
    "generation.qamdt",
    "generation.config",
    "generation.export",
    "sweeps.flops",
    "latents.building",
}


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
        if isinstance(node, ast.ImportFrom) and (node.level or f"{node.module}.".startswith(f"{PACKAGE.name}.")):
            base = parts[: len(parts) - node.level] if node.level else []
            base += [part for part in (node.module or "").split(".") if part and part != PACKAGE.name]
            candidates = [".".join([*base, alias.name]) for alias in node.names] + [".".join(base)]
            targets |= {candidate for candidate in candidates if candidate in MODULES}
    return targets


def foreign_imports_of(node: ast.AST) -> set[str]:
    found = set()
    if isinstance(node, ast.Import):
        found = {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
        found = {node.module.split(".")[0]}
    return found - {PACKAGE.name, *sys.stdlib_module_names}


def foreign_imports(name: str) -> set[str]:
    return set().union(*map(foreign_imports_of, ast.walk(MODULES[name])))


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


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"compat", "utils.prepared"}))
def test_audiocraft_is_imported_after_what_prepares_it(name):
    body = [node for node in MODULES[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
    theirs = [node.lineno for node in body if "audiocraft" in foreign_imports_of(node)]
    ours = [node.lineno for node in body if getattr(node, "module", "") == "audiocraft_qamdt.utils"]
    assert not theirs or (ours and ours[0] < theirs[0])


def prepares(node: ast.AST) -> bool:
    """Whether a statement makes AudioCraft importable."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "prepare"
    return isinstance(node, ast.ImportFrom) and any(alias.name == "prepared" for alias in node.names)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"compat", "utils.prepared"}))
def test_a_function_imports_audiocraft_after_what_prepares_it(name):
    if any(prepares(node) for node in MODULES[name].body):
        return
    for function in ast.walk(MODULES[name]):
        if isinstance(function, ast.FunctionDef):
            nodes = list(ast.walk(function))
            theirs = [node.lineno for node in nodes if "audiocraft" in foreign_imports_of(node)]
            ours = [node.lineno for node in nodes if prepares(node)]
            assert not theirs or (ours and min(ours) < min(theirs)), function.name


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


DORAS = r"(main|dora|launcher|_herd|xp)\._[a-z]|from dora\S* import .*\b_[a-z]"


@pytest.mark.parametrize("folder", ["audiocraft_qamdt", "grids"])
def test_doras_private_names_stand_in_one_file(folder):
    files = {path for path in (PACKAGE.parent / folder).rglob("*.py") if re.search(DORAS, path.read_text())}
    assert files <= {PACKAGE / "utils" / "dora.py"}


@pytest.mark.parametrize(
    "statement, forbidden",
    [
        ("import audiocraft_qamdt", "torch"),
        ("import audiocraft_qamdt.cli", "torch"),
        ("import audiocraft_qamdt.models.mdt", "audiocraft"),
        ("import audiocraft_qamdt.diffusion.samplers", "diffusers"),
        ("import audiocraft_qamdt.quality.levels", "torch"),
    ],
)
def test_imports_stay_light(statement, forbidden):
    code = f"{statement}; import sys; sys.exit({forbidden!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
