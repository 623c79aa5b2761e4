"""The control arm knows nothing, and two different ones do not pass for the same."""

from __future__ import annotations

import torch

from audiocraft_qamdt.quality.predictors.constant import Constant


def test_every_window_gets_the_constant():
    assert Constant(2.5).score(torch.zeros(4, 100), 100).tolist() == [2.5] * 4


def test_the_constant_is_the_version():
    assert Constant(2.5).version != Constant(3).version == "3"
