"""How time and memory grow: `python -m benchmarks.growth` measures, fits, and writes growth.csv and growth.png.

Of the embedded model's network: a training step (30 % masked, AdamW) and an evaluation with guidance, against the
clip's length and the batch. Of data sets: manifest, annotation and captions' records, against the number of tracks.
Times are processor times of one thread, so that other work on the machine disturbs them little; each point runs in a
process of its own, whose largest resident size beyond what it began with is the memory.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from audiocraft_qamdt.diffusion.objective import DiffusionObjective, NoiseSchedule
from audiocraft_qamdt.models.masking import draw_mask
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer
from audiocraft_qamdt.utils.files import replacing
from audiocraft_qamdt.utils.plots import growth_lines

from .bench_network import EMBEDDED, EMBEDDED_LATENTS, SECONDS, conditions, network
from .harness import Settings

LENGTHS = (2.0, 5.0, 10.0, 30.0, 75.0, 150.0, 300.0)  # seconds of audio
BATCHES = (1, 2, 4, 8, 16)
BATCH_LENGTH = 10.0  # of the clips of a batch
TRACKS = (1000, 10000)
WEIGHED = (10**4, 10**5, 10**6)  # tracks that one is drawn of
TARGETS = (10**6, 10**8)  # tracks that costs are extrapolated to
MASKED = 0.3
STEPS = 25  # of a clip
LEAST, MOST = 2, 10  # timed calls of a point
ENOUGH, LONG = 1.0, 10.0  # seconds after which they are enough, and after which none is begun
HEADER = ("what", "against", "amount", "seconds", "MiB")


@dataclass(frozen=True)
class Point:
    """A measurement: what was done to which amount of something, its processor time and its memory beyond the start."""

    what: str
    against: str
    amount: float
    seconds: float
    mebibytes: float

    @property
    def key(self) -> tuple[str, str, float]:
        """What another measurement replaces."""
        return self.what, self.against, self.amount


# ---- measuring


def measured(prepare: Callable[[], Callable[[], object]]) -> tuple[float, float]:
    """Return the median processor time in seconds, and MiB, of what `prepare` returns, in a process of its own."""
    context = multiprocessing.get_context("fork")  # what is imported and built stays shared
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(prepare, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError as error:
        raise RuntimeError("a measurement ended without a result: see its message above") from error
    finally:
        process.join()


def _measure(prepare: Callable[[], Callable[[], object]], send: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    before = _resident()
    run = prepare()
    times: list[float] = []
    while len(times) < LEAST + 1 or (sum(times) < ENOUGH and len(times) < MOST):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
        if sum(times) > LONG:
            break
    counted = times[1:] or times  # the first call warms up, where there is time for a second
    send.send((statistics.median(counted), (_resident() - before) / 2**20))


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- the network


def frames_of(seconds: float) -> int:
    """Latent frames of a clip, whole patches of them."""
    frames = round(seconds * EMBEDDED_LATENTS[1] / SECONDS)
    return frames + frames % 2


def evaluation(model: MaskedDiffusionTransformer, frames: int, batch: int) -> Callable[[], object]:
    """One step of generation: the network with a text and without, as one batch."""
    given = conditions(model, 2 * batch, Settings(Path()))
    x = torch.randn(2 * batch, EMBEDDED_LATENTS[0], frames, 1)
    t = torch.full((2 * batch,), 500)

    def run() -> None:
        with torch.no_grad():
            model(x, t, **given)

    return run


def training_step(model: MaskedDiffusionTransformer, frames: int, batch: int) -> Callable[[], object]:
    """Forward, backward and AdamW with `MASKED` of the tokens hidden."""
    model.train()
    given = conditions(model, batch, Settings(Path()))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, EMBEDDED_LATENTS[0], frames, 1, generator=generator)
    mask = draw_mask("random", batch, model.grid(frames), MASKED, generator, "cpu")
    objective = DiffusionObjective(NoiseSchedule())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        noise, timesteps = torch.randn_like(latents), objective.draw_timesteps(batch, generator)
        prediction = model(objective.add_noise(latents, noise, timesteps), timesteps, mask=mask, **given)
        objective.loss(prediction, latents, noise, timesteps).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


NETWORK = {"evaluation": evaluation, "training step": training_step}


def network_points() -> Iterator[Point]:
    """Measure both against the length of one clip, and against the batch at `BATCH_LENGTH`."""
    model = network(EMBEDDED, Settings(Path())).eval()
    cases = [("seconds of audio", length, length, 1) for length in LENGTHS]
    cases += [("clips", batch, BATCH_LENGTH, batch) for batch in BATCHES]
    for against, amount, length, batch in cases:
        for what, prepare in NETWORK.items():
            yield Point(what, against, amount, *measured(partial(prepare, model, frames_of(length), batch)))


# ---- data sets


def tracks(folder: Path, count: int, scored: bool) -> Path:
    """Tracks of one second, hard links of one file, each with a sidecar; with scores where asked."""
    import soundfile

    from audiocraft_qamdt.utils.files import write_json

    folder.mkdir(parents=True)
    first = folder / "0000000.wav"
    soundfile.write(first, 0.1 * np.sin(np.arange(16000) * 0.17), 16000)
    quality = {"pmos": 3.5, "hop": 1.0, "frames": [3.5], "predictor": "acoustic", "version": "2"}
    for index in range(count):
        path = folder / f"{index:07d}.wav"
        if index:
            os.link(first, path)
        content = {"description": f"track {index}", "title": str(index), **({"quality": quality} if scored else {})}
        write_json(path.with_suffix(".json"), content)
    return folder


def manifest_work(folder: Path, what: str) -> Callable[[], object]:
    """What is done with the manifest of a folder: "build" it, "read" it, take one of 64 "shards" of it."""
    from audiocraft_qamdt.data.manifest import build_manifest, read_manifest
    from audiocraft_qamdt.slurm.shards import take_shard

    works: dict[str, Callable[[], object]] = {
        "build": partial(build_manifest, folder, workers=1),
        "read": partial(read_manifest, folder),
        "shard": lambda: take_shard(read_manifest(folder), (3, 64)),
    }
    return works[what]


def annotation(folder: Path) -> Callable[[], object]:
    """Pass over tracks that have their scores, as a resumed `qamdt annotate` does."""
    from audiocraft_qamdt.quality.annotate import score

    return partial(score, folder, "acoustic", workers=1)


def records(folder: Path) -> Callable[[], object]:
    """Read and write the captions of every track, without the models that write them."""
    from audiocraft_qamdt.captions.records import Candidate, read_texts, write_texts

    candidates = [Candidate(f"a caption of the kind {kind}", kind, "model", 0.4) for kind in ("caption", "rewrite")]
    numbers = itertools.count()

    def run() -> None:
        description = f"description {next(numbers)}"  # what has not changed is not written
        for path in folder.glob("*.wav"):
            write_texts(path, read_texts(path), candidates, description)

    return run


def draw_track(count: int) -> Callable[[], object]:
    """Draw a track by its weight, as AudioCraft's data set does for every segment."""
    probabilities = torch.rand(count)
    return partial(torch.multinomial, probabilities / probabilities.sum(), 1)


