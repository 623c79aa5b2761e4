"""Classifier-free guidance: several branches of conditions through the network as one batch."""

from __future__ import annotations

import typing as tp
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .samplers import Denoise

Conditions = dict[str, tp.Any]
"""Keyword arguments of the network besides (x, t): tensors with the batch first, or dicts of them."""

Predict = tp.Callable[..., Tensor]
"""predict(x, t, **conditions) -> [B, C, T, F]."""


@dataclass(frozen=True)
class Guidance:
    """How the branches are weighed.

    Args:
        scale: weight w of ε = ε_null + w (ε_cond − ε_null); 1 = no guidance, one evaluation per step (published: 3.5).
        interval: guidance acts on timesteps in [start, stop), as shares of the schedule (0 = clean, 1 = noise); outside
            of it only the conditional branch is evaluated (arXiv 2404.07724).
        num_steps: length of the schedule that `interval` refers to.
    """

    scale: float = 3.5
    interval: tuple[float, float] = (0.0, 1.0)
    num_steps: int = 1000

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance.interval={list(self.interval)}: give [start, stop] with 0 <= start < stop <= 1")

    def covers(self, timestep: float) -> bool:
        low, high = self.interval
        return low <= timestep / self.num_steps < high


def guided(
    predict: Predict,
    conditional: Conditions,
    unconditional: Conditions,
    guidance: Guidance,
    prepare: tp.Callable[[Conditions], Conditions] = lambda conditions: conditions,
) -> Denoise:
    """The function that a sampler integrates: both branches in one batch, combined.

    Args:
        predict: the network.
        conditional, unconditional: conditions of the two branches, each for the same batch.
        prepare: computes once what does not change from step to step (the text's keys and values).
    """
    everywhere = guidance.interval == (0.0, 1.0)
    alone = prepare(conditional) if guidance.scale == 1 or not everywhere else {}
    if guidance.scale == 1:
        return lambda x, t: predict(x, t, **alone)
    both = prepare(stack_conditions(unconditional, conditional))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if not everywhere and not guidance.covers(float(t[0])):  # reads t on the host: only where an interval is set
            return predict(x, t, **alone)
        null, cond = predict(torch.cat([x, x]), torch.cat([t, t]), **both).chunk(2)
        return null + guidance.scale * (cond - null)

    return denoise


def stack_conditions(first: Conditions, second: Conditions) -> Conditions:
    """Concatenate two sets of conditions along the batch; shorter sequences are padded with zeros (masked out).

    Raises:
        ValueError: the sets have different keys.
    """
    if first.keys() != second.keys():
        raise ValueError(f"branches of guidance have different conditions: {sorted(first)} and {sorted(second)}")
    return {key: _stack(first[key], second[key]) for key in first}


def _stack(first: tp.Any, second: tp.Any) -> tp.Any:
    if isinstance(first, dict):
        return stack_conditions(first, second)
    if first is None and second is None:
        return None
    if first.dim() == 1:
        return torch.cat([first, second])
    length = max(first.shape[1], second.shape[1])
    return torch.cat([_pad(first, length), _pad(second, length)])


def _pad(x: Tensor, length: int) -> Tensor:
    # x is [B, L] or [B, L, D]; padding text is masked because its mask is padded with zeros too.
    padding = (0, length - x.shape[1]) if x.dim() == 2 else (0, 0, 0, length - x.shape[1])
    return F.pad(x, padding)
