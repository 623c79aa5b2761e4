"""Where a network spends its time: each kind of operator's share, beside what the machine allows (roofline)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .harness import Settings, flop_counter, matmul_peak

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "mkldnn_", "convolution"),
    "attention": ("_scaled_dot_product",),
    "layer norm": ("native_layer_norm",),
    "GELU": ("gelu",),
    "softmax": ("_softmax",),
    "optimiser": ("_fused_adamw", "_foreach"),
    "copies": ("copy", "clone", "cat", "stack", "gather", "scatter", "index", "_to_copy", "contiguous"),
}
"""Kinds of operators, and how the names of theirs begin; what is left is elementwise, sums included."""
ELEMENTWISE, VIEWS = "elementwise", "views"
HEADER = ("operators", "calls", "time", "share of time", "GFLOP", "GFLOP/s", "of the peak", "GB/s", "of a copy")
_COPIED = 1 << 26  # bytes of the copy that the memory's speed is measured with


@dataclass
class Kind:
    """What the operators of a kind took in one call of the network.

    Attributes:
        calls: number of operators.
        seconds: processor time.
        flops: floating-point operations of products and attention.
        bytes: of the tensors that went in and came out.
    """

    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0


class Operators(TorchDispatchMode):
    """Measures every operator inside of it, on the CPU: use it as a context manager and read `kinds` afterwards.

    Operators take turns on a CPU, so that the processor time of one is its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds: defaultdict[str, Kind] = defaultdict(Kind)
        self._flops = flop_counter().flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator, and count it."""
        kwargs = kwargs or {}
        start = time.process_time()
        out = func(*args, **kwargs)
        seconds = time.process_time() - start
        kind = self.kinds[VIEWS if func.is_view else kind_of(func.overloadpacket.__name__)]
        kind.calls += 1
        kind.seconds += seconds
        if count := self._flops.get(func.overloadpacket):
            kind.flops += count(*args, **kwargs, out_val=out)
        if not func.is_view:
            kind.bytes += sum(x.nbytes for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
        return out


def kind_of(operator: str) -> str:
    """Return the kind of an operator, by its name in PyTorch."""
    for kind, beginnings in KINDS.items():
        if operator.startswith(beginnings):
            return kind
    return ELEMENTWISE


def measure_operators(run: Callable[[], object], repeats: int = 3) -> dict[str, Kind]:
    """Return each kind's work in a call, the most time first: of the fastest of several calls."""
    found = []
    for _ in range(repeats):
        with Operators() as operators:
            run()
        found.append(operators.kinds)
    fastest = min(found, key=lambda kinds: sum(kind.seconds for kind in kinds.values()))
    return dict(sorted(fastest.items(), key=lambda item: -item[1].seconds))


def memory_speed() -> float:
    """Return bytes per second that a copy reads and writes, on the CPU."""
    source = torch.rand(_COPIED // 4)
    target = torch.empty_like(source)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * _COPIED / min(times)


def limits(settings: Settings) -> tuple[float, float]:
    """Return the machine's fastest matrix product, in operations per second, and copy, in bytes per second."""
    return matmul_peak(settings), memory_speed()


def table(kinds: Mapping[str, Kind], peak: float, copy: float) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        kinds: from `measure_operators`.
        peak, copy: from `limits`.
    """
    total = sum(kind.seconds for kind in kinds.values())
    rows = [HEADER, ("---",) * len(HEADER)]
    for name, kind in kinds.items():
        share = f"{kind.seconds / total:.1%}"
        rows.append((name, str(kind.calls), f"{1000 * kind.seconds:.0f} ms", share, *_speeds(kind, peak, copy)))
    return [f"| {' | '.join(row)} |" for row in rows]


def _speeds(kind: Kind, peak: float, copy: float) -> tuple[str, ...]:
    """Return the columns on arithmetic for what multiplies, on memory for the rest."""
    if not kind.seconds or not (kind.flops or kind.bytes):
        return ("",) * 5
    if kind.flops:
        speed = kind.flops / kind.seconds
        return f"{kind.flops / 1e9:.1f}", f"{speed / 1e9:.0f}", f"{speed / peak:.2f}", "", ""
    speed = kind.bytes / kind.seconds
    return "", "", "", f"{speed / 1e9:.1f}", f"{speed / copy:.2f}"
