"""The loss by timestep and level: means of the items, whatever batches they came in."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.metrics.losses import LossParts
from audiocraft_qamdt.metrics.table import one_rank

LOSSES = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])


@pytest.mark.parametrize(
    "timesteps", [[0, 249, 250, 750, 999], [0.0, 249.9, 250.0, 999.5, 1000.0]], ids=["ddpm", "flow"]
)
def test_items_count_in_their_quarter_and_level_in_any_batches(timesteps):
    timesteps, levels = torch.tensor(timesteps), [0, 5, 5, 1, 1]
    whole, parts = LossParts(1000, "cpu"), LossParts(1000, "cpu")
    whole.add(LOSSES, timesteps, levels)
    parts.add(LOSSES[:2], timesteps[:2], levels[:2])
    parts.add(LOSSES[2:], timesteps[2:], levels[2:])
    expected = {"loss_quarter1": 1.5, "loss_quarter2": 4.0, "loss_quarter4": 12.0}
    expected |= {"loss_level0": 1.0, "loss_level1": 12.0, "loss_level5": 3.0}
    assert whole.means(one_rank) == parts.means(one_rank) == expected
