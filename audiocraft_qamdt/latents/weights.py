"""Weights under the names that were published, into networks that name them otherwise."""

from __future__ import annotations

import typing as tp
from pathlib import Path

import torch
from torch import Tensor, nn


def without_weight_norm(weights: tp.Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with each pair `weight_g`, `weight_v` multiplied to the `weight` that it stands for."""
    plain = dict(weights)
    for key in [key for key in plain if key.endswith(".weight_g")]:
        name = key.removesuffix("_g")
        if f"{name}_v" in plain:
            # Salimans and Kingma, "Weight normalization", eq. 2: w = g v / |v|, the norm per first dimension.
            gain, direction = plain.pop(key), plain.pop(f"{name}_v")
            plain[name] = gain * direction / torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
    return plain


def load_published(
    network: nn.Module, weights: tp.Mapping[str, Tensor], published_key: tp.Callable[[str], str], path: str | Path
) -> None:
    """Copy weights into a network; every key must be there, fit, and be used.

    Args:
        network: what they go into.
        weights: by their published names.
        published_key: from the network's name of a parameter to the published one.
        path: where the weights come from, for the message.
    Raises:
        ValueError: naming keys that are missing, too many, of another shape or not finite.
    """
    own = {published_key(name): parameter for name, parameter in network.named_parameters()}
    problems = [f"{key} is missing" for key in sorted(own.keys() - weights.keys())]
    problems += [f"{key} is unknown" for key in sorted(weights.keys() - own.keys())]
    for key in sorted(own.keys() & weights.keys()):
        if own[key].shape != weights[key].shape:
            problems.append(f"{key} is {list(weights[key].shape)}, not {list(own[key].shape)}")
        elif not weights[key].isfinite().all():
            problems.append(f"{key} is not finite")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"{path} does not fit the configuration given: {'; '.join(problems[:10])}{more}")
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(weights[key])
