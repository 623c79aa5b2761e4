"""Reading and decoding, codecs, annotation, and what cached latents save: on tracks of the playground, made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from audiocraft_qamdt.compat import CONFIG_ROOT
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
UPDATES = 10  # of an epoch
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
    """An epoch of `solver=qamdt/playground` from audio, from audio while its latents are written, and from these."""
    make_dataset(settings.folder / "tracks", tracks=60)
    seconds = {source: train_stage(source, settings) for source in SOURCES}
    figures = {f"ms per update, {source}": 1000 * value / UPDATES for source, value in seconds.items()}
    return Work(figures=lambda _: figures | {"audio / cached": seconds["audio"] / seconds["cached"]})


def train_stage(source: str, settings: Settings) -> float:
    """Seconds of the train stage of one epoch, by the experiment's own history."""
    outputs = settings.folder / source
    tracks = settings.folder / "tracks"
    splits = [f"datasource.{split}={tracks / split}" for split in ("train", "valid", "evaluate", "generate")]
    cache = [] if source == "audio" else [f"cache.path={settings.folder / 'cache'}", *SOURCES[source]]
    once = ["optim.epochs=1", f"optim.updates_per_epoch={UPDATES}", "generate.every=null", "evaluate.every=null"]
    options = [*splits, *cache, *once, f"num_threads={settings.threads}", "dataset.valid.num_samples=1"]
    command = [sys.executable, "-m", "dora", "-P", "audiocraft_qamdt", "run", "solver=qamdt/playground", *options]
    environment = {**os.environ, "AUDIOCRAFT_DORA_DIR": str(outputs)}
    subprocess.run(command, cwd=CONFIG_ROOT.parent, env=environment, check=True, stdout=sys.stderr)
    (history,) = outputs.glob("xps/*/history.json")
    return json.loads(history.read_text())[0]["train"]["duration"]
