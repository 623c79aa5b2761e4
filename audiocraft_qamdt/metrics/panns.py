"""PANNs' Cnn14 (arXiv 1912.10211): the AudioSet classifier of audioldm_eval and kadtk, in PyTorch alone.

The parameters are laid out as in `Cnn14_16k_mAP=0.438.pth` and `Cnn14_mAP=0.431.pth` of zenodo.org/record/3987831.
These files hold the windowed Fourier transform and the mel filters too, which are used as they are; so one network
serves every sample rate.
"""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor, nn

from ..utils.reading import JsonObject
from .base import Network, Outputs
from .weights import label, read_weights, weights_of
from .windows import cut, repeated

RELEASE = "https://zenodo.org/record/3987831/files/"
URLS = {16000: RELEASE + "Cnn14_16k_mAP%3D0.438.pth", 32000: RELEASE + "Cnn14_mAP%3D0.431.pth"}
FRAMES_PER_SECOND = 100
BLOCKS = 6
HALVINGS = 5  # of time and bands; the last block has none
LEAST_POWER = 1e-10


class Block(nn.Module):
    """Two convolutions and the mean of each `pool` × `pool` values."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(pool)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, outputs, T / pool, bands / pool] of features [B, inputs, T, bands]."""
        features = self.bn1(self.conv1(features)).relu()
        return self.pool(self.bn2(self.conv2(features)).relu())


class Cnn14(nn.Module):
    """The network on audio.

    Args:
        fft: samples of a frame; a sample rate has 100 frames in a second, of which each is 3.2 hops long.
        bands: mel bands.
        widths: channels of the six blocks.
        hidden: dimensions of the embedding.
        classes: number of classes.
    """

    PUBLISHED = (64, 128, 256, 512, 1024, 2048)

    def __init__(
        self,
        fft: int = 512,
        bands: int = 64,
        widths: tuple[int, ...] = PUBLISHED,
        hidden: int = 2048,
        classes: int = 527,
    ) -> None:
        super().__init__()
        self.fft, self.hop = fft, fft * 5 // 16
        self.sample_rate = self.hop * FRAMES_PER_SECOND
        bins = fft // 2 + 1
        transform = {part: nn.Conv1d(1, bins, fft, stride=self.hop, bias=False) for part in ("conv_real", "conv_imag")}
        self.spectrogram_extractor = nn.ModuleDict({"stft": nn.ModuleDict(transform)})
        self.logmel_extractor = nn.ParameterDict({"melW": torch.zeros(bins, bands)})
        self.bn0 = nn.BatchNorm2d(bands)
        for index, (inputs, outputs) in enumerate(zip((1, *widths[:-1]), widths, strict=True), 1):
            self.add_module(f"conv_block{index}", Block(inputs, outputs, 2 if index <= HALVINGS else 1))
        self.fc1 = nn.Linear(widths[-1], hidden)
        self.fc_audioset = nn.Linear(hidden, classes)

    @classmethod
    def like(cls, state: dict[str, Tensor]) -> Cnn14:
        """Return a network of a state dict's sizes, with its weights."""
        widths = tuple(len(state[f"conv_block{index}.conv2.weight"]) for index in range(1, BLOCKS + 1))
        fft = state["spectrogram_extractor.stft.conv_real.weight"].shape[-1]
        heads = (len(state[f"{name}.bias"]) for name in ("bn0", "fc1", "fc_audioset"))
        bands, hidden, classes = heads
        network = cls(fft, bands, widths, hidden, classes)
        network.load_state_dict(state)
        return network.eval()

    @property
    def shortest(self) -> int:
        """Samples below which nothing would be left after pooling."""
        return (2**HALVINGS - 1) * self.hop

    def log_mel(self, audio: Tensor) -> Tensor:
        """Return decibels [B, 1, T, bands] of audio [B, S]."""
        padded = nn.functional.pad(audio[:, None], (self.fft // 2, self.fft // 2), mode="reflect")
        transforms = tp.cast(nn.ModuleDict, self.spectrogram_extractor["stft"]).values()
        real, imaginary = (transform(padded) for transform in transforms)
        power = (real.square() + imaginary.square()).transpose(1, 2) @ self.logmel_extractor["melW"]  # [B, T, bands]
        return 10 * power.clamp(min=LEAST_POWER).log10()[:, None]

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings [B, hidden] and logits [B, classes] of audio [B, S]."""
        features = self.bn0(self.log_mel(audio).transpose(1, 3)).transpose(1, 3)
        for index in range(1, BLOCKS + 1):
            features = getattr(self, f"conv_block{index}")(features)  # [B, C, T / 32, bands / 32]
        features = features.mean(3)
        embeddings = self.fc1(features.amax(2) + features.mean(2)).relu()
        return embeddings, self.fc_audioset(embeddings)


class PannsNetwork(Network):
    """Cnn14 as a `Network`: an embedding and class probabilities (softmax, as KL takes them) for each `length` seconds.

    Probabilities are averaged over a clip's windows. A window that is too short for the network is repeated.

    Args:
        checkpoint: path or `//reference/...`, which also decides the sample rate; None = download the published one.
        sample_rate: Hz of the published one, 16000 or 32000.
        length: seconds of audio at once, those of AudioSet's clips; None = the whole clip, as other packages do.
        device: where it computes.
    Raises:
        MissingWeights: they cannot be had.
    """

    module: Cnn14
    sample_rate: int

    def __init__(
        self,
        checkpoint: str | None = None,
        sample_rate: int = 16000,
        length: float | None = 10.0,
        device: str = "cpu",
    ) -> None:
        if sample_rate not in URLS:
            raise ValueError(f"metrics.panns.sample_rate={sample_rate}: there are {', '.join(map(str, URLS))}")
        url = URLS[sample_rate]
        with weights_of("Cnn14", url, "set metrics.panns.checkpoint (on the command line panns=PATH) to the file"):
            content: JsonObject = read_weights(checkpoint, url)
            self.module = Cnn14.like(content.get("model", content)).requires_grad_(False).to(device)
        self.sample_rate = self.module.sample_rate
        self.name = label(f"cnn14-{self.sample_rate // 1000}k", checkpoint)
        self.device, self.length = device, length
        self.dim, self.classes = self.module.fc1.out_features, self.module.fc_audioset.out_features

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        outputs = [self._outputs(part) for part in cut(audio, sample_rate, self.sample_rate, self.length)]
        embeddings, logits = (torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))
        return Outputs(embeddings, logits.softmax(1).mean(0))

    def _outputs(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.module(repeated(audio, self.module.shortest)[None].to(self.device))
