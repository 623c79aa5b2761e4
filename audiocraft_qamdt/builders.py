"""From the config to objects. Tables of names are open to registration: `CODECS["mine"] = build_mine`."""

from __future__ import annotations

import functools
import typing as tp
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from audiocraft_qamdt.utils import prepared

from .clap.scorer import ClapScorer
from .conditioning.conditioners import QualityConditioner, T5StatesConditioner, WordsConditioner
from .conditioning.fuser import ModelFuser
from .conditioning.model import QAMDTModel
from .diffusion.objective import DiffusionObjective, make_schedule
from .latents.building import CODEC_ENTRY_POINTS as CODEC_ENTRY_POINTS
from .latents.building import CODECS as CODECS
from .latents.building import check_codec as check_codec
from .latents.building import get_codec as get_codec
from .latents.building import get_trainable_codec as get_trainable_codec
from .latents.building import known_codecs as known_codecs
from .latents.codec import LatentCodec
from .models.backbone import Backbone
from .models.mdt import MaskedDiffusionTransformer
from .quality.levels import STATISTICS_FILE, LevelRule, QualityStatistics, level_rule
from .utils.errors import MissingWeights as MissingWeights
from .utils.errors import needing_weights
from .utils.reading import JsonObject

from audiocraft.models import builders as audiocraft_builders
from audiocraft.modules.conditioners import BaseConditioner, ConditioningProvider
from audiocraft.utils.utils import dict_from_config

if tp.TYPE_CHECKING:
    from typing_extensions import Unpack


Range = tuple[float, float]
"""The least and the largest value."""

SPLITS = ("train", "valid", "evaluate", "generate")
_audiocraft_conditioner_provider = audiocraft_builders.get_conditioner_provider


def resolve_device(device: str) -> str:
    """Resolve `auto` to cuda, else mps, else cpu; return anything else unchanged."""
    if device != "auto":
        _check_device(device)
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown: choose auto, cuda, mps or cpu") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.type == "cuda" and (asked.index or 0) >= count:
        raise ValueError(f"device={device}: this machine has {count} CUDA devices: choose auto or cpu")


# ---- conditioners and model

CONDITIONERS: dict[str, tp.Callable[..., BaseConditioner]] = {
    "quality": lambda output_dim, device, **options: QualityConditioner(device=device, **options),
    "qamdt_t5": T5StatesConditioner,
    "words": WordsConditioner,
}


def get_conditioner_provider(output_dim: int, cfg: DictConfig) -> ConditioningProvider:
    """Return AudioCraft's `get_conditioner_provider`, knowing the conditioners in `CONDITIONERS` besides its own."""
    sections = {} if cfg.conditioners is None else _used(dict_from_config(cfg.conditioners), cfg)
    ours = {name: section for name, section in sections.items() if section.get("model") in CONDITIONERS}
    if not ours:
        return _audiocraft_conditioner_provider(output_dim, cfg)
    theirs = cfg.copy()
    with open_dict(theirs):
        theirs.conditioners = {name: section for name, section in sections.items() if name not in ours}
    provider = _audiocraft_conditioner_provider(output_dim, theirs)
    for name, section in ours.items():
        provider.conditioners[name] = _conditioner(name, section, output_dim, cfg.device)
    return provider


def _used(sections: JsonObject, cfg: DictConfig) -> JsonObject:
    # Every granularity is described in every config (Dora compares configs key by key); the fuser says which are on.
    fused = {name for key in ModelFuser.FUSING_METHODS for name in cfg.fuser.get(key) or ()} if "fuser" in cfg else None
    return {
        name: section
        for name, section in sections.items()
        if fused is None or name in fused or section.get("model") != "quality"
    }


def _conditioner(name: str, section: JsonObject, output_dim: int, device: str) -> BaseConditioner:
    model = section["model"]
    build = CONDITIONERS[model]
    if model != "qamdt_t5":
        return build(output_dim=output_dim, device=device, **section[model])
    checkpoint = section[model]["name"]
    source = "" if Path(checkpoint).is_absolute() else f" of https://huggingface.co/{checkpoint}"
    with needing_weights(f"text encoder {checkpoint!r}{source}", f"conditioners.{name}.{model}.name"):
        return build(output_dim=output_dim, device=device, **section[model])


def get_fuser(cfg: DictConfig) -> ModelFuser:
    """Return the fuser of a `fuser` config (AudioCraft's keys, and `adaln`)."""
    return ModelFuser({key: list(cfg[key]) for key in ModelFuser.FUSING_METHODS if key in cfg})


def latent_frames(cfg: DictConfig, codec: LatentCodec) -> int:
    """Return the number of latent frames in a training segment."""
    return codec.num_frames(round(cfg.dataset.segment_duration * codec.sample_rate))


