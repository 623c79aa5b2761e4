"""From the config to objects. Tables of names are open to registration: `CODECS["mine"] = build_mine`."""

from __future__ import annotations

import functools
import typing as tp
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from audiocraft_qamdt.utils import prepared

from .checkpoints.store import load_safely
from .clap.scorer import ClapScorer
from .conditioning.conditioners import QualityConditioner, T5StatesConditioner, WordsConditioner
from .conditioning.fuser import ModelFuser
from .conditioning.model import QAMDTModel
from .diffusion.objective import DiffusionObjective, make_schedule
from .latents.codec import LatentCodec
from .models.backbone import Backbone
from .models.mdt import MaskedDiffusionTransformer
from .quality.levels import STATISTICS_FILE, LevelRule, QualityStatistics, level_rule
from .utils.reading import JsonObject

from audiocraft.models import builders as audiocraft_builders
from audiocraft.modules.conditioners import BaseConditioner, ConditioningProvider
from audiocraft.utils.utils import dict_from_config

if tp.TYPE_CHECKING:
    from typing_extensions import Unpack

    from .latents.compression import SpectralVAECompressionModel


Range = tuple[float, float]
"""The least and the largest value."""

SPLITS = ("train", "valid", "evaluate", "generate")
_audiocraft_conditioner_provider = audiocraft_builders.get_conditioner_provider


class MissingWeights(RuntimeError):
    """Pretrained weights that a recipe needs are missing; the message names them, the reason and an alternative."""


@contextmanager
def _weights(what: str, key: str) -> tp.Iterator[None]:
    try:
        yield
    except ValueError:  # a setting that does not fit, not weights that are missing
        raise
    except Exception as error:  # whatever the hub, the file system or the library raises, the user needs one message
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingWeights(
            f"{what} could not be loaded: {reason}\nSet {key} to a local copy, or run "
            "`dora run solver=qamdt/playground`, which needs no weights and no network."
        ) from error


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


# ---- codecs


def _mdct(options: JsonObject, device: str) -> LatentCodec:
    from .latents.mdct import MDCTCodec

    return MDCTCodec(**options)


def _encodec(options: JsonObject, device: str) -> LatentCodec:
    from .latents.encodec import EncodecCodec

    checkpoint = _checkpoint(options, "encodec", "//pretrained/facebook/encodec_32khz")
    with _weights(f"EnCodec {checkpoint!r}", "latents.encodec.checkpoint"):
        if checkpoint.startswith("//encodec/"):
            return EncodecCodec.from_encodec_package(checkpoint.removeprefix("//encodec/"), device=device, **options)
        return EncodecCodec.from_audiocraft(checkpoint, device=device, **options)


def _checkpoint(options: JsonObject, codec: str, example: str) -> str:
    checkpoint = options.pop("checkpoint", None)
    if checkpoint is None:
        raise ValueError(f"latents.{codec}: set checkpoint, for example latents.{codec}.checkpoint={example}")
    return str(checkpoint)


def _oobleck(options: JsonObject, device: str) -> LatentCodec:
    from .latents.oobleck import OobleckCodec

    checkpoint = _checkpoint(options, "oobleck", "stabilityai/stable-audio-open-1.0")
    with _weights(f"Oobleck autoencoder {checkpoint!r}", "latents.oobleck.checkpoint"):
        return OobleckCodec.from_pretrained(checkpoint, **options)


def _dac(options: JsonObject, device: str) -> LatentCodec:
    from .latents.dac import DacCodec

    checkpoint = _checkpoint(options, "dac", "descript/dac_44khz")
    if checkpoint.startswith(_AUDIOCRAFT_DAC):
        checkpoint = _descript_file(checkpoint.removeprefix(_AUDIOCRAFT_DAC))
    with _weights(f"DAC {checkpoint!r}", "latents.dac.checkpoint"):
        if checkpoint.endswith(".pth"):
            return DacCodec.from_descript(load_safely(Path(checkpoint)), checkpoint, **options)
        return DacCodec.from_pretrained(checkpoint, **options)


_AUDIOCRAFT_DAC = "//pretrained/dac_"
"""AudioCraft's names of DAC models: dac_44khz and so on, which it loads through the descript package."""


def _descript_file(model: str) -> str:
    """Return the file of the descript package's model, such as 44khz, fetched by the package on first use.

    Its own loader, which AudioCraft calls, unpickles whatever the file holds; only the file is taken from it.
    """
    try:
        from dac.utils import download
    except ImportError as error:
        raise ValueError(
            f"latents.dac.checkpoint={_AUDIOCRAFT_DAC}{model} needs the descript package ({error}): "
            "`pip install descript-audio-codec`, or without it the same weights from the hub, "
            f"latents.dac.checkpoint=descript/dac_{model}"
        ) from error
    with _weights(f"DAC {model!r}", "latents.dac.checkpoint"):
        return str(download(model_type=model))