def data_points() -> Iterator[Point]:
    """Measure what a data set costs against its tracks."""
    root = Path(tempfile.mkdtemp(prefix="growth-"))
    for count in WEIGHED:
        yield Point("draw a track", "tracks", count, *measured(partial(draw_track, count)))
    try:
        for count in TRACKS:
            folder = tracks(root / str(count), count, scored=True)
            cases = {f"manifest, {what}": partial(manifest_work, folder, what) for what in ("build", "read", "shard")}
            cases["annotate, all scored before"] = partial(annotation, folder)
            cases["captions, records"] = partial(records, folder)
            for what, prepare in cases.items():
                yield Point(what, "tracks", count, *measured(prepare))
    finally:
        shutil.rmtree(root)


# ---- fitting and writing


def fit(amounts: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Fit values by a + b n + c n², none of them negative, with the least relative squared error.

    With two points, c is 0.
    """
    n, y = np.asarray(amounts, dtype=float), np.asarray(values, dtype=float)
    powers = range(min(3, len(n)))
    best, coefficients = np.inf, np.zeros(3)
    for chosen in range(1, 1 << len(powers)):
        used = [power for power in powers if chosen >> power & 1]
        design = np.stack([n**power for power in used], 1) / y[:, None]
        found = np.linalg.lstsq(design, np.ones_like(y), rcond=None)[0]
        error = float(((design @ found - 1) ** 2).sum())
        if (found >= 0).all() and error < best - 1e-12:
            best, coefficients = error, np.zeros(3)
            coefficients[used] = found
    return tuple(float(value) for value in coefficients)  # type: ignore[return-value]


def grouped(points: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """The points of each line, in the order of measurement."""
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        lines.setdefault((point.what, point.against), []).append(point)
    return lines


def report(points: Sequence[Point]) -> str:
    """The fits as a Markdown table; tracks with what they come to at `TARGETS`."""
    rows = ["| what | fit of the processor time, s | fit of the memory, MiB |", "|---|---|---|"]
    for (what, against), line in grouped(points).items():
        amounts = [point.amount for point in line]
        seconds = fit(amounts, [max(point.seconds, 1e-6) for point in line])
        memory = fit(amounts, [max(point.mebibytes, 0.1) for point in line])
        beyond = "".join(f"; {n:.0e}: {_hours(seconds, n)}" for n in TARGETS) if against == "tracks" else ""
        rows.append(f"| {what}, n {against} | {_formula(seconds)}{beyond} | {_formula(memory)} |")
    return "\n".join(rows)


def _formula(coefficients: Sequence[float]) -> str:
    terms = zip(coefficients, ("", " n", " n²"), strict=True)
    return " + ".join(f"{value:.3g}{power}" for value, power in terms if value) or "0"


def _hours(coefficients: Sequence[float], n: float) -> str:
    return f"{sum(value * n**power for power, value in enumerate(coefficients)) / 3600:.3g} h"


def write_csv(points: Sequence[Point], path: Path) -> None:
    """Write the points with `HEADER` above them."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows((p.what, p.against, f"{p.amount:g}", f"{p.seconds:.4g}", f"{p.mebibytes:.4g}") for p in points)


def read_csv(path: Path) -> list[Point]:
    """Read what `write_csv` wrote."""
    with path.open(newline="") as file:
        return [
            Point(row["what"], row["against"], *(float(row[key]) for key in HEADER[2:])) for row in csv.DictReader(file)
        ]


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw the network's lines, measured and fitted."""
    lines = {}
    for (what, against), line in grouped(points).items():
        if against == "seconds of audio":
            amounts, seconds = [p.amount for p in line], [p.seconds for p in line]
            coefficients = fit(amounts, seconds)
            fitted = [sum(c * n**power for power, c in enumerate(coefficients)) for n in amounts]
            lines[what] = (amounts, seconds, fitted)
    growth_lines(lines, path, xlabel="seconds of audio", ylabel="processor time, s")


PARTS = {"network": network_points, "data": data_points}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that are named, keep what else the table holds, and write all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of growth.csv and growth.png")
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}: choose of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    table = args.out / "growth.csv"
    chosen = args.parts or list(PARTS)
    points = read_csv(table) if table.exists() else []
    for part in chosen:
        for point in PARTS[part]():
            points = [other for other in points if other.key != point.key] + [point]
            write_csv(points, table)  # after each: it takes minutes
    draw(points, args.out / "growth.png")
    print(report(points))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
