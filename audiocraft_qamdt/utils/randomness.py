"""Random generators keyed by what they are for, so that a resumed run draws what the uninterrupted run drew."""

from __future__ import annotations

import contextlib
import hashlib
import random
import typing as tp

import numpy as np
import torch


def keyed_seed(*key: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on every part of the key: `keyed_seed(seed, rank, step, "noise")`."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on `device`, seeded by `keyed_seed(*key)`."""
    return torch.Generator(device).manual_seed(keyed_seed(*key))


def noise_like_items(shape: tuple[int, ...], seeds: list[int], device: torch.device | str) -> torch.Tensor:
    """Draw normal noise [len(seeds), *shape], each item from its own seed: an item is the same in any batch.

    Drawn on the CPU, so that it is the same on every device.
    """
    items = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(items).to(device)


def step_noise_like_items(
    shape: tuple[int, ...], seeds: list[int], device: torch.device | str
) -> tp.Callable[[int], torch.Tensor]:
    """Return a sampler's noise by step, [len(seeds), *shape], each item and step from a seed of its own."""
    return lambda index: noise_like_items(shape, [keyed_seed(seed, "step", index) for seed in seeds], device)


def seed_libraries(*key: int | str) -> None:
    """Seed the global generators of Python, NumPy and torch, which AudioCraft's loaders and text changes draw from."""
    seed = keyed_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def numpy_seeded(*key: int | str) -> tp.Iterator[None]:
    """Seed NumPy's global generator, which a library draws from, within the context; afterwards it is as before."""
    before = np.random.get_state()
    np.random.seed(keyed_seed(*key) % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
