"""Kill the real commands at random moments, start them again, and see that nothing is lost and nothing differs.

    python -m benchmarks.kills --kills 100

Each command runs once undisturbed; then it is started and killed (SIGKILL) after a random share of that time, again and
again, and at last left alone: what it wrote must equal what the undisturbed one wrote, and nothing incomplete may lie
about. Another file in the output folders (`precious.txt`) must still be there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
QAMDT = [sys.executable, "-m", "audiocraft_qamdt.cli"]
RUN = [
    *[sys.executable, "-m", "dora", "run", "solver=qamdt/debug", "dset=folder", "device=cpu", "num_threads=1"],
    *["dataset.num_workers=0", "dataset.batch_size=2", "dataset.segment_duration=1.024", "generate.every=null"],
    *["evaluate.every=null", "optim.epochs=4", "optim.updates_per_epoch=2", "mdt.dim=32", "mdt.depth=3"],
    *["mdt.decoder_depth=1", "mdt.num_heads=2", "dataset.valid.num_samples=2", "dataset.evaluate.num_samples=2"],
]
UNFINISHED = ("*.part", "*.tmp", "*.planned.json", "*.qamdt-old")


@dataclass(frozen=True)
class Door:
    """A command that is killed.

    Args:
        name: of it.
        prepare: makes what it needs in a folder, before each row of kills.
        command: its line, for that folder.
        content: what it wrote there, to compare.
    """

    name: str
    prepare: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    content: Callable[[Path], dict[str, str]]


def start(command: Sequence[str], folder: Path) -> subprocess.Popen:
    """A command, with its own Dora folder and no network."""
    own = {"AUDIOCRAFT_DORA_DIR": str(folder / "outputs"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            command, cwd=CHECKOUT, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True
        )


def finish(command: Sequence[str], folder: Path) -> float:
    """Seconds that a command takes, undisturbed.

    Raises:
        RuntimeError: it failed; with the end of its log.
    """
    began = time.monotonic()
    if start(command, folder).wait():
        raise RuntimeError(f"{' '.join(command)}\n{(folder / 'log').read_text()[-3000:]}")
    return time.monotonic() - began


def kill_after(command: Sequence[str], folder: Path, seconds: float) -> bool:
    """Start a command and kill it with its children; whether it still ran."""
    process = start(command, folder)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def make_tracks(folder: Path) -> None:
    """Four tones with descriptions and a manifest."""
    import numpy as np
    import soundfile

    from audiocraft_qamdt.data.manifest import build_manifest

    music = folder / "music"
    music.mkdir(parents=True)
    for index in range(4):
        tone = 0.3 * np.sin(2 * np.pi * (220 + 60 * index) * np.arange(32000) / 16000)
        soundfile.write(music / f"{index}.wav", tone.astype("float32"), 16000)
        (music / f"{index}.json").write_text(json.dumps({"description": f"slow tone {index}"}))
    build_manifest(music)


def hashes(folder: Path, *patterns: str) -> dict[str, str]:
    """Hash of each file by its path in a folder."""
    files = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.name != "log"
    }


def history(folder: Path) -> dict[str, str]:
    """Losses of the one experiment of a folder, by epoch."""
    (path,) = folder.glob("outputs/xps/*/history.json")
    epochs = json.loads(path.read_text())
    losses = ([epoch[stage]["loss"] for stage in ("train", "valid")] for epoch in epochs)
    return {str(index): repr(pair) for index, pair in enumerate(losses)}


def doors(model: Path) -> list[Door]:
    """The commands, of which some need a model."""
    captions = ["rewrite.model=join", "rewrite.actions=[keep,fuse,replace]", "--stages", "rewrite"]
    return [
        Door("dora run", make_tracks, lambda folder: [*RUN, f"folder={folder / 'music'}"], history),
        Door(
            "annotate",
            make_tracks,
            lambda folder: [*QAMDT, "annotate", str(folder / "music")],
            lambda folder: hashes(folder / "music", "*.json"),
        ),
        Door(
            "captions",
            make_tracks,
            lambda folder: [*QAMDT, "captions", str(folder / "music"), *captions],
            lambda folder: hashes(folder / "music", "?.json"),
        ),
        Door(
            "generate",
            lambda folder: None,
            lambda folder: [
                *[*QAMDT, "generate", "piano", "drums", "--model", str(model), "--steps", "4", "--device", "cpu"],
                *["--duration", "1", "--batch-size", "1", "--candidates", "2", "--out", str(folder / "clips")],
            ],
            lambda folder: hashes(folder / "clips", "*.wav", "*.json"),
        ),
        Door(
            "export",
            lambda folder: None,
            lambda folder: [*QAMDT, "export", str(model), "--out", str(folder / "model"), "--title", "model"],
            lambda folder: hashes(folder / "model", "*"),
        ),
    ]


def try_door(door: Door, root: Path, kills: int, rng: random.Random) -> dict[str, object]:
    """Kill one command so often, and compare.

    Returns:
        What was seen: kills that hit, whether the content is equal, and what lies about.
    """
    calm, folder = root / "calm", root / "killed"
    for each in (calm, folder):
        each.mkdir(parents=True)
        door.prepare(each)
        (each / "precious.txt").write_text("precious")
    seconds = finish(door.command(calm), calm)
    hit = 0
    for _ in range(kills):
        hit += kill_after(door.command(folder), folder, rng.uniform(0.05, 1) * seconds)
    finish(door.command(folder), folder)
    finish(door.command(folder), folder)  # the next run removes what the dead left
    left = [str(path.relative_to(folder)) for pattern in UNFINISHED for path in folder.rglob(pattern)]
    equal = door.content(calm) == door.content(folder) and bool(door.content(calm))
    kept = (folder / "precious.txt").read_text() == "precious"
    return {"command": door.name, "kills": hit, "equal": equal, "kept": kept, "left": left}


def make_model(root: Path) -> Path:
    """Export of a model that was trained for a moment."""
    root.mkdir(parents=True)
    make_tracks(root)
    finish([*RUN, f"folder={root / 'music'}", "diffusion.schedule.prediction=v"], root)
    (experiment,) = root.glob("outputs/xps/*")
    finish([*QAMDT, "export", str(experiment), "--out", str(root / "model")], root)
    return root / "model"


def main(argv: Sequence[str] | None = None) -> int:
    """Kill all, print a line for each; status 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="over all commands")
    parser.add_argument("--only", nargs="+", help="names of commands, default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="an export, default: one is made")
    parser.add_argument("--out", type=Path, required=True, help="folder to work in, made and removed")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True)
    rng, faults = random.Random(args.seed), 0
    model = (args.model or make_model(args.out / "made")).resolve()
    chosen = [door for door in doors(model) if not args.only or door.name in args.only]
    for door in chosen:
        seen = try_door(door, args.out / door.name.replace(" ", "-"), max(1, args.kills // len(chosen)), rng)
        faults += not seen["equal"] or not seen["kept"] or bool(seen["left"])
        sys.stdout.write(f"{json.dumps(seen)}\n")
        sys.stdout.flush()
    if not faults:  # else it is there to be looked at
        shutil.rmtree(args.out)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
