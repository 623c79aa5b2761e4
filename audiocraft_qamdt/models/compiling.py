"""The network through torch.compile, for training and for sampling."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor, nn

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # the modes that record them, on CUDA

Network = tp.Callable[..., Tensor]


def compiled(network: nn.Module, mode: str | None) -> Network:
    """Compile the whole network; raise an error for a part that cannot be compiled.

    Each combination of shapes is compiled when it first comes; a size that changes from call to call (the number of
    visible tokens in training) is then taken as a variable. Weights are shared with the network, and may change.

    Args:
        network: called as `network(x, t, **conditions)`.
        mode: torch.compile's, one of `MODES`; those in `CUDA_GRAPHS` record CUDA graphs on CUDA, one for each
            combination of sizes, so they are for sampling. None = not compiled.
    Returns:
        A function of the same arguments.
    Raises:
        ValueError: for an unknown mode.
    """
    if mode is None:
        return network
    if mode not in MODES:
        raise ValueError(f"compile mode {mode!r} is unknown: choose one of {', '.join(MODES)}, or null")
    fast: Network = torch.compile(network, fullgraph=True, mode=mode)
    return _with_own_output(fast) if mode in CUDA_GRAPHS else fast


def _with_own_output(network: Network) -> Network:
    # A recorded graph writes every prediction into the same memory; samplers keep earlier ones.
    def call(*args: object, **kwargs: object) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return network(*args, **kwargs).clone()

    return call
