"""From a config's `latents` to a codec. The table of names is open to registration: `CODECS["mine"] = build_mine`."""

from __future__ import annotations

import typing as tp
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from omegaconf import DictConfig

from audiocraft_qamdt.utils import prepared

from ..checkpoints.store import load_safely
from ..utils.errors import needing_weights
from ..utils.reading import JsonObject
from .codec import LatentCodec

from audiocraft.utils.utils import dict_from_config

if tp.TYPE_CHECKING:
    from .compression import SpectralVAECompressionModel


def _mdct(options: JsonObject, device: str) -> LatentCodec:
    from .mdct import MDCTCodec

    return MDCTCodec(**options)


def _encodec(options: JsonObject, device: str) -> LatentCodec:
    from .encodec import EncodecCodec

    checkpoint = _checkpoint(options, "encodec", "//pretrained/facebook/encodec_32khz")
    with needing_weights(f"EnCodec {checkpoint!r}", "latents.encodec.checkpoint"):
        if checkpoint.startswith("//encodec/"):
            return EncodecCodec.from_encodec_package(checkpoint.removeprefix("//encodec/"), device=device, **options)
        return EncodecCodec.from_audiocraft(checkpoint, device=device, **options)


def _checkpoint(options: JsonObject, codec: str, example: str) -> str:
    checkpoint = options.pop("checkpoint", None)
    if checkpoint is None:
        raise ValueError(f"latents.{codec}: set checkpoint, for example latents.{codec}.checkpoint={example}")
    return str(checkpoint)


def _oobleck(options: JsonObject, device: str) -> LatentCodec:
    from .oobleck import OobleckCodec

    checkpoint = _checkpoint(options, "oobleck", "stabilityai/stable-audio-open-1.0")
    with needing_weights(f"Oobleck autoencoder {checkpoint!r}", "latents.oobleck.checkpoint"):
        return OobleckCodec.from_pretrained(checkpoint, **options)


def _dac(options: JsonObject, device: str) -> LatentCodec:
    from .dac import DacCodec

    checkpoint = _checkpoint(options, "dac", "descript/dac_44khz")
    if checkpoint.startswith(_AUDIOCRAFT_DAC):
        checkpoint = _descript_file(checkpoint.removeprefix(_AUDIOCRAFT_DAC))
    with needing_weights(f"DAC {checkpoint!r}", "latents.dac.checkpoint"):
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
    with needing_weights(f"DAC {model!r}", "latents.dac.checkpoint"):
        return str(download(model_type=model))


def _mel_vae(options: JsonObject, device: str) -> LatentCodec:
    from .mel_vae import MelVAECodec

    checkpoint, vae, vocoder = (options.pop(key, None) for key in ("checkpoint", "vae", "vocoder"))
    if checkpoint is None and None in (vae, vocoder):
        raise ValueError(
            "latents.mel_vae: set checkpoint (AudioLDM's layout), or both vae and vocoder (published files)"
        )
    with needing_weights(f"mel VAE and vocoder {checkpoint or f'{vae}, {vocoder}'!r}", "latents.mel_vae.checkpoint"):
        if checkpoint is not None:
            return MelVAECodec.from_audioldm(checkpoint, **options)
        return MelVAECodec.from_official(vae, vocoder, **options)


def _spectral_vae(options: JsonObject, device: str) -> LatentCodec:
    from .spectral_vae import WEIGHTS, SpectralVAECodec

    checkpoint = options.pop("checkpoint", None) or str(WEIGHTS)
    if checkpoint.endswith(".safetensors"):
        return SpectralVAECodec.from_file(checkpoint, **options)
    with needing_weights(f"codec {checkpoint!r}", "latents.spectral_vae.checkpoint"):
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
    from .compression import SpectralVAECompressionModel
    from .spectral_vae import SpectralVAE, SpectralVAECodec, SpectralVAESizes

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
