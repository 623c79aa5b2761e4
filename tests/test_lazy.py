"""Imports that wait: what is not imported to generate, and that it comes when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from audiocraft_qamdt.lazy import LazyImports

HEAVY = ("torchmetrics", "transformers", "diffusers", "spacy.language", "matplotlib", "audiocraft.solvers.builders")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("module", ["generation.qamdt", "generation.files"])
def test_to_generate_little_is_imported(module):
    code = f"import sys, audiocraft_qamdt.{module}; print(*(set({HEAVY!r}) & sys.modules.keys()))"
    assert run(code).split() == []


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
