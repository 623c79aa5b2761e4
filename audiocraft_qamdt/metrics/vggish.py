"""VGGish (arXiv 1609.09430): the AudioSet network that the Fréchet audio distance was defined on, in PyTorch.

The parameters are laid out as in `vggish-10086976.pth` of github.com/harritaylor/torchvggish, a conversion of the
TensorFlow release. Embeddings are those before the last ReLU and without PCA, as google-research's
`frechet_audio_distance` takes them.
"""

from __future__ import annotations

import julius
import torch
from torch import Tensor, nn

from .base import Network, Outputs
from .weights import label, read_weights, weights_of
from .windows import repeated

URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
SAMPLE_RATE = 16000
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms
FRAMES = 96  # of an example, 0.96 s; examples do not overlap
BANDS, LOWEST, HIGHEST = 64, 125.0, 7500.0
OFFSET = 0.01  # inside the logarithm


def mel_matrix() -> Tensor:
    """Return weights [257, 64] of magnitudes in mel bands: triangles on the mel scale (not in Hz), none for DC."""
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    lowest, highest = _mel(torch.tensor(LOWEST)), _mel(torch.tensor(HIGHEST))
    edges = torch.linspace(lowest.item(), highest.item(), BANDS + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mels = _mel(frequencies)[:, None]
    weights = torch.minimum((mels - left) / (centre - left), (right - mels) / (right - centre)).clamp(min=0)
    weights[0] = 0
    return weights.float()


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz.double() / 700)


def log_mel_examples(audio: Tensor, mel: Tensor) -> Tensor:
    """Return log-mel examples [n, 96, 64] of mono audio [S] at 16 kHz; audio too short for one is repeated."""
    needed = WINDOW + (FRAMES - 1) * HOP
    audio = repeated(audio, needed)
    frames = audio.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW, device=audio.device)
    log_mel = (torch.fft.rfft(frames, FFT).abs() @ mel + OFFSET).log()
    return log_mel.unfold(0, FRAMES, FRAMES).transpose(1, 2)


class VGGish(nn.Module):
    """The network on log-mel examples.

    Args:
        widths: channels of the convolutions ("M" = halve time and bands), published unless tests make a small one.
        hidden: width of the two layers before the embedding.
        dim: of the embedding.
    """

    PUBLISHED = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M")

    def __init__(self, widths: tuple[int | str, ...] = PUBLISHED, hidden: int = 4096, dim: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in widths:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        halvings = 2 ** widths.count("M")
        flat = channels * (FRAMES // halvings) * (BANDS // halvings)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, examples: Tensor) -> Tensor:
        """Return embeddings [n, dim] of log-mel examples [n, 96, 64]."""
        features = self.features(examples[:, None])  # [n, C, 6, 4]
        return self.embeddings(features.permute(0, 2, 3, 1).flatten(1))  # TensorFlow's order: channels last


class VGGishNetwork(Network):
    """VGGish as a `Network`: an embedding for each 0.96 s.

    Args:
        checkpoint: path or `//reference/...`; None = download the published one.
        device: where it computes.
    Raises:
        MissingWeights: they cannot be had.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, checkpoint: str | None = None, device: str = "cpu") -> None:
        self.name, self.device = label("vggish", checkpoint), device
        with weights_of("VGGish", URL, "set metrics.vggish.checkpoint (on the command line vggish=PATH) to the file"):
            state = read_weights(checkpoint, URL)
            self.module = self._like(state)
            self.module.load_state_dict(state)
        self.module.eval().requires_grad_(False).to(device)
        self.mel = mel_matrix().to(device)
        self.dim = len(state["embeddings.4.weight"])

    @staticmethod
    def _like(state: dict[str, Tensor]) -> VGGish:
        """Build the network from a state dict's sizes; a convolution's index tells whether pooling comes before it."""
        indices = [int(key.split(".")[1]) for key in state if key.startswith("features.") and key.endswith("weight")]
        widths: list[int | str] = []
        for index, following in zip(indices, [*indices[1:], indices[-1] + 3], strict=True):
            widths += [len(state[f"features.{index}.weight"]), *["M"] * (following - index - 2)]
        return VGGish(tuple(widths), *(len(state[f"embeddings.{layer}.weight"]) for layer in (0, 4)))

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> Outputs:
        audio = julius.resample_frac(audio.float(), sample_rate, SAMPLE_RATE)
        return Outputs(self.module(log_mel_examples(audio.to(self.device), self.mel)).cpu())
