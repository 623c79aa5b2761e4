"""EnCodec's continuous encoder output as latents: AudioCraft's models, transformers' and the `encodec` package's."""

from __future__ import annotations

import functools
import typing as tp

import torch
from torch import Tensor, nn

from .codec import LatentCodec

if tp.TYPE_CHECKING:
    from encodec import EncodecModel as PackageEncodec
    from encodec.modules import SEANetEncoder
    from transformers import EncodecModel as TransformersEncodec

    from audiocraft.models.encodec import EncodecModel as AudioCraftEncodec
    from audiocraft.models.encodec import HFEncodecCompressionModel

ENCODEC_24KHZ = "encodec_24khz-d7cc33bc.th"
"""File of the `encodec` package's 24 kHz model; the name ends in the start of its SHA-256."""


class EncodecCodec(LatentCodec):
    """The encoder's output before the quantiser, [B, D, T, 1].

    Args:
        model: AudioCraft's `EncodecModel` or `HFEncodecCompressionModel`, transformers' or the `encodec` package's
            `EncodecModel`. It is frozen in place.
        quantize: pass latents through the quantiser before the decoder, with as many codebooks as the model has active
            now. The decoder was trained on quantised latents; without, it receives what was generated as it is.
    Raises:
        ValueError: a model that keeps a loudness beside the latents or works by segments, such as the 48 kHz ones.
        TypeError: a model of another kind.
    """

    model: nn.Module  # has .encoder, .quantizer and .decoder

    def __init__(self, model: nn.Module, quantize: bool = True) -> None:
        parts = _read(model)
        super().__init__(parts.sample_rate, parts.hop_length, parts.dimension, latent_bins=1, channels=parts.channels)
        self.model = parts.core.eval().float().requires_grad_(False)
        self.quantize = quantize
        self._quantize = parts.quantize

    @classmethod
    def from_audiocraft(
        cls, checkpoint: str, quantize: bool = True, device: torch.device | str = "cpu"
    ) -> EncodecCodec:
        """Load what AudioCraft's `compression_model_checkpoint` names.

        Args:
            checkpoint: `//pretrained/facebook/encodec_32khz`, `//sig/SIGNATURE`, or a path.
            quantize: see the class.
            device: where the model goes.
        """
        from ..compat import prepare

        prepare()
        from audiocraft.solvers.compression import CompressionSolver

        return cls(CompressionSolver.model_from_checkpoint(checkpoint, device), quantize).to(device)

    @classmethod
    def from_encodec_package(
        cls, name: str = "encodec_24khz", quantize: bool = True, device: torch.device | str = "cpu"
    ) -> EncodecCodec:
        """Load the `encodec` package's pretrained model, fetched by torch.hub on first use.

        Args:
            name: `encodec_24khz`.
            quantize: see the class.
            device: where the model goes.
        Raises:
            ValueError: another name; `encodec_48khz` is stereo and normalises by segment.
        """
        if name != "encodec_24khz":
            raise ValueError(
                f"the encodec package's {name!r} is not supported: use 'encodec_24khz', or "
                "facebook/encodec_32khz through AudioCraft"
            )
        import encodec.model

        # Not `pretrained=True`: the package would unpickle the file without weights_only.
        model = encodec.EncodecModel.encodec_model_24khz(pretrained=False)
        model.load_state_dict(
            torch.hub.load_state_dict_from_url(
                encodec.model.ROOT_URL + ENCODEC_24KHZ, map_location="cpu", check_hash=True, weights_only=True
            )
        )
        return cls(model, quantize).to(device)

    def _encode(self, audio: Tensor) -> Tensor:
        return tp.cast(nn.Module, self.model.encoder)(audio)[..., None]  # [B, D, T, 1]

    def _decode(self, latents: Tensor) -> Tensor:
        embeddings = latents[..., 0]  # [B, D, T]
        if self.quantize:
            embeddings = self._quantize(self.model, embeddings)
        return tp.cast(nn.Module, self.model.decoder)(embeddings)  # [B, channels, T * hop_length]


