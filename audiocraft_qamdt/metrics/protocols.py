"""Protocols: what published packages fix besides networks and checkpoints, as one table.

A protocol prepares audio for a network and cuts it as its package does, and chooses which divergence is meant. Levels,
channels and sample rates are treated alike on both sides, because references go through the same steps.
"""

from __future__ import annotations

import math
import typing as tp
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .base import Clip, Network, Outputs

PCM = 32768
LEAST_PROBABILITY = 1e-38
"""Below the smallest that a softmax in float32 gives."""


def _soxr(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import soxr

    return soxr.resample(audio, rate, wanted)


def _resampy(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    try:
        import resampy
    except ImportError as error:
        raise ImportError("--protocol audioldm_eval resamples with resampy: `pip install resampy`") from error

    return resampy.resample(audio, rate, wanted)


def _torchaudio(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    from torchaudio.functional import resample

    return resample(torch.from_numpy(audio).float(), rate, wanted).double().numpy()


RESAMPLERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "soxr": _soxr,
    "resampy": _resampy,
    "torchaudio": _torchaudio,
}


class Windows(tp.NamedTuple):
    """Windows that a package cuts; the last ones are filled up with zeros.

    Args:
        seconds: duration of each.
        hop: seconds from one to the next.
        inside: stop one hop before the end, so that none is mostly zeros; else a window begins at every hop.
    """

    seconds: float
    hop: float
    inside: bool = False

    def cut(self, audio: np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
        """Yield windows [seconds · sample_rate] of audio [S]."""
        size, hop = round(self.seconds * sample_rate), round(self.hop * sample_rate)
        stop = max(hop, len(audio) - hop) if self.inside else len(audio)
        for start in range(0, stop, hop):
            window = audio[start : start + size]
            yield np.pad(window, (0, size - len(window)))


@dataclass(frozen=True)
class Conventions:
    """How a package hands a clip to a network. Steps are taken in this order; None and False leave them out.

    Args:
        read_as_pcm: round samples to 16 bits as they are read.
        channel: "mean" of the channels, or the "first".
        centred: take the mean away.
        resampler, sample_rate: key of `RESAMPLERS`, and Hz; None = the network resamples by itself.
        pcm: round samples to 16 bits after resampling.
        truncated: cut to ±1 and to 16 bits toward zero, as laion-clap's examples do.
        peak: scale the peak to so many dB below full scale.
        shortest: fill up with zeros to so many seconds.
        windows: cut, each window for itself; None = the network takes the whole clip.
        half: round embeddings to float16.
        settings: arguments of the network's constructor.
    """

    read_as_pcm: bool = False
    channel: str = "mean"
    centred: bool = False
    resampler: str | None = None
    sample_rate: int | None = None
    pcm: bool = False
    truncated: bool = False
    peak: float | None = None
    shortest: float = 0.0
    windows: Windows | None = None
    half: bool = False
    settings: Mapping[str, tp.Any] = field(default_factory=dict)

    def prepare(self, channels: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
        """Return mono samples [S] in float64 and their rate, of channels [C, S]."""
        audio = _rounded(channels) if self.read_as_pcm else channels
        audio = audio[0] if self.channel == "first" else audio.mean(0)
        audio = audio - audio.mean() if self.centred else audio
        if self.resampler is not None and self.sample_rate not in (None, rate):
            audio = RESAMPLERS[self.resampler](audio, rate, tp.cast(int, self.sample_rate))
            rate = tp.cast(int, self.sample_rate)
        audio = _rounded(audio) if self.pcm else audio
        audio = np.trunc(audio.clip(-1, 1) * (PCM - 1)) / (PCM - 1) if self.truncated else audio
        if self.peak is not None and audio.any():
            audio = audio * (10 ** (-self.peak / 20) / np.abs(audio).max())
        return np.pad(audio, (0, max(0, math.ceil(self.shortest * rate) - len(audio)))), rate


def _rounded(audio: np.ndarray) -> np.ndarray:
    """Return samples as a file of 16 bits keeps them."""
    return np.round(audio * PCM).clip(-PCM, PCM - 1) / PCM


class Protocol(tp.NamedTuple):
    """What a package fixes.

    Args:
        source: where it comes from.
        networks: name → conventions; "*" = for every other network. Empty = networks as they are.
        kl: quantities of `KLDivergence` that the package means.
        splits: parts that the inception score is averaged over; None = all clips at once.
    """

    source: str
    networks: Mapping[str, Conventions] = {}
    kl: tuple[str, ...] = ("kl", "kl_reverse", "kl_both")
    splits: int | None = None

    def conventions(self, network: str) -> Conventions | None:
        """Return those for a network of `NETWORKS`."""
        return self.networks.get(network, self.networks.get("*"))


OURS = "ours"
_SOX: dict[str, tp.Any] = {"resampler": "soxr", "pcm": True, "half": True}
PROTOCOLS: dict[str, Protocol] = {
    OURS: Protocol("docs/evaluation.md#metrics"),
    "audiocraft": Protocol("audiocraft/metrics/kld.py of AudioCraft 1.3.0"),
    "fadtk": Protocol(
        "fadtk/fad.py and fadtk/model_loader.py of github.com/microsoft/fadtk",
        {
            "vggish": Conventions(**_SOX, sample_rate=16000, shortest=1.0),
            "clap": Conventions(**_SOX, sample_rate=48000, truncated=True, windows=Windows(10.0, 1.0)),
            "encodec": Conventions(**_SOX, sample_rate=24000),
            "*": Conventions(**_SOX),
        },
    ),
    "audioldm_eval": Protocol(
        "audioldm_eval/metrics/{fad,kl,isc}.py and datasets/load_mel.py of github.com/haoheliu/audioldm_eval",
        {
            "vggish": Conventions(read_as_pcm=True, resampler="resampy", sample_rate=16000),
            "*": Conventions(channel="first", centred=True, resampler="torchaudio", sample_rate=16000, shortest=2.0),
        },
        kl=("kl",),
        splits=10,
    ),
    "stable-audio": Protocol(
        "src/passt_kld.py of github.com/Stability-AI/stable-audio-metrics",
        {
            "passt": Conventions(
                resampler="soxr",
                sample_rate=32000,
                peak=1.0,
                windows=Windows(10.0, 5.0, inside=True),
                settings={"length": 10},
            ),
            "*": Conventions(peak=1.0, windows=Windows(10.0, 5.0, inside=True)),
        },
        kl=("kl_reverse",),
    ),
}
"""Name → what it fixes. Open to registration."""


def protocol_of(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"--protocol {name}: there is none, choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


class ProtocolNetwork(Network):
    """A network that hears clips as a package's conventions have it.

    Class probabilities of several windows become those of the mean of their logits.

    Args:
        network: the network.
        protocol: name of the protocol, which goes with the network's name into the key of each number.
        conventions: how clips are prepared; None = as the network does.
    """

    def __init__(self, network: Network, protocol: str, conventions: Conventions | None) -> None:
        self.network, self.conventions = network, conventions
        self.name = f"{network.name}.{protocol}"
        self.dim, self.classes, self.module = network.dim, network.classes, network.module

    def heard(self, clip: Clip) -> Tensor:
        """Return the clip's channels, where the network does not take the mixed clip as it is."""
        return clip.audio if clip.channels is None or self.conventions is None else clip.channels

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        if self.conventions is None:
            return self.network(audio, sample_rate)
        samples, rate = self.conventions.prepare(np.atleast_2d(audio.double().numpy()), sample_rate)
        windows = self.conventions.windows
        parts = [samples] if windows is None else windows.cut(samples, rate)
        outputs = [self.network(torch.from_numpy(part).float(), rate) for part in parts]
        embeddings = torch.cat([output.embeddings for output in outputs])
        return Outputs(embeddings.half().float() if self.conventions.half else embeddings, _averaged(outputs))


def _averaged(outputs: list[Outputs]) -> Tensor | None:
    """Return the softmax of the mean logits, which are the logarithms of probabilities but for a constant."""
    found = [output.probabilities for output in outputs if output.probabilities is not None]
    return torch.stack(found).clamp(min=LEAST_PROBABILITY).log().mean(0).softmax(0) if found else None
