"""PaSST (arXiv 2110.05069), the AudioSet classifier of AudioCraft's KL divergence: its embeddings and probabilities."""

from __future__ import annotations

import contextlib
import importlib
import os
import typing as tp

import torch
from torch import Tensor

from ..compat import prepare
from ..utils.patching import replaced
from .base import Network, Outputs
from .weights import label, read_weights, weights_of
from .windows import repeated

RELEASE = "https://github.com/kkoutini/PaSST/releases/download/"


class Variant(tp.NamedTuple):
    """A published network: the module of hear21passt that builds it, its file, and its frames of 10 ms."""

    module: str
    url: str
    frames: int


VARIANTS = {  # seconds of audio at once, AudioCraft's metrics.kld.passt.pretrained_length
    10: Variant("hear21passt.base", RELEASE + "v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt", 998),
    20: Variant("hear21passt.base20sec", RELEASE + "v0.0.5/passt-s-f128-20sec-p16-s10-ap.474-swa.pt", 2000),
    30: Variant("hear21passt.base30sec", RELEASE + "v0.0.5/passt-s-f128-30sec-p16-s10-ap.473-swa.pt", 3000),
}


@contextlib.contextmanager
def safe_passt(length: int, checkpoint: str | None = None) -> tp.Iterator[None]:
    """Let hear21passt build the network, within the context, from a file that is read as data only.

    By itself it unpickles what it downloads. AudioCraft's `PasstKLDivergenceMetric` is made inside.

    Args:
        length: seconds, key of `VARIANTS`.
        checkpoint: path or `//reference/...`; None = download the published one.
    Raises:
        ImportError: hear21passt is not installed.
        MissingWeights: the weights cannot be had.
    """
    if length not in VARIANTS:
        raise ValueError(f"PaSST of {length} s: there are {', '.join(map(str, VARIANTS))}")
    variant = VARIANTS[length]
    try:
        module = importlib.import_module(variant.module)
    except ImportError as error:
        raise ImportError('hear21passt is not installed: `pip install "audiocraft_qamdt[passt]"`') from error
    with weights_of("PaSST", variant.url, "set metrics.passt.checkpoint (on the command line passt=PATH) to the file"):
        network = _network(read_weights(checkpoint, variant.url), variant.frames)
    with replaced(module, "get_model_passt", lambda **_: network):
        yield


def _network(state: dict[str, Tensor], frames: int) -> torch.nn.Module:
    """Build hear21passt's network with a state dict's sizes: heads are of 64 dimensions in all published ones."""
    from hear21passt.models.passt import PaSST, checkpoint_filter_fn

    dim = state["cls_token"].shape[-1]
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    network = PaSST(
        img_size=(128, frames),
        stride=10,
        num_classes=len(state["head.1.weight"]),
        embed_dim=dim,
        depth=depth,
        num_heads=max(1, dim // 64),
        distilled="dist_token" in state,
    )
    network.load_state_dict(checkpoint_filter_fn(state, network))
    return network


class PasstNetwork(Network):
    """PaSST as a `Network`: an embedding for each stretch of `length` seconds, and AudioCraft's class probabilities.

    AudioCraft's metric does the work: its preparation of audio, its network, its softmax. Probabilities are averaged
    over a clip's stretches.

    Args:
        length: seconds of audio that the network was trained for.
        checkpoint: path or `//reference/...`; None = download the published one.
        device: where it computes.
    """

    def __init__(self, length: int = 20, checkpoint: str | None = None, device: str = "cpu") -> None:
        prepare()
        from audiocraft.metrics.kld import PasstKLDivergenceMetric

        self.name = label(f"passt-{length}s", checkpoint)
        with safe_passt(length, checkpoint):
            self.metric = PasstKLDivergenceMetric(length).to(device)
        self.metric.model.mode = "all"  # logits and features side by side
        self.module = self.metric.model.requires_grad_(False)
        self.dim, self.classes = self.metric.model.net.embed_dim, self.metric.model.net.num_classes
        self.sample_rate = self.metric.model_sample_rate

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        prepare()
        from audiocraft.metrics.kld import _patch_passt_stft

        needed = self.metric.min_input_frames * sample_rate // self.metric.model_sample_rate + sample_rate // 100
        audio = repeated(audio.float(), needed)
        stretches = self.metric._process_audio(audio[None], sample_rate, len(audio))
        # hear21passt prints, and calls torch.stft as it once was: AudioCraft's own remedies
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), _patch_passt_stft():
            outputs = [self.metric.model(stretch[0].to(self.metric.device)).cpu() for stretch in stretches]
        logits, embeddings = torch.cat(outputs).split([self.classes, self.dim], dim=1)
        return Outputs(embeddings, logits.softmax(1).mean(0))
