"""CLAP (arXiv 2211.06687): embeddings of audio and text, from laion-clap's checkpoints or transformers' `ClapModel`."""

from __future__ import annotations

import hashlib
import importlib.util
import typing as tp
from pathlib import Path

import julius
import torch
from torch import Tensor, nn

from ..clap.laion import laion_design
from ..clap.scorer import SHORTEST, ClapScorer, windows
from ..compat import prepare
from ..utils.randomness import numpy_seeded
from .base import Clip, MeanMetric, Network, Outputs, safe
from .weights import resolve, weights_of

LAION = "https://huggingface.co/lukewys/laion_clap (music_audioset_epoch_15_esc_90.14.pt and others)"
SETTING = "set metrics.clap.checkpoint (on the command line clap=PATH) to the file"
EXTENSIONS = (".pt", ".pth")
SAMPLE_RATE, SAMPLES = 48000, 480000  # of laion-clap's models


class Embedder(tp.Protocol):
    """Interface of both libraries' models, with embeddings [n, D] of unit length."""

    dim: int
    model: nn.Module

    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor: ...
    def embed_texts(self, texts: list[str]) -> Tensor: ...


class LaionClap:
    """A laion-clap checkpoint, loaded by AudioCraft's `CLAPTextConsistencyMetric`.

    Args:
        checkpoint: `.pt` file or `//reference/...`, read as data only (see `compat`).
        arch: its audio encoder, e.g. "HTSAT-base" for the music checkpoints; None = as its weights tell.
        enable_fusion: whether it is one of the fusion checkpoints; None = as its weights tell.
        device: where it computes.
        whole: hand longer audio over in one piece, of which laion-clap draws ten seconds, or with fusion three times
            ten; the audio itself seeds what is drawn.
    """

    def __init__(
        self,
        checkpoint: str,
        arch: str | None = None,
        enable_fusion: bool | None = None,
        device: str = "cpu",
        whole: bool = False,
    ) -> None:
        prepare()
        if importlib.util.find_spec("laion_clap") is None:
            raise ImportError('laion-clap is not installed: `pip install "audiocraft_qamdt[clap]"`')
        from audiocraft.metrics.clap_consistency import CLAPTextConsistencyMetric

        path = resolve(checkpoint)
        if arch is None or enable_fusion is None:
            known, fused = laion_design(path)
            arch, enable_fusion = arch or known, fused if enable_fusion is None else enable_fusion
        self.metric = CLAPTextConsistencyMetric(path, arch, enable_fusion).to(device)
        self.metric.requires_grad_(False)
        self.device, self.whole = device, whole
        self.model = self.metric.model.model
        self.dim = self.model.joint_embed_shape

    @torch.no_grad()
    def embed_audio(self, audio: Tensor, sample_rate: int) -> Tensor:
        """See `ClapScorer.embed_audio`: windows of ten seconds, none drawn at random, unless `whole`."""
        audio = julius.resample_frac(audio.float().to(self.device), sample_rate, SAMPLE_RATE)
        clips = [audio] if self.whole else windows(audio, SAMPLES, round(SHORTEST * SAMPLE_RATE))
        with numpy_seeded("clap", hashlib.sha256(audio.cpu().numpy().tobytes()).hexdigest()):
            return self.metric.model.get_audio_embedding_from_data(clips, use_tensor=True).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Return embeddings [B, D] of unit length."""
        return self.metric.model.get_text_embedding(texts, tokenizer=self.metric._tokenizer, use_tensor=True).cpu()


class ClapNetwork(Network):
    """CLAP as a `Network`: an embedding for each ten seconds.

    Args:
        checkpoint: `.pt` of laion-clap, as AudioCraft names it, or hub id or folder of a transformers `ClapModel`.
        arch, enable_fusion, whole: of a `.pt`, see `LaionClap`.
        device: where it computes.
    Raises:
        MissingWeights: they cannot be had.
        ValueError: `whole` with a `ClapModel`.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        checkpoint: str = "//reference/clap/music_audioset_epoch_15_esc_90.14.pt",
        arch: str | None = None,
        enable_fusion: bool | None = None,
        device: str = "cpu",
        whole: bool = False,
    ) -> None:
        self.name = f"clap-{safe(checkpoint.rstrip('/').split('/')[-1])}"
        self.embedder: Embedder
        if checkpoint.endswith(EXTENSIONS):
            self.name = f"clap-{Path(checkpoint).stem}"
            with weights_of(f"CLAP {checkpoint}", LAION, f"{SETTING} (it needs roberta-base from the hub too)"):
                self.embedder = LaionClap(checkpoint, arch, enable_fusion, device, whole)
        elif whole:
            raise ValueError(f"CLAP {checkpoint!r}: this protocol is defined for a .pt of laion-clap, see {LAION}")
        else:
            with weights_of(f"CLAP {checkpoint!r}", "https://huggingface.co/laion/larger_clap_music", SETTING):
                self.embedder = ClapScorer(checkpoint, device)
        self.dim, self.module = self.embedder.dim, self.embedder.model

    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        return Outputs(self.embedder.embed_audio(audio, sample_rate))


class TextAgreement(MeanMetric):
    """Mean cosine similarity of each clip and its description (the CLAP score); clips without one are left out.

    Args:
        network: CLAP, as a protocol has it.
        embedder: what embeds the descriptions.
    """

    needs = frozenset({"text"})
    quantities = ("clap",)

    def __init__(self, network: Network, embedder: Embedder) -> None:
        super().__init__()
        self.network, self.embedder, self.instrument = network, embedder, network.name

    def add(self, clip: Clip) -> None:
        if clip.text:
            super().add(clip)

    def measure(self, clip: Clip) -> dict[str, float]:
        audio = clip.outputs(self.network).embeddings.mean(0)
        text = self.embedder.embed_texts([tp.cast(str, clip.text)])[0]
        return {"clap": torch.cosine_similarity(audio, text, dim=0).item()}

    def compute(self) -> dict[str, float]:
        if not self.used():
            raise ValueError("clap: no clip has a description: give --captions, or a sidecar with one beside each file")
        return super().compute()
