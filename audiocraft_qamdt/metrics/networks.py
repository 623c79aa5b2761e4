"""Networks that metrics measure with, by name.

Open to registration: `NETWORKS["mine"] = MyNetwork`, or an entry point of the group `audiocraft_qamdt.embeddings` in
another package.
"""

from __future__ import annotations

import typing as tp
from importlib.metadata import entry_points

import julius
import torch
from torch import Tensor

from ..latents.encodec import EncodecCodec
from ..playground import classifier
from .base import Network, Outputs, safe
from .clap import ClapNetwork
from .mert import MertNetwork
from .openl3 import OpenL3Network
from .panns import PannsNetwork
from .passt import PasstNetwork
from .protocols import OURS, ProtocolNetwork, protocol_of
from .vggish import VGGishNetwork
from .weights import label, weights_of


class PlaygroundNetwork(Network):
    """The playground's own classifier as a `Network`: an embedding for each half second.

    Args:
        checkpoint: what `qamdt playground-classifier` wrote; None = the one in the package.
        device: where it computes.
    """

    dim, classes = classifier.EMBEDDING_DIM, len(classifier.CLASSES)

    sample_rate = classifier.SAMPLE_RATE

    def __init__(self, checkpoint: str | None = None, device: str = "cpu") -> None:
        self.name = label(f"playground-{classifier.VERSION}", checkpoint)
        self.module = self.classifier = classifier.load_classifier(checkpoint or classifier.WEIGHTS, device)

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        prediction = self.classifier.classify(audio, sample_rate)
        return Outputs(prediction.embedding, prediction.logits.softmax(1).mean(0))


class EncodecNetwork(Network):
    """EnCodec's continuous latents as a `Network`: an embedding for each latent frame.

    Args:
        checkpoint: as `latents.encodec.checkpoint`: //pretrained/<name>, //sig/<sig>, a path, or //encodec/<name>.
        device: where it computes.
    """

    def __init__(self, checkpoint: str = "//pretrained/facebook/encodec_32khz", device: str = "cpu") -> None:
        self.name, self.device = f"encodec-{safe(checkpoint.rstrip('/').split('/')[-1])}", device
        source = "https://huggingface.co/facebook/encodec_32khz"
        with weights_of(f"EnCodec {checkpoint!r}", source, "set metrics.encodec.checkpoint (encodec=NAME) to a copy"):
            if checkpoint.startswith("//encodec/"):
                self.codec = EncodecCodec.from_encodec_package(checkpoint.removeprefix("//encodec/"), device=device)
            else:
                self.codec = EncodecCodec.from_audiocraft(checkpoint, device=device)
        self.dim, self.module, self.sample_rate = self.codec.latent_channels, self.codec, self.codec.sample_rate

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        audio = julius.resample_frac(audio.float(), sample_rate, self.codec.sample_rate)
        latents = self.codec.encode(audio.to(self.device).expand(1, self.codec.channels, -1))  # [1, D, T, 1]
        return Outputs(latents[0, :, :, 0].T.cpu())


ENTRY_POINTS = "audiocraft_qamdt.embeddings"
NETWORKS: dict[str, tp.Callable[..., Network]] = {
    "playground": PlaygroundNetwork,
    "vggish": VGGishNetwork,
    "passt": PasstNetwork,
    "panns": PannsNetwork,
    "clap": ClapNetwork,
    "encodec": EncodecNetwork,
    "mert": MertNetwork,
    "openl3": OpenL3Network,
}
"""Name → constructor, which takes the network's settings and `device`."""


def network_names() -> list[str]:
    """Return names of the networks that there are: the built-in ones and those of installed packages."""
    others = {point.name for point in entry_points(group=ENTRY_POINTS)} - NETWORKS.keys()
    return [*NETWORKS, *sorted(others)]


def load_network(name: str, **settings: object) -> Network:
    """Load the network of that name.

    Args:
        name: one of `network_names()`.
        settings: arguments of its constructor, `device` among them.
    Raises:
        ValueError: there is none, or an entry point gives something else.
        MissingWeights: its weights cannot be had.
    """
    if name in NETWORKS:
        return NETWORKS[name](**settings)
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in points:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(network_names())}")
    network = points[name].load()(**settings)
    if not isinstance(network, Network):
        raise ValueError(
            f"{points[name].value} gave {type(network).__name__}, which is no {Network.__qualname__} of "
            f"{Network.__module__}"
        )
    return network


class Networks:
    """Networks with their settings, each loaded when it is first asked for and shared by all metrics.

    Args:
        settings: name → arguments of its constructor.
        device: where they compute.
        protocol: key of `PROTOCOLS`: how they hear clips.
    """

    def __init__(
        self,
        settings: tp.Mapping[str, tp.Mapping[str, object]],
        device: torch.device | str = "cpu",
        protocol: str = OURS,
    ) -> None:
        self.settings, self.device = settings, str(device)
        self.name, self.protocol = protocol, protocol_of(protocol)
        self.loaded: dict[str, Network] = {}

    def get(self, name: str) -> Network:
        """Return the network of that name, which hears clips as the protocol has it; errors as in `plain`."""
        network = self.plain(name)
        return network if self.name == OURS else ProtocolNetwork(network, self.name, self.protocol.conventions(name))

    def plain(self, name: str) -> Network:
        """Return the network of that name itself.

        Raises:
            ValueError: there is none.
            MissingWeights: its weights cannot be had.
        """
        if name not in self.loaded:
            conventions = self.protocol.conventions(name)
            fixed = conventions.settings if conventions is not None else {}
            self.loaded[name] = load_network(name, **{**self.settings.get(name, {}), **fixed}, device=self.device)
        return self.loaded[name]
