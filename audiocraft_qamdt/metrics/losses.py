"""The loss of a stage by timestep and by quality level."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quality.levels import LEVELS
from .base import SumOverRanks

QUARTERS = {f"loss_quarter{quarter}": f"timesteps, quarter {quarter}" for quarter in (1, 2, 3, 4)}
"""Key in the history → what it is the loss of; quarter 1 has the least noise."""
BY_LEVEL = {"loss_level0": "unknown quality", **{f"loss_level{level}": f"level {level}" for level in LEVELS}}
"""Key in the history → what it is the loss of."""


class LossParts:
    """Sums of the loss over the items of a stage, apart for each quarter of the timesteps and each level.

    Args:
        num_steps: timesteps of the schedule.
        device: where losses come from; nothing is copied from there before `means`.
    """

    def __init__(self, num_steps: int, device: torch.device | str) -> None:
        self.num_steps = num_steps
        self.sums = torch.zeros(len(QUARTERS) + len(BY_LEVEL), 2, device=device)

    def add(self, losses: Tensor, timesteps: Tensor, levels: list[int]) -> None:
        """Add a batch.

        Args:
            losses: [B].
            timesteps: [B], from 0 to `num_steps`.
            levels: [B], 0 = unknown.
        """
        quarters = (timesteps * len(QUARTERS) / self.num_steps).long().clamp(0, len(QUARTERS) - 1)
        rows = torch.tensor(levels, device=losses.device) + len(QUARTERS)
        counted = torch.stack([losses.detach().float(), torch.ones_like(losses, dtype=torch.float32)], 1)
        self.sums.index_add_(0, quarters, counted)
        self.sums.index_add_(0, rows, counted)

    def means(self, total: SumOverRanks) -> dict[str, float]:
        """Return the mean loss of each part that had items, by its key; the same on every rank."""
        found = zip([*QUARTERS, *BY_LEVEL], total(self.sums).tolist(), strict=True)
        return {key: value / count for key, (value, count) in found if count}
