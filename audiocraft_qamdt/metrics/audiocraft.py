"""AudioCraft's own metrics in the table: its classes, built by its builders from its config, unchanged."""

from __future__ import annotations

import typing as tp
from contextlib import nullcontext

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from ..utils.reading import JsonObject
from .base import AUDIOCRAFT, AudioCraftBatch, Batch, Metric, SumOverRanks, safe
from .passt import safe_passt

from audiocraft.solvers import builders

if tp.TYPE_CHECKING:
    import torchmetrics

Compress = tp.Callable[[Tensor], Tensor]

BUILDERS: dict[str, tp.Callable[[DictConfig], torchmetrics.Metric]] = {
    "fad": builders.get_fad,
    "kld": builders.get_kldiv,
    "text_consistency": builders.get_text_consistency,
    "chroma_cosine": builders.get_chroma_cosine_similarity,
}


def _instrument(options: JsonObject) -> str:
    chosen = options[options["model"]]
    details = chosen.get("pretrained_length") or chosen.get("model_path") or chosen.get("bin") or ""
    return "-".join(filter(None, (options["model"], safe(str(details).split("/")[-1]))))


KLD = ("kld", "kld_pq", "kld_qp", "kld_both")
"""What AudioCraft's `kld` gives."""


class AudioCraftMetric(Metric):
    """One of AudioCraft's metrics, under the name of its flag.

    Args:
        name: key of `BUILDERS`.
        options: its section of AudioCraft's `metrics` config; with `use_gt` the reference audio is judged, once
            through the codec, in place of generated audio.
        compress: that way through the codec, [B, C, S] to the same.
        device: where it computes.
    """

    needs = frozenset({"pairs"})

    def __init__(self, name: str, options: JsonObject, compress: Compress, device: str) -> None:
        super().__init__()
        self.name, self.use_gt, self.compress = name, options["use_gt"], compress
        self.quantities = tuple(f"{AUDIOCRAFT}{own}" for own in ((name,) if name != "kld" else KLD))
        self.instrument = f"{_instrument(options)}_gt" if self.use_gt else _instrument(options)
        passt = options.get("passt", {}).get("pretrained_length") if options["model"] == "passt" else None
        with safe_passt(passt) if passt else nullcontext():
            self.metric = BUILDERS[name](OmegaConf.create(options)).to(device)
        self.sample_rate: int | None = None

    def update(self, batch: Batch) -> None:
        import torch

        generated, reference, sizes, stems = tp.cast(AudioCraftBatch, batch.audiocraft)
        sample_rates = torch.full_like(sizes, batch.generated[0].sample_rate)
        if self.use_gt:
            # As in AudioCraft: text against the audio itself, everything else against audio through the codec.
            generated = reference if self.name == "text_consistency" else self.compress(reference).cpu()
        if self.name == "text_consistency":
            self.metric.update(generated, [clip.text or "" for clip in batch.generated], sizes, sample_rates)
        else:
            names = (stems,) if self.name == "fad" else ()
            self.metric.update(generated, reference, sizes, sample_rates, *names)

    def reduce(self, total: SumOverRanks) -> None:
        pass  # torchmetrics does, when it computes

    def compute(self) -> dict[str, float]:
        value = self.metric.compute()
        values = value if isinstance(value, dict) else {self.name: float(value)}
        return {f"{AUDIOCRAFT}{name}": number for name, number in values.items()}
