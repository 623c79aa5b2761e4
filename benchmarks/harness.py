"""Define benches, and measure each in a process of its own."""

from __future__ import annotations

import importlib
import pkgutil
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from audiocraft_qamdt.models.cpu_kernels import FLOPS

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PEAK_SIZES = (512, 1024, 2048)  # of square matrices; the best one is the machine's peak
MOST_REPEATS = 20


@dataclass(frozen=True)
class Settings:
    """Settings that all benches of a run share.

    Args:
        folder: scratch folder of the bench, empty.
        device: "cpu" or "cuda".
        threads: threads of PyTorch on the CPU.
        precision: "float32", or "bfloat16": the network's products under autocast.
        repeats: least number of timed calls, as long as these take less than `limit`.
        seconds: calls are repeated until they took that long together, at most `MOST_REPEATS` of them.
        limit: seconds of timed calls after which none is begun.
        batch: items, None = the bench's own number.
        compile: mode of torch.compile, None = eager.
        checkpointing: recompute activations in the backward pass.
    """

    folder: Path
    device: str = "cpu"
    threads: int = 2
    precision: str = "float32"
    repeats: int = 3
    seconds: float = 5.0
    limit: float = 60.0
    batch: int | None = None
    compile: str | None = None
    checkpointing: bool = False


@dataclass
class Work:
    """Work that a bench prepared.

    Args:
        run: the call to time; None = only `figures` are wanted, and take the time they take.
        figures: from the median time of a call in seconds to further numbers by name, computed once afterwards.
        part: for a long call that repeats itself, the call that it repeats: it warms up, and its arithmetic is counted;
            None = `run` does both.
        parts: how often `part` is in `run`.
    """

    run: Callable[[], Any] | None = None
    figures: Callable[[float], dict[str, float]] = field(default=lambda seconds: {})
    part: Callable[[], Any] | None = None
    parts: int = 1


@dataclass(frozen=True)
class Bench:
    """A registered bench: what it prepares, and whether it only runs when it is named."""

    prepare: Callable[[Settings], Work]
    on_request: bool = False


@dataclass
class Result:
    """A line of the table.

    Attributes:
        name: of the bench.
        seconds, fastest, slowest: median and range of a call, None where nothing was timed.
        repeats: number of timed calls.
        flops: floating-point operations of a call, by PyTorch's counter; None where nothing was timed.
        peak_flops: matrix products per second, measured in the same process just before: the best of `PEAK_SIZES`.
        memory: bytes; the largest resident size of the process, or what the device's allocator held.
        figures: further numbers by name.
    """

    name: str
    seconds: float | None = None
    fastest: float | None = None
    slowest: float | None = None
    repeats: int = 0
    flops: int | None = None
    peak_flops: float | None = None
    memory: int = 0
    figures: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


BENCHES: dict[str, Bench] = {}
"""Benches by name, `group/what`, in the order of the table."""


def bench(name: str, on_request: bool = False) -> Callable[[Callable[[Settings], Work]], Callable[[Settings], Work]]:
    """Decorator that registers what prepares a bench under a name, `group/what`.

    Args:
        name: unique.
        on_request: leave it out of runs that do not name it or its group.
    """

    def register(prepare: Callable[[Settings], Work]) -> Callable[[Settings], Work]:
        if name in BENCHES:
            raise ValueError(f"two benches are called {name!r}")
        BENCHES[name] = Bench(prepare, on_request)
        return prepare

    return register


def load_benches() -> None:
    """Import the modules that register benches."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("bench_"):
            importlib.import_module(f"{__package__}.{module.name}")


def select(only: list[str] | None) -> list[str]:
    """Names of the benches to run.

    Args:
        only: names, or groups (the part before the slash); None = all that are not only on request.
    Raises:
        ValueError: for a name that is neither, listing what there is.
    """
    if not only:
        return [name for name, item in BENCHES.items() if not item.on_request]
    for wanted in only:
        if not any(_matches(name, wanted) for name in BENCHES):
            raise ValueError(f"no bench or group is called {wanted!r}; there are {', '.join(BENCHES)}")
    return [name for name in BENCHES if any(_matches(name, wanted) for wanted in only)]


def _matches(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}/")


# ---- measuring


def measure(name: str, settings: Settings) -> Result:
    """Prepare and measure a bench in this process."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    peak = matmul_peak(settings)
    work = BENCHES[name].prepare(settings)
    result = Result(name)
    if times := timed(work, settings):
        result.seconds, result.fastest, result.slowest = statistics.median(times), min(times), max(times)
        result.repeats, result.peak_flops = len(times), peak
    result.memory = peak_memory(settings.device)
    if work.run is not None:
        result.flops = count_flops(work.part or work.run) * work.parts
    result.figures = work.figures(result.seconds or 0.0)
    return result


def timed(work: Work, settings: Settings) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    if work.run is None:
        return []
    _call(work.part or work.run, settings.device)
    times = [_call(work.run, settings.device)]
    while sum(times) < settings.limit and (
        len(times) < settings.repeats or (sum(times) < settings.seconds and len(times) < MOST_REPEATS)
    ):
        times.append(_call(work.run, settings.device))
    return times


def _call(run: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in a call."""
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, with the kernels that its own table lacks: the CPU's attention, and ours."""
    aten = torch.ops.aten
    added = FLOPS | {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=added)


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def matmul_peak(settings: Settings, seconds: float = 0.4) -> float:
    """Floating-point operations per second of the fastest product of two square matrices."""
    return max(_matmul_speed(size, settings, seconds) for size in PEAK_SIZES)


def _matmul_speed(size: int, settings: Settings, seconds: float) -> float:
    size = size * 4 if settings.device == "cuda" else size
    options: dict[str, Any] = {"device": settings.device, "dtype": PRECISIONS[settings.precision]}
    a, b = torch.rand(size, size, **options), torch.rand(size, size, **options)
    out = torch.empty_like(a)
    once = _call(lambda: torch.mm(a, b, out=out), settings.device)
    best, end = once, time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, _call(lambda: torch.mm(a, b, out=out), settings.device))
    return 2 * size**3 / best


def peak_memory(device: str) -> int:
    """Bytes that this process held at most: of the device's allocator, on the CPU resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, elsewhere kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
