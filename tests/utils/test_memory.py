"""How much memory there is, and how much of it a computation holds."""

from __future__ import annotations

import torch

from audiocraft_qamdt.utils.memory import free_memory, peak_memory_of

CPU = torch.device("cpu")
MEGABYTE = 1 << 20


def a_megabyte() -> torch.Tensor:
    return torch.zeros(MEGABYTE // 4)


def test_what_is_held_at_once_counts_and_what_is_let_go_does_not():
    def in_turns() -> None:
        for _ in range(5):
            a_megabyte()

    assert peak_memory_of(in_turns, CPU) == MEGABYTE
    assert peak_memory_of(lambda: [a_megabyte() for _ in range(5)], CPU) == 5 * MEGABYTE


def test_views_and_what_was_there_before_count_once():
    before = a_megabyte()
    assert peak_memory_of(lambda: before.view(2, -1).transpose(0, 1), CPU) == 0
    assert peak_memory_of(lambda: a_megabyte().view(2, -1).add_(1)[0], CPU) == MEGABYTE


def test_more_clips_hold_more():
    layer = torch.nn.Linear(64, 256)
    one, four = (peak_memory_of(lambda count=count: layer(torch.zeros(count, 1000, 64)), CPU) for count in (1, 4))
    assert 3.5 * one < four < 4.5 * one


def test_memory_is_free():
    assert 16 * MEGABYTE < free_memory(CPU) < 1 << 50
