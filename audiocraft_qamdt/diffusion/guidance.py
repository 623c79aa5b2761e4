"""Classifier-free guidance: several branches of conditions through the network as one batch."""

from __future__ import annotations

import functools
import math
import typing as tp
from dataclasses import dataclass
from itertools import pairwise

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
    """Weights of the branches.

    The formulas act on what the network predicts, whatever that is; with all but the first three at their defaults the
    result is the same for noise, velocity and clean latents.

    Args:
        scale: weight w of ε = ε_null + w (ε_cond − ε_null); 1 = no guidance, one evaluation per step (published: 3.5).
        interval: guidance acts on timesteps in [start, stop), as shares of the schedule (0 = clean, 1 = noise); outside
            of it only the conditional branch is evaluated (arXiv 2404.07724).
        num_steps: length of the schedule that `interval` refers to.
        quality_scale: weight of quality by itself, `scale` is then the text's:
            ε = ε_null + w_text (ε_text − ε_null) + w_quality (ε_cond − ε_text), three evaluations per step
            (arXiv 2211.09800, eq. 3); None = the same as `scale`.
        rescale: share φ of the result that is scaled to the conditional prediction's standard deviation
            (arXiv 2305.08891, eq. 15 and 16); 0 = none.
        apg_eta: weight of the part of the update that is parallel to the conditional prediction (adaptive projected
            guidance, arXiv 2410.02416: 0); 1 = kept whole.
        apg_norm: largest root mean square of the update, which a longer one is scaled down to; 0 = any. (Diffusers and
            the paper limit the sum of squares, which grows with the clip's length.)
        apg_momentum: weight of the earlier steps' updates (same paper: about -0.5); 0 = none.
    """

    scale: float = 3.5
    interval: tuple[float, float] = (0.0, 1.0)
    num_steps: int = 1000
    quality_scale: float | None = None
    rescale: float = 0.0
    apg_eta: float = 1.0
    apg_norm: float = 0.0
    apg_momentum: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance.interval={list(self.interval)}: give [start, stop] with 0 <= start < stop <= 1")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance.rescale={self.rescale}: it is a share, from 0 to 1")
        if not self.apg_norm >= 0:
            raise ValueError(f"guidance.apg_norm={self.apg_norm}: it is a size, 0 or more")
        for name in ("scale", "quality_scale", "apg_eta", "apg_norm", "apg_momentum"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"guidance.{name}={getattr(self, name)}: it must be finite")

    def covers(self, timestep: float) -> bool:
        low, high = self.interval
        return low <= timestep / self.num_steps < high

    @property
    def separate(self) -> bool:
        """Return whether text and quality have different weights, which takes three branches."""
        return self.quality_scale is not None and self.quality_scale != self.scale

    @property
    def projected(self) -> bool:
        """Return whether the update is projected, or has momentum or a maximum norm."""
        return (self.apg_eta, self.apg_norm, self.apg_momentum) != (1.0, 0.0, 0.0)


def guided(
    predict: Predict,
    conditional: Conditions,
    unconditional: Conditions,
    guidance: Guidance,
    prepare: tp.Callable[[Conditions], Conditions] = lambda conditions: conditions,
    text: Conditions | None = None,
) -> Denoise:
    """Return the function that a sampler integrates, once: all branches in one batch, combined.

    Args:
        predict: the network.
        conditional, unconditional: conditions of the two branches, each for the same batch.
        prepare: computes once what does not change from step to step (the text's keys and values).
        text: conditions of the third branch, with the text and without quality, where `guidance.separate`.
    Raises:
        ValueError: the weights differ and `text` is missing.
    """
    everywhere, none = guidance.interval == (0.0, 1.0), guidance.scale == 1 and not guidance.separate
    alone = prepare(conditional) if none or not everywhere else {}
    if none:
        return lambda x, t: predict(x, t, **alone)
    branches = [unconditional, conditional]
    if guidance.separate:
        if text is None:
            raise ValueError("guidance.quality_scale: the branch with the text and without quality is missing")
        branches.insert(1, text)
    together = prepare(functools.reduce(stack_conditions, branches))
    combine = Combination(guidance)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if not everywhere and not guidance.covers(float(t[0])):  # reads t on the host: only where an interval is set
            return predict(x, t, **alone)
        count = len(branches)
        return combine(predict(torch.cat([x] * count), torch.cat([t] * count), **together).chunk(count))

    return denoise


class Combination:
    """The branches' predictions to one; it remembers the updates that momentum needs, so it is for one generation."""

    def __init__(self, guidance: Guidance) -> None:
        self.guidance = guidance
        self.running: list[Tensor | float] = [0.0, 0.0]

    def __call__(self, predictions: tp.Sequence[Tensor]) -> Tensor:
        """Predictions [B, C, T, F] of the branches, from the unconditional to the conditional, to the guided one."""
        weights = (self.guidance.scale, self.guidance.quality_scale or 0.0)
        null, conditional = predictions[0], predictions[-1]
        updates = [after - before for before, after in pairwise(predictions)]
        if self.guidance.projected:
            updates = [self._projected(index, update, conditional) for index, update in enumerate(updates)]
            guided = conditional + sum(
                (tp.cast(float, w) - 1) * update for w, update in zip(weights, updates, strict=False)
            )
        else:
            guided = null + sum(w * update for w, update in zip(weights, updates, strict=False))
        return rescale(guided, conditional, self.guidance.rescale) if self.guidance.rescale else guided

    def _projected(self, index: int, update: Tensor, conditional: Tensor) -> Tensor:
        self.running[index] = update = update + self.guidance.apg_momentum * self.running[index]
        return project(limit(update, self.guidance.apg_norm), conditional, self.guidance.apg_eta)


def limit(update: Tensor, largest: float) -> Tensor:
    """Return the update [B, ...], items whose root mean square is above `largest` scaled down to it; 0 = as it is."""
    if not largest:
        return update
    return update * (largest / _item(torch.square, update).sqrt()).clamp(max=1)


def project(update: Tensor, onto: Tensor, eta: float) -> Tensor:
    """Return the update [B, ...] with its part parallel to `onto` weighed by `eta` (arXiv 2410.02416, eq. 7)."""
    if eta == 1:
        return update
    square = _item(torch.square, onto).clamp(min=torch.finfo(onto.dtype).tiny)
    parallel = _item(lambda product: product, update * onto) / square * onto
    return update - (1 - eta) * parallel


def rescale(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """`share` of the guided prediction [B, ...] at the conditional one's standard deviation, the rest as it is."""
    dims = tuple(range(1, guided.dim()))
    ratio = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (share * ratio + 1 - share)


def _item(function: tp.Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return function(x).mean(tuple(range(1, x.dim())), keepdim=True)


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
