"""Classifier-free guidance: several branches of conditions through the network as one batch."""

from __future__ import annotations

import functools
import typing as tp
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .samplers import Denoise
from .settings import Guidance

Conditions = dict[str, object]
"""Keyword arguments of the network besides (x, t): tensors with the batch first, or dicts of them."""


class _TwoBranches(tp.TypedDict):
    conditional: Conditions
    unconditional: Conditions


class Branches(_TwoBranches, total=False):
    """Conditions of the branches, under the names of `guided`'s arguments."""

    text: Conditions
    shares: Tensor


Predict = tp.Callable[..., Tensor]
"""predict(x, t, **conditions) -> [B, C, T, F]."""


def guided(
    predict: Predict,
    conditional: Conditions,
    unconditional: Conditions,
    guidance: Guidance,
    prepare: tp.Callable[[Conditions], Conditions] | None = None,
    text: Conditions | None = None,
    num_steps: int = 1000,
    weights: Tensor | None = None,
    shares: Tensor | None = None,
) -> Denoise:
    """Return the function that a sampler integrates, once: all branches in one batch, combined.

    Args:
        predict: the network.
        conditional, unconditional: conditions of the two branches, each for the same batch.
        prepare: computes once what does not change from step to step (the text's keys and values); None = nothing.
        text: conditions of the third branch, with the text and without quality, where `guidance.separate`.
        num_steps: length of the noise schedule, which `guidance_interval` is a share of.
        weights: of text and quality for each item [B, 2], in place of those of `guidance`.
        shares: of the frames that each of K conditional branches makes [K, B, T], adding up to 1; `conditional` is then
            for K batches, one after the other (regions as in MultiDiffusion, arXiv 2302.08113). None = one branch.
    Raises:
        ValueError: the weights differ and `text` is missing.
    """
    prepare = prepare or _as_they_are
    everywhere = tuple(guidance.guidance_interval) == (0.0, 1.0)
    separate = guidance.separate or weights is not None
    none = guidance.guidance_scale == 1 and not separate
    alone = prepare(conditional) if none or not everywhere else {}
    parts = 1 if shares is None else len(shares)
    if none:
        return lambda x, t: joined(_at_once(predict, x, t, parts, alone), shares)
    branches = [unconditional, conditional]
    if separate:
        if text is None:
            raise ValueError("quality_scale: the branch with the text and without quality is missing")
        branches.insert(1, text)
    together = prepare(functools.reduce(stack_conditions, branches))
    combine = Combination(guidance, weights)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        # Reading t makes the host wait: only where an interval is set.
        if not everywhere and not guidance.covers(float(t[0]) / num_steps):
            return joined(_at_once(predict, x, t, parts, alone), shares)
        others = len(branches) - 1
        predictions = _at_once(predict, x, t, others + parts, together)
        return combine([*predictions[:others], joined(predictions[others:], shares)])

    return denoise


def _at_once(predict: Predict, x: Tensor, t: Tensor, count: int, conditions: Conditions) -> tuple[Tensor, ...]:
    """Predictions of `count` branches, whose conditions follow one another, as one batch."""
    return predict(torch.cat([x] * count), torch.cat([t] * count), **conditions).chunk(count)


def joined(predictions: tp.Sequence[Tensor], shares: Tensor | None) -> Tensor:
    """Join the predictions [B, C, T, F] of K branches by their shares [K, B, T] of each frame; None = K is 1."""
    if shares is None:
        (only,) = predictions
        return only
    return (torch.stack(tuple(predictions)) * shares[:, :, None, :, None]).sum(0)


def _as_they_are(conditions: Conditions) -> Conditions:
    return conditions


class Combination:
    """The branches' predictions to one; it remembers the updates that momentum needs, so it is for one generation."""

    def __init__(self, guidance: Guidance, weights: Tensor | None = None) -> None:
        self.guidance = guidance
        own = (guidance.guidance_scale, guidance.quality_scale or 0.0)
        self.weights: tp.Sequence[Tensor | float] = (
            own if weights is None else weights.T[..., None, None, None].unbind()
        )
        self.running: list[Tensor | float] = [0.0, 0.0]

    def __call__(self, predictions: tp.Sequence[Tensor]) -> Tensor:
        """Combine the branches' predictions [B, C, T, F], from the unconditional to the conditional one."""
        null, conditional = predictions[0], predictions[-1]
        updates = [after - before for before, after in pairwise(predictions)]
        if self.guidance.projected:
            updates = [self._projected(index, update, conditional) for index, update in enumerate(updates)]
            guided = conditional + sum((w - 1) * update for w, update in zip(self.weights, updates, strict=False))
        else:
            guided = null + sum(w * update for w, update in zip(self.weights, updates, strict=False))
        share = self.guidance.guidance_rescale
        return rescale(guided, conditional, share) if share else guided

    def _projected(self, index: int, update: Tensor, conditional: Tensor) -> Tensor:
        self.running[index] = update = update + self.guidance.apg_momentum * self.running[index]
        return project(limit(update, self.guidance.apg_norm), conditional, self.guidance.apg_eta)


def limit(update: Tensor, largest: float) -> Tensor:
    """Return the update [B, ...], items whose root mean square is above `largest` scaled down to it; 0 = as it is."""
    if not largest:
        return update
    return update * (largest / _item_mean(update.square()).sqrt()).clamp(max=1)


def project(update: Tensor, onto: Tensor, eta: float) -> Tensor:
    """Return the update [B, ...] with its part parallel to `onto` weighed by `eta` (arXiv 2410.02416, eq. 7)."""
    if eta == 1:
        return update
    square = _item_mean(onto.square()).clamp(min=torch.finfo(onto.dtype).tiny)
    parallel = _item_mean(update * onto) / square * onto
    return update - (1 - eta) * parallel


def rescale(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Scale `share` of the guided prediction [B, ...] to the conditional one's standard deviation."""
    dims = tuple(range(1, guided.dim()))
    ratio = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return guided * (share * ratio + 1 - share)


def _item_mean(x: Tensor) -> Tensor:
    """Return the mean of each item of x [B, ...], as [B, 1, ...]."""
    return x.mean(tuple(range(1, x.dim())), keepdim=True)


def stack_conditions(first: Conditions, second: Conditions) -> Conditions:
    """Concatenate two sets of conditions along the batch; shorter sequences are padded with zeros (masked out).

    Raises:
        ValueError: the sets have different keys.
    """
    if first.keys() != second.keys():
        raise ValueError(f"branches of guidance have different conditions: {sorted(first)} and {sorted(second)}")
    return {key: _stack(first[key], second[key]) for key in first}


def _stack(first: object, second: object) -> object:
    if isinstance(first, dict) and isinstance(second, dict):
        return stack_conditions(first, second)
    if first is None and second is None:
        return None
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        raise TypeError(f"branches of guidance cannot be stacked: {type(first).__name__} and {type(second).__name__}")
    if first.dim() == 1:
        return torch.cat([first, second])
    length = max(first.shape[1], second.shape[1])
    return torch.cat([_pad(first, length), _pad(second, length)])


def _pad(x: Tensor, length: int) -> Tensor:
    # x is [B, L] or [B, L, D]; padding text is masked because its mask is padded with zeros too.
    padding = (0, length - x.shape[1]) if x.dim() == 2 else (0, 0, 0, length - x.shape[1])
    return F.pad(x, padding)