_OF_ANY_NETWORK = ("context_dim", "unknown_level", "checkpointing", "pooled_text", "guidance_inputs")
"""Keys of `mdt` that hold for the U-Net, too."""


class _Shape(tp.TypedDict):
    latent_channels: int
    latent_bins: int
    latent_frames: int
    quality: tuple[str, ...]


def _transformer(cfg: DictConfig, **shape: Unpack[_Shape]) -> Backbone:
    return MaskedDiffusionTransformer(**shape, **dict_from_config(cfg.mdt))


def _unet(cfg: DictConfig, **shape: Unpack[_Shape]) -> Backbone:
    from .models.unet import UNet  # diffusers' U-Net: seconds to import

    shared = {key: cfg.mdt[key] for key in _OF_ANY_NETWORK if key in cfg.mdt}  # models trained before lack some
    return UNet(**shape, **dict_from_config(cfg.unet), **shared)


BACKBONES: dict[str, tp.Callable[..., Backbone]] = {"mdt": _transformer, "unet": _unet}


def get_backbone(cfg: DictConfig, codec: LatentCodec) -> Backbone:
    """Return the network of a solver config, for the latents of `codec`.

    Raises:
        ValueError: an unknown `backbone`.
    """
    name = cfg.get("backbone", "mdt")  # models trained before do without this key
    if name not in BACKBONES:
        raise ValueError(f"backbone={name!r} is unknown: choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name](
        cfg,
        latent_channels=codec.latent_channels,
        latent_bins=codec.latent_bins,
        latent_frames=latent_frames(cfg, codec),
        quality=get_fuser(cfg.fuser).quality_granularities(),
    )


def get_model(cfg: DictConfig, codec: LatentCodec) -> QAMDTModel:
    """Return the network and conditioners of a solver config, for the latents of `codec`, on the config's device."""
    backbone = get_backbone(cfg, codec)
    provider = get_conditioner_provider(cfg.mdt.context_dim, cfg)
    return QAMDTModel(backbone, provider, get_fuser(cfg.fuser)).to(cfg.device)


# ---- diffusion


def get_objective(cfg: DictConfig) -> DiffusionObjective:
    """Return the training objective of a `diffusion` config."""
    draws = {key: cfg[key] for key in ("timesteps", "timesteps_mean", "timesteps_std") if key in cfg}
    return DiffusionObjective(make_schedule(**dict_from_config(cfg.schedule)), cfg.snr_gamma, **draws)


def get_guidance_ranges(cfg: DictConfig) -> tuple[Range, Range] | None:
    """Return the weights of text and of quality that a model has inside, least and most; None = guidance is outside."""
    if not OmegaConf.select(cfg, "distill.use"):  # recipes of models trained before do without this section
        return None
    return _range(cfg, "text_scale"), _range(cfg, "quality_scale")


def _range(cfg: DictConfig, key: str) -> Range:
    values = [float(value) for value in cfg.distill[key]]
    if len(values) != 2 or not values[0] <= values[1]:
        raise ValueError(f"distill.{key}={values}: give the least and the largest weight, [1.0, 4.0]")
    return values[0], values[1]


@functools.lru_cache(maxsize=1)
def get_clap(name: str, device: str) -> ClapScorer:
    """Load the CLAP model that selects candidates, once.

    Raises:
        MissingWeights: it could not be loaded.
    """
    otherwise = "choose by predicted quality, which needs no weights and no network: --rerank pmos:acoustic"
    with needing_weights(f"CLAP {name!r}", "--clap (in a config generate.clap)", otherwise):
        return ClapScorer(name, device)


# ---- data and quality


def get_quality_statistics(cfg: DictConfig) -> QualityStatistics | None:
    """Load the statistics that give levels: `quality.statistics`, else quality.json beside the training manifest."""
    chosen = cfg.quality.statistics
    if chosen is not None and not isinstance(chosen, str):
        return QualityStatistics.from_dict(dict_from_config(chosen), "quality.statistics")
    path = statistics_file(cfg)
    return QualityStatistics.load(path) if path is not None else None


def statistics_file(cfg: DictConfig) -> Path | None:
    """Return the file of `quality.statistics`, else quality.json beside the training manifest where there is one."""
    chosen, train = cfg.quality.statistics, cfg.datasource.get("train")
    if isinstance(chosen, str):
        return Path(chosen) / STATISTICS_FILE if Path(chosen).is_dir() else Path(chosen)
    beside = Path(train) / STATISTICS_FILE if train else None
    return beside if beside is not None and beside.exists() else None


def get_level_rule(cfg: DictConfig, statistics: QualityStatistics | None) -> LevelRule | None:
    """Return thresholds of a `quality` config; None without statistics (then every quality is unknown)."""
    return None if statistics is None else level_rule(cfg.rule, statistics)
