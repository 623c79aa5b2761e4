"""The network through torch.compile, for training and for sampling; or each of its blocks, as FSDP needs."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor, nn

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # the modes that record them, on CUDA

VARIANTS = 64
"""Of a block, compiled at most."""

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
    _check_mode(mode, MODES)
    fast: Network = torch.compile(network, fullgraph=True, mode=mode)
    return _with_own_output(fast) if mode in CUDA_GRAPHS else fast


def compile_blocks(network: nn.Module, kind: type[nn.Module], mode: str, backend: str = "inductor") -> None:
    """Compile each block of a network in place, before FSDP wraps the blocks.

    What FSDP does between blocks (gather weights, free them) cannot be compiled; inside a block there is nothing of it.
    Blocks of the same shape share what is compiled. Names of weights stay.

    Args:
        kind: class of the blocks.
        mode: torch.compile's, one of `MODES` without those in `CUDA_GRAPHS`, which need weights that stay in place.
        backend: torch.compile's.
    Raises:
        ValueError: for another mode, or a network that has no such blocks.
    """
    _check_mode(mode, [known for known in MODES if known not in CUDA_GRAPHS])
    blocks = [module for module in network.modules() if isinstance(module, kind)]
    if not blocks:
        raise ValueError(f"compile mode {mode!r} under FSDP compiles blocks, and this network has none: set null")
    # With and without skip connection, gradients, masks, text: more variants of one block than torch's limit of 8.
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for block in blocks:
        block.compile(fullgraph=True, mode=mode, backend=backend)


def _check_mode(mode: str, known: tp.Sequence[str]) -> None:
    if mode not in known:
        raise ValueError(f"compile mode {mode!r} is unknown: choose one of {', '.join(known)}, or null")


def _with_own_output(network: Network) -> Network:
    # A recorded graph writes every prediction into the same memory; samplers keep earlier ones.
    def call(*args: object, **kwargs: object) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return network(*args, **kwargs).clone()

    return call
