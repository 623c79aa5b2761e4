"""A trained model to a folder that generates on any machine, and to the Hugging Face hub."""

from __future__ import annotations

import logging
import tempfile
import typing as tp
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from .. import builders
from ..checkpoints import config, loading, parts, store
from ..latents.spectral_vae import WEIGHTS as PACKAGED_CODEC
from ..latents.spectral_vae import SpectralVAECodec
from ..utils.errors import first_line
from ..utils.reading import JsonObject
from .qamdt import QAMDT

logger = logging.getLogger(__name__)

CODEC = "latents.spectral_vae.checkpoint"
CHECK_STEPS = 4
CHECK_PROMPTS = ("slow piano", "")


@dataclass(frozen=True)
class Card:
    """Fields of the model card that the checkpoint does not hold.

    Args:
        title: name of the model.
        license: of the weights: an identifier of the hub's list (mit, cc-by-nc-4.0, other, ...).
        data: what it was trained on, and on what terms.
    """

    title: str
    license: str = "unknown"
    data: str = ""


def export_model(name: str, out: str | Path, card: Card, adapters: tp.Sequence[str] = ()) -> Path:
    """Write an export with its model card, load it again and compare what both generate, bit for bit, on the CPU.

    Pretrained parts that are local files (the codec's, the text encoder's) go into the export too, paths of the data do
    not.

    Args:
        name: what to export (see `loading.load`).
        out: folder to write; complete and checked, or not at all.
        adapters: to merge, each `DIR[:weight]`.
    Returns:
        The folder.
    Raises:
        RuntimeError: the export generates other audio than the original.
    """
    return export_trained(loading.load(name, adapters), out, card, name)


def export_trained(trained: store.TrainedModel, out: str | Path, card: Card, name: str = "model") -> Path:
    """Export a model that was read already; see `export_model`. `name` is for messages."""
    out = Path(out)
    store.check_out(out)
    content = config.portable(config.resolved(trained.cfg, name))
    portable = replace(
        trained,
        cfg=tp.cast(DictConfig, OmegaConf.create(content)),
        quality_statistics=_plain(trained.quality_statistics),
    )
    used = _used_parts(trained, into_package=store.in_package(out))
    reference = check_audio(trained)

    def finish(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            parts.add_parts(folder, folder / store.CONFIG, _plain_codec(used, trained.cfg, Path(scratch)))
        (folder / "README.md").write_text(model_card(card, portable), encoding="utf-8")
        difference = (check_audio(loading.load(folder)) - reference).abs().max().item()
        if difference != 0:
            raise RuntimeError(
                f"{name}: its export generates other audio (largest difference {difference:.2e}); nothing was written"
            )

    store.export(out, portable, finish)
    return out


def _used_parts(trained: store.TrainedModel, into_package: bool) -> dict[str, str]:
    """Return the model's parts with their files; the package's own codec is one, since another version has another.

    Args:
        into_package: the export is a model of the package, which reads the codec beside it.
    """
    used = parts.in_use(trained.cfg)
    if trained.origin is not None:
        parts.refuse_outside(used, trained.origin)
    if trained.cfg.latents.codec == "spectral_vae" and CODEC not in used and not into_package:
        used[CODEC] = str(PACKAGED_CODEC)
    return used


def _plain_codec(used: dict[str, str], cfg: DictConfig, scratch: Path) -> dict[str, str]:
    """Return the parts with a file of the codec's weights where they name a training run's checkpoint."""
    if CODEC not in used or used[CODEC].endswith(PACKAGED_CODEC.suffix):
        return used
    codec = tp.cast(SpectralVAECodec, builders.get_codec(cfg.latents))
    path = scratch / PACKAGED_CODEC.name
    codec.save(path, torch.float32)
    return {**used, CODEC: str(path)}


def _plain(statistics: JsonObject) -> JsonObject:
    """Drop paths, such as that of a predictor's file."""
    return {
        key: "local" if isinstance(value, str) and config.names_a_path(value) else value
        for key, value in statistics.items()
    }


def check_audio(trained: store.TrainedModel) -> Tensor:
    """Generate a short clip for each of `CHECK_PROMPTS` and quality 1 and 5, [4, channels, S], on the CPU."""
    model = QAMDT.from_trained(replace(trained, cfg=trained.cfg.copy()), "cpu")
    segment = model.model.backbone.latent_frames / model.codec.frame_rate
    model.set_generation_params(duration=segment, seed=0, candidates=1, quality=None)
    if model.distilled is None:
        model.set_generation_params(steps=CHECK_STEPS)
    return torch.cat([model.generate(CHECK_PROMPTS, quality=level) for level in (1, 5)])


def model_card(card: Card, trained: store.TrainedModel) -> str:
    """Write README.md of a model on the hub: licence, data, settings, and its run's last metrics."""
    from huggingface_hub import ModelCardData

    cfg, known = trained.cfg, trained.quality_statistics
    data = ModelCardData(
        license=card.license,
        library_name="audiocraft_qamdt",
        pipeline_tag="text-to-audio",
        tags=["music", "text-to-music", "diffusion", "audiocraft", "qa-mdt"],
    )
    parameters = sum(value.numel() for value in trained.model.values()) / 1e6
    quality = (
        f"{known['count']} tracks scored by {known['predictor']} {known['version']}, mean p-MOS {known['mean']:.2f}, "
        f"standard deviation {known['std']:.2f}, {known['unscored']} without a score"
        if known
        else "not known: the model was trained without quality scores"
    )
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---",
            f"# {card.title}",
            "",
            "Text to music by a quality-aware masked diffusion transformer (QA-MDT, arXiv 2405.15863), trained with",
            f"audiocraft_qamdt: {parameters:.1f} M parameters, {cfg.sample_rate} Hz, segments of "
            f"{cfg.dataset.segment_duration} s, codec `{cfg.latents.codec}`.",
            "",
            "```python",
            "from audiocraft_qamdt.generate import QAMDT",
            "",
            'model = QAMDT.get_pretrained("<this repository\'s id, or the folder>")',
            'audio = model.generate(["slow piano"], quality=5)  # [1, 1, samples] at model.sample_rate',
            "```",
            "",
            "## Licence",
            "",
            f"{card.license} (of these weights; pretrained parts, such as codec and text encoder, have their own).",
            "",
            "## Data",
            "",
            card.data or "Not described by who exported the model.",
            "",
            f"Quality: {quality}.",
            "",
            "## Metrics",
            "",
            *_metrics(trained.history),
            "",
        ]
    )