class _Parts(tp.NamedTuple):
    """Parts that the libraries' models share under different names."""

    core: nn.Module
    quantize: tp.Callable[[nn.Module, Tensor], Tensor]  # (core, embeddings [B, D, T]) -> their nearest quantised ones
    sample_rate: int
    hop_length: int
    dimension: int
    channels: int


def _read(model: nn.Module) -> _Parts:
    for kind in type(model).__mro__:
        reader = _READERS.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
        if reader is not None:
            return reader(model)
    raise TypeError(
        f"EncodecCodec takes one of {', '.join(_READERS)}, not {type(model).__module__}."
        f"{type(model).__name__}. DAC is not supported; of an interleaved stereo model pass the mono "
        "model that it wraps"
    )


def _refuse(name: str, renormalizes: bool, segment: float | None) -> None:
    if renormalizes or segment is not None:
        raise ValueError(
            f"{name} normalises the loudness or works by segments, which keeps a scale beside the latents "
            "that no diffusion model generates: use encodec_24khz, facebook/encodec_32khz, or a model "
            "trained with renormalize: false"
        )


def _read_audiocraft(model: nn.Module) -> _Parts:
    known = tp.cast("AudioCraftEncodec", model)
    _refuse("this AudioCraft EncodecModel (renormalize=true)", known.renormalize, None)
    return _seanet_parts(known, _quantize_audiocraft)


def _read_audiocraft_huggingface(model: nn.Module) -> _Parts:
    known = tp.cast("HFEncodecCompressionModel", model)
    index = known.possible_num_codebooks.index(known.num_codebooks)
    return _read_transformers(known.model, known.model.config.target_bandwidths[index])


def _read_transformers(model: nn.Module, bandwidth: float | None = None) -> _Parts:
    config = tp.cast("TransformersEncodec", model).config
    _refuse("this transformers EncodecModel", config.normalize, config.chunk_length_s)
    quantize = functools.partial(_quantize_transformers, bandwidth=bandwidth)
    return _Parts(model, quantize, config.sampling_rate, config.hop_length, config.hidden_size, config.audio_channels)


def _read_encodec(model: nn.Module) -> _Parts:
    known = tp.cast("PackageEncodec", model)
    _refuse(f"the encodec package's {known.sample_rate} Hz model", known.normalize, known.segment)
    return _seanet_parts(known, _quantize_encodec)


def _seanet_parts(model: AudioCraftEncodec | PackageEncodec, quantize: tp.Callable[..., Tensor]) -> _Parts:
    # AudioCraft's class comes from the encodec package's: both name these alike.
    encoder = tp.cast("SEANetEncoder", model.encoder)
    return _Parts(model, quantize, model.sample_rate, int(encoder.hop_length), encoder.dimension, model.channels)


def _quantize_audiocraft(core: nn.Module, embeddings: Tensor) -> Tensor:
    quantizer = tp.cast("AudioCraftEncodec", core).quantizer
    return quantizer.decode(quantizer.encode(embeddings))


def _quantize_transformers(core: nn.Module, embeddings: Tensor, bandwidth: float | None) -> Tensor:
    quantizer = tp.cast("TransformersEncodec", core).quantizer
    return quantizer.decode(quantizer.encode(embeddings, bandwidth))


def _quantize_encodec(core: nn.Module, embeddings: Tensor) -> Tensor:
    known = tp.cast("PackageEncodec", core)
    return known.quantizer.decode(known.quantizer.encode(embeddings, known.frame_rate, known.bandwidth))


# library and class, also a base class -> how to read it
_READERS: dict[str, tp.Callable[[nn.Module], _Parts]] = {
    "audiocraft.EncodecModel": _read_audiocraft,
    "audiocraft.HFEncodecCompressionModel": _read_audiocraft_huggingface,
    "transformers.EncodecModel": _read_transformers,
    "encodec.EncodecModel": _read_encodec,
}
