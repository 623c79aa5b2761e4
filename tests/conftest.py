"""Shared set-up: one thread per test process, and everything that a test writes under its own folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from audiocraft_qamdt.compat import prepare

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"

torch.set_num_threads(1)
os.environ.setdefault("AUDIOCRAFT_DORA_DIR", "/nonexistent-dora-dir")  # a test that runs Dora names its own
os.environ["HF_HUB_OFFLINE"] = "1"
prepare()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1234)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session", autouse=True)
def _import_from_checkout() -> None:
    sys.path.insert(0, str(ROOT))
