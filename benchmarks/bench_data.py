"""Reading and decoding, codecs, annotation, and what cached latents save: on tracks of the playground, made here."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from audiocraft_qamdt.data.dataset import QualityMusicDataset
from audiocraft_qamdt.data.manifest import build_manifest
from audiocraft_qamdt.latents.codec import LatentCodec
from audiocraft_qamdt.latents.mdct import MDCTCodec
from audiocraft_qamdt.playground.dataset import make_dataset
from audiocraft_qamdt.quality.annotate import annotate
from audiocraft_qamdt.utils import prepared

from .harness import Settings, Work, bench

SEGMENT = 10.0  # seconds
TRACKS, DURATION = 3, 30.0  # of the music that is read
WORKERS = 2
BATCHES, BATCH = 4, 4  # segments of a call of the loader
CODEC_SECONDS = 10.24
UPDATES, EPOCHS = 4, 5  # of an epoch, and how many of each source are timed
SOURCES = {"audio": [], "write": ["cache.write=true"], "cached": []}


def mp3_folder(folder: Path) -> Path:
    """Stereo mp3 files at 44.1 kHz with a manifest."""
    made = make_dataset(folder / "flac", tracks=TRACKS, duration=DURATION, sample_rate=44100, splits={"all": 1.0})
    mp3 = folder / "mp3"
    mp3.mkdir()
    for path in sorted(made["all"].glob("*.flac")):
        audio, sample_rate = soundfile.read(path, dtype="float32")
        target = mp3 / f"{path.stem}.mp3"
        soundfile.write(target, torch.tensor(audio)[:, None].expand(-1, 2).numpy(), sample_rate, format="MP3")
        target.with_suffix(".json").write_text(path.with_suffix(".json").read_text())
    build_manifest(mp3)
    return mp3


def segments(folder: Path, sample_rate: int) -> QualityMusicDataset:
    """Random mono segments of the tracks in a folder."""
    dataset = QualityMusicDataset.from_meta(
        folder,
        segment_duration=SEGMENT,
        sample_rate=sample_rate,
        channels=1,
        num_samples=1_000_000,
        shuffle=True,
        return_info=True,
    )
    dataset.start_epoch(1)
    return dataset


def _times_real_time(audio_seconds: float, seconds: float) -> dict[str, float]:
    return {"times real time": audio_seconds / seconds}


@bench("data/mp3-segment")
def segment(settings: Settings) -> Work:
    """One process reads, decodes and resamples segments one after the other."""
    dataset = segments(mp3_folder(settings.folder), 16000)
    index = iter(range(len(dataset)))
    return Work(lambda: [dataset[next(index)] for _ in range(BATCH)], partial(_times_real_time, BATCH * SEGMENT))


@bench("data/mp3-loader")
def loader(settings: Settings) -> Work:
    """Batches of such segments from `dataset.num_workers=2`."""
    dataset = segments(mp3_folder(settings.folder), 16000)
    batches = _forever(DataLoader(cast(Dataset, dataset), BATCH, num_workers=WORKERS, collate_fn=dataset.collater))

    def figures(seconds: float) -> dict[str, float]:
        audio = BATCHES * BATCH * SEGMENT
        return {"times real time": audio / seconds, "per worker": audio / seconds / WORKERS}

    return Work(lambda: list(islice(batches, BATCHES)), figures)


def _forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def mdct(settings: Settings) -> LatentCodec:
    """The playground's codec."""
    return MDCTCodec(split=True, compand=0.2).to(settings.device).eval()


def mel_vae(settings: Settings) -> LatentCodec:
    """The published codec's networks with random weights."""
    from audiocraft_qamdt.latents import mel_vae as module

    vae, vocoder = module.build_vae(module.PUBLISHED_VAE), module.build_vocoder(module.PUBLISHED_VOCODER)
    return module.MelVAECodec(vae, vocoder).to(settings.device).eval()


CODECS = {"mdct": mdct, "mel_vae": mel_vae}


def encode(codec_name: str, settings: Settings) -> Work:
    """Audio of a segment to latents."""
    codec = CODECS[codec_name](settings)
    audio = _noise(codec, settings)
    return Work(lambda: codec.encode(audio), partial(_times_real_time, CODEC_SECONDS))


def decode(codec_name: str, settings: Settings) -> Work:
    """Latents of a segment to audio."""
    codec = CODECS[codec_name](settings)
    audio = _noise(codec, settings)
    latents = codec.encode(audio)
    return Work(lambda: codec.decode(latents, audio.shape[-1]), partial(_times_real_time, CODEC_SECONDS))


def _noise(codec: LatentCodec, settings: Settings) -> Tensor:
    return 0.1 * torch.randn(1, 1, round(CODEC_SECONDS * codec.sample_rate), device=settings.device)


for _name in CODECS:
    bench(f"codec/{_name}-encode")(partial(encode, _name))
    bench(f"codec/{_name}-decode")(partial(decode, _name))


@bench("annotate/acoustic")
def annotation(settings: Settings) -> Work:
    """`qamdt annotate` with the predictor that needs no weights: reading, scoring, writing."""
    tracks, duration = 64, 8.0
    folder = make_dataset(settings.folder / "tracks", tracks=tracks, duration=duration, splits={"all": 1.0})["all"]
    unscored = {path: path.read_text() for path in folder.glob("*.json")}

    def run() -> None:
        for path, text in unscored.items():  # else nothing is left to do after the first call
            path.write_text(text)
        annotate(folder, "acoustic")

    return Work(run, partial(_times_real_time, tracks * duration))


@bench("data/playground-epoch")
def epoch(settings: Settings) -> Work:
    """Short epochs of `solver=qamdt/playground` from audio and from cached latents, in turns."""
    make_dataset(settings.folder / "tracks", tracks=60)
    writing = train_stage(*experiment("write", settings))
    experiments = {source: experiment(source, settings) for source in ("audio", "cached")}
    times: dict[str, list[float]] = {source: [] for source in experiments}
    for _ in range(1 + EPOCHS):
        for source, (xp, solver) in experiments.items():
            times[source].append(train_stage(xp, solver))
    seconds = {source: statistics.median(values[1:]) for source, values in times.items()} | {"write": writing}
    figures = {f"ms per update, {source}": 1000 * value / UPDATES for source, value in seconds.items()}
    return Work(figures=lambda _: figures | {"audio / cached": seconds["audio"] / seconds["cached"]})


def experiment(source: str, settings: Settings) -> tuple[Any, Any]:
    """Dora's experiment and its solver, for the recipe with this source of latents, of `SOURCES`."""
    from audiocraft_qamdt.train import get_solver, main

    tracks = settings.folder / "tracks"
    splits = [f"datasource.{split}={tracks / split}" for split in ("train", "valid", "evaluate", "generate")]
    cache = [] if source == "audio" else [f"cache.path={settings.folder / 'cache'}", *SOURCES[source]]
    short = ["optim.epochs=1", f"optim.updates_per_epoch={UPDATES}", "generate.every=null", "evaluate.every=null"]
    main.dora.dir = settings.folder / source
    xp = main.get_xp(["solver=qamdt/playground", f"device={settings.device}", *splits, *cache, *short])
    main.init_xp(xp)
    with xp.enter():
        solver = get_solver(xp.cfg)
        solver.restore()
    return xp, solver


def train_stage(xp: Any, solver: Any) -> float:
    """Seconds of the train stage of the solver's next epoch."""
    with xp.enter(), solver.checked_cache():
        metrics = solver.run_stage("train", solver.train)
        solver.commit(save_checkpoints=False)
    return metrics["duration"]