def _metrics(history: list[JsonObject]) -> list[str]:
    """Return the last values that each stage of the run logged, as a table."""
    last: dict[tuple[str, str], tuple[int, float]] = {}
    for epoch, stages in enumerate(history, 1):
        for stage, metrics in stages.items():
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and name != "duration":
                    last[stage, name] = (epoch, value)
    if not last:
        return ["None are known."]
    rows = [f"| {stage} | {name} | {value:.4g} | {epoch} |" for (stage, name), (epoch, value) in last.items()]
    return ["| stage | metric | value | epoch |", "|---|---|---|---|", *rows]


def push(folder: str | Path, hub_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload an export to the Hugging Face hub, where HF_TOKEN (or `hf auth login`) may write.

    Args:
        folder: an export.
        hub_id: owner/name; made where there is none.
        private: make it visible to its owner only.
        revision: branch; None = main.
    Returns:
        Address of the commit.
    Raises:
        ValueError: the folder is no export, or no such id can be.
        OSError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    if not store.is_export(folder):
        raise ValueError(f"{folder}: no export, write one with `qamdt export`")
    api = HfApi(library_name="audiocraft_qamdt")
    try:
        api.create_repo(hub_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(hub_id, branch=revision, exist_ok=True)
        return str(
            api.upload_folder(repo_id=hub_id, folder_path=folder, revision=revision, commit_message="Upload model")
        )
    except OfflineModeIsEnabled as error:
        raise OSError("HF_HUB_OFFLINE is set: unset it to upload") from error
    except HFValidationError as error:
        raise ValueError(f"{hub_id!r} is no hub id: give owner/name") from error
    except OSError:  # what the hub answers
        raise
    except Exception as error:  # of the HTTP client, which one differs between versions of huggingface_hub
        raise OSError(f"the hub cannot be reached, {hub_id} is not uploaded: {first_line(error)}") from error
