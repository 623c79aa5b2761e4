"""Networks that metrics measure with, by name. Open to registration: `NETWORKS["mine"] = MyNetwork`."""

from __future__ import annotations

import typing as tp

import julius
import torch
from torch import Tensor

from ..latents.encodec import EncodecCodec
from ..playground import classifier
from .base import Network, Outputs, safe
from .clap import ClapNetwork
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
        self.dim, self.module = self.codec.latent_channels, self.codec

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        audio = julius.resample_frac(audio.float(), sample_rate, self.codec.sample_rate)
        latents = self.codec.encode(audio.to(self.device).expand(1, self.codec.channels, -1))  # [1, D, T, 1]
        return Outputs(latents[0, :, :, 0].T.cpu())


NETWORKS: dict[str, tp.Callable[..., Network]] = {
    "playground": PlaygroundNetwork,
    "vggish": VGGishNetwork,
    "passt": PasstNetwork,
    "clap": ClapNetwork,
    "encodec": EncodecNetwork,
}


class Networks:
    """Networks with their settings, each loaded when it is first asked for and shared by all metrics.

    Args:
        settings: name → arguments of its constructor in `NETWORKS`.
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
        if name not in NETWORKS:
            raise ValueError(f"unknown network {name!r}: choose one of {', '.join(NETWORKS)}")
        if name not in self.loaded:
            conventions = self.protocol.conventions(name)
            settings = {**self.settings.get(name, {}), **(conventions.settings if conventions is not None else {})}
            self.loaded[name] = NETWORKS[name](**settings, device=self.device)
        return self.loaded[name]