def _mel_vae(options: JsonObject, device: str) -> LatentCodec:
    from .latents.mel_vae import MelVAECodec

    checkpoint, vae, vocoder = (options.pop(key, None) for key in ("checkpoint", "vae", "vocoder"))
    if checkpoint is None and None in (vae, vocoder):
        raise ValueError(
            "latents.mel_vae: set checkpoint (AudioLDM's layout), or both vae and vocoder (published files)"
        )
    with _weights(f"mel VAE and vocoder {checkpoint or f'{vae}, {vocoder}'!r}", "latents.mel_vae.checkpoint"):
        if checkpoint is not None:
            return MelVAECodec.from_audioldm(checkpoint, **options)
        return MelVAECodec.from_official(vae, vocoder, **options)


def _spectral_vae(options: JsonObject, device: str) -> LatentCodec:
    from .latents.spectral_vae import WEIGHTS, SpectralVAECodec

    checkpoint = options.pop("checkpoint", None) or str(WEIGHTS)
    if checkpoint.endswith(".safetensors"):
        return SpectralVAECodec.from_file(checkpoint, **options)
    with _weights(f"codec {checkpoint!r}", "latents.spectral_vae.checkpoint"):
        return _codec_from_checkpoint(checkpoint)


def _codec_from_checkpoint(checkpoint: str) -> LatentCodec:
    from audiocraft.utils.checkpoint import resolve_checkpoint_path

    path = resolve_checkpoint_path(checkpoint)
    if path is None:
        raise FileNotFoundError(f"{checkpoint}: there is no such experiment or file")
    state = load_safely(path)
    if "xp.cfg" not in state or state["xp.cfg"].get("compression_model") != "spectral_vae":
        raise ValueError(
            f"latents.spectral_vae.checkpoint={checkpoint} is no codec of this kind: train one with "
            "`dora run solver=compression/qamdt_spectral`"
        )
    model = get_trainable_codec(state["xp.cfg"])
    model.load_state_dict(state["best_state"]["model"])
    return model.codec


def get_trainable_codec(cfg: DictConfig) -> SpectralVAECompressionModel:
    """Return `SpectralVAE` for AudioCraft's compression solver, of the config's section `spectral_vae`."""
    from .latents.compression import SpectralVAECompressionModel
    from .latents.spectral_vae import SpectralVAE, SpectralVAECodec, SpectralVAESizes

    sizes = dict_from_config(cfg.spectral_vae)
    training = {key: sizes.pop(key) for key in ("kl_weight", "amplitude_weight", "audio_gradient", "autocast")}
    codec = SpectralVAECodec(SpectralVAE(SpectralVAESizes.from_dict({"sample_rate": cfg.sample_rate, **sizes})))
    return SpectralVAECompressionModel(codec, **training)


BuildCodec = tp.Callable[[JsonObject, str], LatentCodec]
"""Build a codec from the options of its config section, for a device."""

CODEC_ENTRY_POINTS = "audiocraft_qamdt.codecs"
"""Entry point group in which other packages announce a `BuildCodec`."""

CODECS: dict[str, BuildCodec] = {
    "mdct": _mdct,
    "encodec": _encodec,
    "mel_vae": _mel_vae,
    "spectral_vae": _spectral_vae,
    "oobleck": _oobleck,
    "dac": _dac,
}


def known_codecs() -> dict[str, BuildCodec | EntryPoint]:
    """Return the codecs by name: those in `CODECS`, and those of installed packages, not loaded yet."""
    return {point.name: point for point in entry_points(group=CODEC_ENTRY_POINTS)} | CODECS


def get_codec(cfg: DictConfig, device: str = "cpu") -> LatentCodec:
    """Build the codec of a `latents` config: `codec` names it, the section of that name, if any, holds its options.

    Raises:
        ValueError: unknown codec, or an installed package's entry point that gives none.
        MissingWeights: its weights could not be loaded.
    """
    known = known_codecs()
    if cfg.codec not in known:
        raise ValueError(f"latents.codec={cfg.codec!r} is unknown: choose one of {', '.join(known)}")
    build = known[cfg.codec]
    if isinstance(build, EntryPoint):
        build = _loaded(build)
    options = dict_from_config(cfg[cfg.codec]) if cfg.codec in cfg else {}
    codec = build(options, device)
    if not isinstance(codec, LatentCodec):
        raise ValueError(f"latents.codec={cfg.codec!r} gave {type(codec).__name__}: it must build a LatentCodec")
    return codec.to(device).eval().requires_grad_(False)


def _loaded(point: EntryPoint) -> BuildCodec:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"latents.codec={point.name!r} cannot be loaded from {point.value}: {error}") from error


def check_codec(cfg: DictConfig, codec: LatentCodec) -> None:
    """Refuse a codec that does not fit the solver's audio.

    Raises:
        ValueError: naming both config keys.
    """
    for key in ("sample_rate", "channels"):
        if cfg[key] != getattr(codec, key):
            raise ValueError(
                f"{key}={cfg[key]}, but latents.codec={cfg.latents.codec} works at {getattr(codec, key)}: "
                f"set {key}={getattr(codec, key)}, or choose another codec"
            )


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
    with _weights(f"text encoder {checkpoint!r}{source}", f"conditioners.{name}.{model}.name"):
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
    with _weights(f"CLAP {name!r}", "generate.clap"):
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
