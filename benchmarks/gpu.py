"""Measure the network on a GPU in one call: speed, memory, precision, and whether FSDP and half precision train.

    python -m benchmarks.gpu --out gpu

It needs PyTorch, and diffusers for the sampling lines; it installs nothing, reads nothing outside this repository, and
begins no line after `--limit` seconds. A line that fails says why, and the others still run. Lines with a reference are
timed in turns with it (A B A B), and compared by their medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from audiocraft_qamdt.diffusion.objective import DiffusionObjective, NoiseSchedule

from . import bench_network as bench
from .harness import Settings, Work, _call, count_flops, matmul_peak

LIMIT = 480.0
REPEATS = 7
PEAK_TARGET = 40.0  # % of the card's measured bfloat16 peak in a training step
SECONDS_TARGET = 0.5  # for 10.24 s of audio
PUBLISHED_MASK = 0.4  # the middle of the published 0.3 + U(0, 0.2)


@dataclass
class Line:
    """A line of the table.

    Attributes:
        what: what was done.
        seconds: median of a call; None = nothing was timed.
        peak_percent: of the device's measured matmul peak.
        gib: most memory that the device's allocator held.
        reference: how many times as long the reference takes.
        figure: what else was found, or why it failed.
        target: what was hoped for, "" = nothing.
    """

    what: str
    seconds: float | None = None
    peak_percent: float | None = None
    gib: float | None = None
    reference: float | None = None
    figure: str = ""
    target: str = ""

    def row(self) -> str:
        """Return it as a line of a Markdown table."""
        numbers = (
            "" if self.seconds is None else f"{self.seconds * 1000:.1f} ms",
            "" if self.peak_percent is None else f"{self.peak_percent:.0f} %",
            "" if self.gib is None else f"{self.gib:.2f} GiB",
            "" if self.reference is None else f"{self.reference:.2f} ×",
        )
        return f"| {' | '.join((self.what, *numbers, self.figure, self.target))} |"


HEAD = "| what | time | share of peak | memory | reference takes | figure | target |\n|---|---|---|---|---|---|---|"


class Bench:
    """The lines of one run.

    Args:
        settings: device, precision and batch; `compile` is set by each line.
        size: of `bench_network`.
    """

    def __init__(self, settings: Settings, size: str) -> None:
        self.settings, self.size = settings, size
        self.peak = matmul_peak(settings)

    def lines(self) -> Iterator[tuple[str, Callable[[str], Line]]]:
        """Yield the name of each line and what measures it, the most important first."""
        yield "training step, nothing masked", partial(self.timed, self.step(0.0), target=f"≥ {PEAK_TARGET:.0f} %")
        masked = f"training step, {PUBLISHED_MASK:.0%} masked"
        yield masked, partial(self.timed, self.step(PUBLISHED_MASK), target=f"≥ {PEAK_TARGET:.0f} %")
        yield "forward", partial(self.timed, partial(bench.forward, self.size))
        yield "network in bfloat16 against float32 on the CPU", self.equality
        sampled = "10.24 s of audio in 25 steps with guidance, without the codec"
        yield sampled, partial(self.timed, self.sampling(), target=f"< {SECONDS_TARGET} s")
        yield (
            f"{sampled}, CUDA graphs",
            partial(self.timed, self.sampling(), compile="reduce-overhead", target=f"< {SECONDS_TARGET} s"),
        )
        yield "training step, compiled", partial(self.timed, self.step(0.0), compile="default", target="≥ 40 %")
        yield f"{masked}, compiled", partial(self.timed, self.step(PUBLISHED_MASK), compile="default", target="≥ 40 %")
        embedded = "10.24 s of audio by the embedded model's network, 25 steps with guidance"
        yield embedded, partial(self.timed, partial(bench.sampling, bench.EMBEDDED, 25))
        yield "half precision with a gradient scaler", self.half_precision
        yield "FSDP on one device", self.sharded

    def step(self, ratio: float) -> Callable[[Settings], Work]:
        """Prepare a training step that hides a share of the tokens."""
        return partial(bench.step, self.size, ratio)

    def sampling(self) -> Callable[[Settings], Work]:
        """Prepare the sampling of one clip."""
        return partial(bench.sampling, self.size, 25)

    def timed(
        self, prepare: Callable[[Settings], Work], what: str, *, compile: str | None = None, target: str = ""
    ) -> Line:
        """Time a bench, eager ones in turns with the authors' arithmetic: naive attention, no fused kernels."""
        _forget(self.settings.device)
        work = prepare(replace(self.settings, compile=compile))
        assert work.run is not None
        flops = count_flops(work.part or work.run) * work.parts if compile is None else None
        own, reference = interleaved(work.run, None if compile else _naive(work.run), self.settings.device)
        seconds = statistics.median(own)
        return Line(
            what,
            seconds,
            flops and 100 * flops / seconds / self.peak,
            _held(self.settings.device),
            statistics.median(reference) / seconds if reference else None,
            f"range {1000 * min(own):.1f} to {1000 * max(own):.1f} ms",
            target,
        )

    def equality(self, what: str) -> Line:
        """Compare the network's output on the device in bfloat16 with the CPU's, in bfloat16 and in float32."""
        model = bench.network(self.size, replace(self.settings, device="cpu")).eval()
        generator = torch.Generator().manual_seed(0)
        x, t = torch.randn(1, *bench.latents_of(self.size), generator=generator), torch.tensor([500])
        given = bench.conditions(model, 1, replace(self.settings, device="cpu"))
        with torch.no_grad():
            exact = model(x, t, **given)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = model(x, t, **given).float()
            device = self.settings.device
            moved = {name: value.to(device) for name, value in given.items()}
            with torch.autocast(device, torch.bfloat16):
                found = model.to(device)(x.to(device), t.to(device), **moved).float().cpu()
        error, allowed = relative_error(found, exact), relative_error(rounded, exact)
        verdict = "equal" if error <= 2 * allowed else "NOT EQUAL"
        return Line(what, figure=f"{verdict}: relative error {error:.1e}, the CPU's own in bfloat16 {allowed:.1e}")

    def half_precision(self, what: str) -> Line:
        """Train five steps in float16 with a scaler on one batch."""
        scaler = torch.amp.GradScaler(self.settings.device)
        losses, skipped = self._train(scaler=scaler, dtype=torch.float16)
        return Line(what, figure=f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps, {skipped} skipped")

    def sharded(self, what: str) -> Line:
        """Train five steps under FSDP in a group of one process, and the same without."""
        from torch import distributed
        from torch.distributed.fsdp import FullyShardedDataParallel

        plain, _ = self._train()
        with tempfile.TemporaryDirectory() as folder:
            backend = "nccl" if self.settings.device == "cuda" else "gloo"
            distributed.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
            try:
                device = (
                    torch.device(self.settings.device, 0) if self.settings.device == "cuda" else torch.device("cpu")
                )
                wrap = partial(FullyShardedDataParallel, device_id=device, use_orig_params=True)
                sharded, _ = self._train(wrap=wrap)
            finally:
                distributed.destroy_process_group()
        difference = max(abs(a - b) / abs(a) for a, b in zip(plain, sharded, strict=True))
        return Line(
            what, figure=f"loss {sharded[-1]:.3f} after {len(sharded)} steps, within {difference:.1e} of without"
        )

    def _train(
        self,
        scaler: torch.amp.GradScaler | None = None,
        dtype: torch.dtype = torch.bfloat16,
        wrap: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
        steps: int = 5,
    ) -> tuple[list[float], int]:
        """Return the losses of steps on one batch with one noise, and how many of them the scaler skipped."""
        _forget(self.settings.device)
        torch.manual_seed(0)
        device, batch = self.settings.device, 2
        network = bench.network(self.size, self.settings).train()
        given = bench.conditions(network, batch, self.settings)
        model = wrap(network) if wrap else network
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        objective = DiffusionObjective(NoiseSchedule()).to(device)
        latents, noise = torch.randn(2, batch, *bench.latents_of(self.size), device=device)
        timesteps = torch.tensor([200, 700], device=device)
        losses, skipped = [], 0
        for _ in range(steps):
            with torch.autocast(device, dtype):
                prediction = model(objective.add_noise(latents, noise, timesteps), timesteps, **given)
            loss = objective.loss(prediction, latents, noise, timesteps).mean()
            losses.append(loss.item())
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                before = scaler.get_scale()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                skipped += scaler.get_scale() < before
            optimizer.zero_grad()
        return losses, skipped


def interleaved(
    own: Callable[[], object], other: Callable[[], object] | None, device: str, repeats: int = REPEATS
) -> tuple[list[float], list[float]]:
    """Return seconds of calls that take turns, after one of each that is not counted."""
    runs = [own] if other is None else [own, other]
    for run in runs:
        _call(run, device)
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for index, run in enumerate(runs):
            times[index].append(_call(run, device))
    return times[0], times[1]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the difference over that of what is exact."""
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


def _naive(run: Callable[[], object]) -> Callable[[], object]:
    def reference() -> object:
        with sdpa_kernel(SDPBackend.MATH):
            return run()

    return reference


def _forget(device: str) -> None:
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _held(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def run(measured: Bench, only: list[str], limit: float, show: Callable[[str], None]) -> list[Line]:
    """Measure line after line until the time is over.

    Args:
        measured: of which device and size.
        only: parts of the names of lines; none = all.
        limit: seconds after which no line is begun.
        show: called with each line of the table.
    """
    end = time.monotonic() + limit
    found = []
    for what, measure in measured.lines():
        if only and not any(part in what for part in only):
            continue
        if time.monotonic() > end:
            line = Line(what, figure=f"not begun: {limit:.0f} s are over")
        else:
            try:
                line = measure(what)
            except Exception as error:  # a line that fails must not cost the others: the card is lent for minutes
                line = Line(
                    what, figure=f"FAILED: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
                )
        found.append(line)
        show(line.row())
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and write it; the exit status is 1 where a line failed."""
    from audiocraft_qamdt.commands.output import say

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder for gpu.md and gpu.json")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", default="published", help="published, or a file of config/model/qamdt")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which no line is begun")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="lines whose names hold one of these")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here: --device cpu --size xsmall tries the script")
    if options.batch < 1:
        parser.error(f"--batch {options.batch}: give at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(Path(folder), options.device, precision="bfloat16", batch=options.batch)
        measured = Bench(settings, options.size)
        name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        title = f"{name}, torch {torch.__version__}, matmul peak {measured.peak / 1e12:.1f} TFLOP/s in bfloat16"
        say([f"{title}, {options.size}, batch {options.batch}", "", *HEAD.split("\n")])
        lines = run(measured, options.only, options.limit, lambda row: say([row]))
    table = "\n".join([title, "", HEAD, *(line.row() for line in lines)])
    (options.out / "gpu.md").write_text(f"{table}\n", encoding="utf-8")
    content = {"device": name, "torch": torch.__version__, "peak_flops": measured.peak, "size": options.size}
    content |= {"batch": options.batch, "lines": [asdict(line) for line in lines]}
    (options.out / "gpu.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return int(any(word in line.figure for line in lines for word in ("FAILED", "NOT EQUAL")))


if __name__ == "__main__":
    raise SystemExit(main())
