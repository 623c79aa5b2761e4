"""Results as a Markdown table, JSON and a plot."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from audiocraft_qamdt.utils import plots
from audiocraft_qamdt.utils.files import replacing, write_json

from .harness import Result

SHARE = "share of peak"
HEADER = ("bench", "time (range)", "GFLOP", "GFLOP/s", SHARE, "peak memory", "figures", "target")
_CPU_INFO = Path("/proc/cpuinfo")
TARGETS = {
    "small/forward": (SHARE, 0.8),
    "data/mp3-loader": ("per worker", 20.0),
    "data/playground-epoch": ("audio / cached", 3.0),
}
"""Bench → the figure, or `SHARE`, that is to be reached, and its least value; docs/benchmarks.md has the others."""


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the time of a measurement."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def best_peak(results: list[Result]) -> float:
    """The machine's matmul peak: the best that any of the run's processes measured; 0 where none did."""
    return max((result.peak_flops or 0.0 for result in results), default=0.0)


def markdown(results: list[Result]) -> str:
    """The table; shares are of the best peak among these results."""
    peak = best_peak(results)
    rows = [HEADER, ("---",) * len(HEADER), *(_row(result, peak) for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(result: Result, peak: float) -> tuple[str, ...]:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result.figures.items())
    memory, target = f"{result.memory / 2**20:.0f} MiB", _target(result, peak)
    if result.seconds is None:
        return result.name, "", "", "", "", memory, figures, target
    spread = f"{seconds(result.seconds)} ({seconds(result.fastest)} to {seconds(result.slowest)})"
    if not result.flops:
        return result.name, spread, "", "", "", memory, figures, target
    speed, found = result.flops / result.seconds, _share(result, peak)
    share = "" if found is None else f"{found:.2f}"
    return result.name, spread, f"{result.flops / 1e9:.4g}", f"{speed / 1e9:.4g}", share, memory, figures, target


def _share(result: Result, peak: float) -> float | None:
    """Share of the peak that a bench reaches; None where nothing was timed or no peak measured."""
    return result.flops / result.seconds / peak if peak and result.flops and result.seconds else None


def _target(result: Result, peak: float) -> str:
    """What a bench is to reach and whether it does; empty where it has no target, or nothing was measured for it."""
    if result.name not in TARGETS:
        return ""
    what, least = TARGETS[result.name]
    found = _share(result, peak) if what == SHARE else result.figures.get(what)
    return "" if found is None else f"{what} ≥ {least:g}: {'met' if found >= least else 'missed'}"


def seconds(value: float | None) -> str:
    """A duration with three digits and its unit."""
    value = value or 0.0
    return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"


def report(results: list[Result], settings: dict[str, Any], folder: Path) -> Iterator[str]:
    """Write `benchmarks.json`, `.md` and `.png` into the folder; yields the lines to print."""
    folder.mkdir(parents=True, exist_ok=True)
    peak = best_peak(results)
    heading = f"Matmul peak {peak / 1e9:.4g} GFLOP/s; " + ", ".join(f"{k} {v}" for k, v in settings.items() if v)
    record = {**settings, "peak_flops": peak, "results": [result.to_dict() for result in results]}
    write_json(folder / "benchmarks.json", record)
    with replacing(folder / "benchmarks.md") as part:
        part.write_text(f"{heading}\n\n{markdown(results)}\n")
    timed = {result.name: result.seconds for result in results if result.seconds is not None}
    if timed:
        plots.bars(timed, folder / "benchmarks.png", xlabel="seconds per call (logarithmic)")
    yield heading
    yield ""
    yield markdown(results)
    yield ""
    yield str(folder)
