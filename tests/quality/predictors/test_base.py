"""Predictors are found by name, by entry point or by import path, and what is none is refused."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from audiocraft_qamdt.quality.predictors import base
from audiocraft_qamdt.quality.predictors.base import PREDICTORS, Predictor, load_predictor, predictor_names

HERE = __name__


class Mine:
    """A user's own predictor."""

    name, version, sample_rate, window, hop = "mine", "7", 8000, 2.0, 1.0

    def __init__(self, device):
        self.device = device

    def score(self, audio, sample_rate):
        return torch.full(audio.shape[:1], 2.0)


def not_a_predictor(device):
    return object()


@pytest.mark.parametrize("name", ["acoustic", "constant"])
def test_built_in_predictors_keep_the_protocol(name):
    predictor = load_predictor(name, "cpu")
    assert isinstance(predictor, Predictor)
    assert predictor.name == name
    scores = predictor.score(torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)) * 0.1, 16000)
    assert scores.shape == (3,)
    assert scores.min() >= 1
    assert scores.max() <= 5


def test_a_users_predictor_is_loaded_by_import_path_and_by_entry_point(monkeypatch):
    assert load_predictor(f"{HERE}:Mine", "cpu").device == "cpu"
    point = EntryPoint("my-scores", f"{HERE}:Mine", base.ENTRY_POINTS)
    monkeypatch.setattr(base, "entry_points", lambda group: [point] if group == base.ENTRY_POINTS else [])
    assert load_predictor("my-scores", "cpu").name == "mine"
    assert predictor_names() == sorted([*PREDICTORS, "my-scores"])


@pytest.mark.parametrize(
    "name, message",
    [
        ("vmos", "unknown predictor 'vmos': choose one of acoustic, .*constant.*import path"),
        ("no.such.module:Thing", "'no.such.module:Thing' cannot be loaded"),
        (f"{HERE}:Missing", "has no attribute 'Missing'"),
        (f"{HERE}:not_a_predictor", "gave object, which lacks some of name, version"),
    ],
)
def test_what_is_no_predictor_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_predictor(name, "cpu")


@pytest.mark.parametrize("name, package", [("audiobox", "audiobox_aesthetics.infer"), ("dnsmos", "speechmos")])
def test_a_missing_package_is_named_with_how_to_install_it(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=rf'pip install "audiocraft_qamdt\[{name}\]"'):
        load_predictor(name, "cpu")


def test_what_follows_the_name_goes_to_the_predictor():
    assert load_predictor("constant/2.5", "cpu").score(torch.zeros(1, 10), 10).tolist() == [2.5]
