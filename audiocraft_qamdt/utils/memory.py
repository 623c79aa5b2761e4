"""How much memory is free, and how much a computation holds at most."""

from __future__ import annotations

import os
import typing as tp
import weakref
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own limit (cgroup v2)."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device; on the CPU within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(min(_available(), _left_in_container()))


def _available() -> int:
    if not _MEMINFO.exists():  # macOS does not say what it could free: count on half
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")


def _left_in_container() -> float:
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:  # no container, or an older kind
        return float("inf")
    return float("inf") if limit == "max" else max(0, int(limit) - int(used))


def peak_memory_of(call: tp.Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that a call's tensors hold at once, besides those that were there before.

    On CUDA by the allocator, elsewhere by what operations return, without the scratch memory of kernels.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with _Held() as held:
        call()
    return held.peak


class _Held(TorchDispatchMode):
    """Counts the bytes of tensors that operations return, for as long as something refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.owners: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: tp.Callable[..., object],
        types: tp.Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        given = {item.untyped_storage().data_ptr() for item in args if isinstance(item, Tensor)}
        for item in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(item, Tensor):
                self._add(item, given)
        return out

    def _add(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key in given and key not in self.owners:  # a view of what was there before
            return
        self.owners[key] = self.owners.get(key, 0) + 1
        if self.owners[key] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.owners[key] -= 1
        if not self.owners[key]:
            del self.owners[key]
            self.now -= size
