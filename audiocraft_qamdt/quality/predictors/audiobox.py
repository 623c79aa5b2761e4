"""p-MOS by Audiobox Aesthetics (arXiv 2502.05139, github.com/facebookresearch/audiobox-aesthetics)."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import digest, missing_extra, onto_pmos

if TYPE_CHECKING:
    from audiobox_aesthetics.model.aes import AesMultiOutput

AXES = ("PQ", "PC", "CE", "CU")
SCALE = (1.0, 10.0)  # of all four axes
HUB = "facebook/audiobox-aesthetics"


class Audiobox:
    """One axis of Audiobox Aesthetics: production quality, production complexity, enjoyment or usefulness.

    Its scale 1 to 10 becomes 1 to 5 linearly. It was trained on 10 s of mono audio at 16 kHz.

    Args:
        which: "AXIS", "AXIS@CHECKPOINT" or nothing (= PQ); the checkpoint is the published `.pt` file, or a folder or
            hub id in the layout of `facebook/audiobox-aesthetics`, the default.
        device: where it computes.
    Raises:
        ValueError: for an axis that there is not.
        RuntimeError: where audiobox-aesthetics is not installed.
    """

    sample_rate = 16000
    window = 10.0
    hop = 5.0

    def __init__(self, which: str = "PQ", device: str = "cpu") -> None:
        self.axis, _, checkpoint = which.partition("@")
        if self.axis not in AXES:
            raise ValueError(f"audiobox/{which}: choose an axis of {', '.join(AXES)}, or AXIS@CHECKPOINT")
        self.axes = AudioboxAxes(checkpoint, device)
        self.model = self.axes.model
        self.name, self.version = f"{self.axes.name}/{self.axis}", self.axes.version

    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return p-MOS [B] of mono windows [B, S]."""
        return onto_pmos(self.axes(audio)[self.axis], *SCALE)


class AudioboxAxes:
    """The network's four axes as they are, each on its scale from 1 to 10.

    Args:
        checkpoint: as in `Audiobox`; "" = the default.
        device: where it computes.
    Raises:
        RuntimeError: where audiobox-aesthetics is not installed.
    """

    name = "audiobox-aesthetics"

    def __init__(self, checkpoint: str = "", device: str = "cpu") -> None:
        self.model = _load_model(checkpoint or HUB).to(device).eval()
        self.device = device
        self.version = version("audiobox-aesthetics") + (f"+{_revision(checkpoint)}" if checkpoint else "")

    @torch.no_grad()
    def __call__(self, audio: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return axis → scores [B] of mono windows [B, S] at 16 kHz.

        Args:
            audio: the windows.
            mask: [B, S], true where they are not padding; None = everywhere.
        """
        wav = audio.to(self.device, torch.float32)[:, None]  # [B, 1, S]
        kept = torch.ones_like(wav, dtype=torch.bool) if mask is None else mask[:, None].to(self.device)
        raw, targets = self.model({"wav": wav, "mask": kept}), self.model.target_transform
        return {axis: raw[axis].float() * targets[axis]["std"] + targets[axis]["mean"] for axis in AXES}


def _load_model(checkpoint: str) -> AesMultiOutput:
    try:
        from audiobox_aesthetics.infer import AesPredictor
        from audiobox_aesthetics.model.aes import AesMultiOutput
    except ImportError as error:
        raise missing_extra("audiobox") from error
    if Path(checkpoint).is_file():
        return AesPredictor(checkpoint_pth=checkpoint).model
    return AesMultiOutput.from_pretrained(checkpoint)


def _revision(checkpoint: str) -> str:
    path = Path(checkpoint)
    if not path.exists():
        return checkpoint  # on the hub
    return digest(path if path.is_file() else path / "model.safetensors")
