"""Keyed randomness: the same key draws the same, any other key differs, and an item does not depend on its batch."""

import torch

from audiocraft_qamdt.utils.randomness import keyed_generator, keyed_seed, noise_like_items, seed_libraries


def test_every_part_of_the_key_counts():
    seeds = {
        keyed_seed(seed, rank, step, use)
        for seed in (0, 1)
        for rank in (0, 1)
        for step in range(50)
        for use in ("noise", "dropout")
    }
    assert len(seeds) == 2 * 2 * 50 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert keyed_seed(1, 11) != keyed_seed(11, 1)


def test_generator_repeats():
    first, again = (torch.randn(8, generator=keyed_generator(3, "x")) for _ in range(2))
    assert torch.equal(first, again)


def test_noise_of_an_item_is_the_same_in_any_batch():
    batch = noise_like_items((2, 3), [5, 6, 7], "cpu")
    assert torch.equal(noise_like_items((2, 3), [6], "cpu")[0], batch[1])
    assert not torch.equal(batch[0], batch[1])


def test_libraries_are_seeded():
    import random

    import numpy as np

    drawn = []
    for _ in range(2):
        seed_libraries(1, "epoch", 2)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]
