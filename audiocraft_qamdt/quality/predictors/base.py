"""The protocol of p-MOS predictors, and how one is found by its name."""

from __future__ import annotations

import hashlib
import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

ENTRY_POINTS = "audiocraft_qamdt.predictors"

# Name → import path of a class or function that takes `device`, and first what follows the name after a slash if
# something does, and gives a Predictor; imported when it is first used. Other packages add theirs through the entry
# points group above.
PREDICTORS: dict[str, str] = {
    "acoustic": "audiocraft_qamdt.quality.predictors.acoustic:Acoustic",
    "audiobox": "audiocraft_qamdt.quality.predictors.audiobox:Audiobox",
    "constant": "audiocraft_qamdt.quality.predictors.constant:Constant",
    "dnsmos": "audiocraft_qamdt.quality.predictors.dnsmos:Dnsmos",
    "playground": "audiocraft_qamdt.quality.predictors.playground:PlaygroundJudge",
    "qama": "audiocraft_qamdt.quality.predictors.qama:Qama",
    "wav2vec2": "audiocraft_qamdt.quality.predictors.wav2vec2:Wav2Vec2",
}


@runtime_checkable
class Predictor(Protocol):
    """Predicts the mean opinion score of windows of audio.

    Attributes:
        name: written into sidecars beside the score, with the axis where there are several.
        version: changes whenever scores would.
        sample_rate: Hz that the audio must have; None = any, the recording's own.
        window: seconds of audio that a score is about.
        hop: seconds between the windows of a track.
    """

    name: str
    version: str
    sample_rate: int | None
    window: float
    hop: float

    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return p-MOS [B], 1 to 5, of mono windows [B, S] with a full scale of ±1."""
        ...


def predictor_names() -> list[str]:
    """Return names that `load_predictor` knows: the built-in ones and those of installed packages."""
    return sorted(_known())


def load_predictor(name: str, device: str = "auto") -> Predictor:
    """Load a predictor.

    Args:
        name: one of `predictor_names()`, alone or with what it should use (`audiobox/CE`, `wav2vec2/FOLDER`,
            `constant/2.5`), or an import path "package.module:attribute" to a class or function that takes `device`.
        device: where it computes; "auto" = a GPU when there is one.
    Raises:
        ValueError: for an unknown name, an import path that leads nowhere, or what is not a predictor.
    """
    known, (head, slash, which) = _known(), name.partition("/")
    if name in known or head not in known:
        head, slash, which = name, "", ""
    path = known.get(head, head)
    if ":" not in path:
        raise ValueError(
            f"unknown predictor {name!r}: choose one of {', '.join(predictor_names())}, "
            "or give an import path 'package.module:attribute'"
        )
    module_name, attribute = path.split(":", 1)
    try:
        load = getattr(importlib.import_module(module_name), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"predictor {name!r} cannot be loaded from {path}: {error}") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = load(which, device=device) if slash else load(device=device)
    if not isinstance(predictor, Predictor):
        raise ValueError(
            f"{path} gave {type(predictor).__name__}, which lacks some of name, version, sample_rate, "
            "window, hop and score"
        )
    return predictor


def onto_pmos(scores: Tensor, low: float, high: float) -> Tensor:
    """Return scores on a scale from `low` to `high`, linearly onto 1 to 5; what lies beyond its scale is cut off."""
    return (1 + 4 * (scores - low) / (high - low)).clamp(1, 5)


def digest(path: Path) -> str:
    """Return a hash that identifies a file of weights, for a predictor's version."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()[:12]


def missing_extra(extra: str) -> RuntimeError:
    """Return the error for a predictor whose package is not installed."""
    return RuntimeError(f'this predictor needs a package: pip install "audiocraft_qamdt[{extra}]"')


def _known() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)} | PREDICTORS
