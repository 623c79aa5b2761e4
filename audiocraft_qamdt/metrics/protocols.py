"""Protocols: what published packages fix besides networks and checkpoints, as one table.

A protocol prepares audio for a network and cuts it as its package does, and chooses which divergence is meant. Levels,
channels and sample rates are treated alike on both sides, because references go through the same steps.
"""

from __future__ import annotations

import typing as tp
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..utils.reading import JsonObject
from .base import Clip, Network, Outputs

PCM = 32768
CD_RATE = 44100
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


def _torchaudio(audio: np.ndarray, rate: int, wanted: int, **filters: tp.Any) -> np.ndarray:
    from torchaudio.functional import resample

    return resample(torch.from_numpy(audio).float(), rate, wanted, **filters).double().numpy()


def _kaiser_best(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resample with torchaudio's equivalent of librosa's "kaiser_best"."""
    shape = {"lowpass_filter_width": 64, "rolloff": 0.9475937167399596, "beta": 14.769656459379492}
    return _torchaudio(audio, rate, wanted, resampling_method="sinc_interp_kaiser", **shape)


def _to_44_1_khz_first(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resample with soxr to the bandwidth of 44.1 kHz, then with resampy."""
    return _resampy(_soxr(audio, rate, CD_RATE), CD_RATE, wanted)


RESAMPLERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "soxr": _soxr,
    "resampy": _resampy,
    "torchaudio": _torchaudio,
    "kaiser_best": _kaiser_best,
    "44.1 kHz first": _to_44_1_khz_first,
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
        peak_as_read: scale the peak to so many dB below full scale.
        resampler: key of `RESAMPLERS`, to the network's sample rate; None = the network resamples by itself.
        pcm: cut to 16 bits after resampling, downward as libsndfile does.
        peak: as `peak_as_read`, here.
        truncated: cut to ±1 and to 16 bits toward zero, as laion-clap's examples do.
        shortest: fill up with zeros to so many samples.
        windows: cut, each window for itself; None = the network takes the whole clip.
        half: round embeddings to float16.
        settings: arguments of the network's constructor.
    """

    read_as_pcm: bool = False
    channel: str = "mean"
    centred: bool = False
    peak_as_read: float | None = None
    resampler: str | None = None
    pcm: bool = False
    peak: float | None = None
    truncated: bool = False
    shortest: int = 0
    windows: Windows | None = None
    half: bool = False
    settings: JsonObject = field(default_factory=dict)

    def prepare(self, channels: np.ndarray, rate: int, wanted: int | None) -> tuple[np.ndarray, int]:
        """Return mono samples [S] in float64 and their rate, of channels [C, S].

        Args:
            channels, rate: the clip.
            wanted: sample rate of the network; None = it takes any.
        """
        audio = _rounded(channels) if self.read_as_pcm else channels
        audio = audio[0] if self.channel == "first" else audio.mean(0)
        audio = audio - audio.mean() if self.centred else audio
        audio = _scaled(audio, self.peak_as_read)
        if self.resampler is not None and wanted not in (None, rate):
            rate, audio = wanted, RESAMPLERS[self.resampler](audio, rate, wanted)
        audio = np.floor(audio * PCM).clip(-PCM, PCM - 1) / PCM if self.pcm else audio
        audio = _scaled(audio, self.peak)
        audio = np.trunc(audio.clip(-1, 1) * (PCM - 1)) / (PCM - 1) if self.truncated else audio
        return np.pad(audio, (0, max(0, self.shortest - len(audio)))), rate


def _scaled(audio: np.ndarray, peak: float | None) -> np.ndarray:
    """Return audio with its peak so many dB below full scale; silence, and where `peak` is None, as it is."""
    return audio if peak is None or not audio.any() else audio * (10 ** (-peak / 20) / np.abs(audio).max())


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
_WHOLE = {"length": None}
_CHUNKS = Windows(10.0, 5.0, inside=True)
_FADTK: JsonObject = {"resampler": "kaiser_best", "pcm": True, "half": True}
PROTOCOLS: dict[str, Protocol] = {
    OURS: Protocol("docs/evaluation.md#metrics"),
    "audiocraft": Protocol("audiocraft/metrics/kld.py of AudioCraft 1.3.0"),
    "fadtk": Protocol(
        "fadtk/fad.py and fadtk/model_loader.py of fadtk 1.1.0",
        {
            "vggish": Conventions(**_FADTK, shortest=16000),
            "clap": Conventions(**_FADTK, truncated=True, windows=Windows(10.0, 1.0)),
            "panns": Conventions(**_FADTK, settings=_WHOLE),
            "mert": Conventions(**_FADTK, settings=_WHOLE),
            "*": Conventions(**_FADTK),
        },
    ),
    "frechet-audio-distance": Protocol(
        "frechet_audio_distance/fad.py and utils.py of frechet-audio-distance 0.3.4",
        {
            "panns": Conventions(resampler="resampy", settings=_WHOLE),
            "clap": Conventions(resampler="resampy", settings={"whole": True}),
            "*": Conventions(resampler="resampy"),
        },
    ),
    "audioldm_eval": Protocol(
        "audioldm_eval/metrics/{fad,kl,isc,fid}.py and datasets/load_mel.py of github.com/haoheliu/audioldm_eval",
        {
            "vggish": Conventions(read_as_pcm=True, resampler="resampy"),
            "panns": Conventions(
                channel="first", centred=True, resampler="torchaudio", shortest=32000, settings=_WHOLE
            ),
            "*": Conventions(channel="first", centred=True, resampler="torchaudio", shortest=32000),
        },
        kl=("kl",),
        splits=10,
    ),
    "stable-audio": Protocol(
        "src/{passt_kld,clap_score,openl3_fd}.py of github.com/Stability-AI/stable-audio-metrics",
        {
            "passt": Conventions(resampler="soxr", peak=1.0, windows=_CHUNKS, settings={"length": 10}),
            "clap": Conventions(resampler="soxr", peak=1.0, truncated=True, settings={"whole": True}),
            "openl3": Conventions(peak_as_read=1.0, resampler="44.1 kHz first"),
            "*": Conventions(peak=1.0, windows=_CHUNKS),
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
        self.sample_rate = network.sample_rate

    def heard(self, clip: Clip) -> Tensor:
        """Return the clip's channels, where the network does not take the mixed clip as it is."""
        return clip.audio if clip.channels is None or self.conventions is None else clip.channels

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        if self.conventions is None:
            return self.network(audio, sample_rate)
        channels = np.atleast_2d(audio.double().numpy())
        samples, rate = self.conventions.prepare(channels, sample_rate, self.sample_rate)
        windows = self.conventions.windows
        parts = [samples] if windows is None else windows.cut(samples, rate)
        outputs = [self.network(torch.from_numpy(part).float(), rate) for part in parts]
        embeddings = torch.cat([output.embeddings for output in outputs])
        return Outputs(embeddings.half().float() if self.conventions.half else embeddings, _averaged(outputs))


def _averaged(outputs: list[Outputs]) -> Tensor | None:
    """Return the softmax of the mean logits, which are the logarithms of probabilities but for a constant."""
    found = [output.probabilities for output in outputs if output.probabilities is not None]
    return torch.stack(found).clamp(min=LEAST_PROBABILITY).log().mean(0).softmax(0) if found else None
