"""Log-mel spectrogram, AutoencoderKL and HiFi-GAN: the latents that AudioLDM and the published QA-MDT diffuse."""

from __future__ import annotations

import math
import typing as tp
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL
from torch import Tensor, nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from ..utils.reading import JsonObject
from .codec import LatentCodec, frozen
from .mel_vae_weights import load_vae, load_vocoder, read_checkpoint, vae_weights, vocoder_weights

if tp.TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

PUBLISHED_VAE: JsonObject = {
    "in_channels": 1,
    "out_ch": 1,
    "ch": 128,
    "ch_mult": [1, 2, 4],
    "num_res_blocks": 2,
    "z_channels": 8,
    "double_z": True,
    "attn_resolutions": [],
}
"""`ddconfig` of the published training configuration, without what the network's shape does not depend on."""

PUBLISHED_VOCODER: JsonObject = {
    "resblock": "1",
    "num_mels": 64,
    "sampling_rate": 16000,
    "upsample_initial_channel": 1024,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
}
"""`hifigan_16k_64bins.json` of AudioLDM, without its training options."""


def normalize_waveform(audio: Tensor, peak: float = 0.5) -> Tensor:
    """Remove the mean and scale to the peak, each item and channel of [..., S] by itself, as the published loader does.

    The level is lost with it: decoded audio peaks near 0.5 whatever came in.
    """
    audio = audio - audio.mean(dim=-1, keepdim=True)
    return peak * audio / (audio.abs().amax(dim=-1, keepdim=True) + 1e-8)


class LogMel(nn.Module):
    """Log-mel spectrogram with HiFi-GAN's conventions: reflected by (n_fft - hop) / 2, frames not centred, natural log.

    Args:
        sample_rate: of the audio, in Hz; the mel bands span 0 to half of it.
        mel_bins: M.
        n_fft: FFT and Hann window, in samples.
        hop_length: samples per frame.
        floor: smallest mel magnitude, before the log.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        mel_bins: int = 64,
        n_fft: int = 1024,
        hop_length: int = 160,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.floor = floor
        # Not persistent: they follow from the arguments.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, n_fft, mel_bins), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Compute natural log mel magnitudes [B, S // hop_length, M] of audio [B, S].

        Raises:
            ValueError: audio too short to be reflected.
        """
        padding = (self.n_fft - self.hop_length) // 2
        if audio.shape[-1] <= padding:
            raise ValueError(f"LogMel needs more than {padding} samples, not {audio.shape[-1]}: pad the audio")
        audio = F.pad(audio[:, None], (padding, padding), mode="reflect")[:, 0]
        spectrum = torch.stft(audio, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True)
        mel = self.filters @ spectrum.abs()  # [B, M, T]
        return mel.clamp(min=self.floor).log().transpose(1, 2)  # [B, T, M]


def mel_filters(sample_rate: int, n_fft: int, mel_bins: int) -> Tensor:
    """Make triangular filters [mel_bins, n_fft // 2 + 1] of unit area on Slaney's mel scale, from 0 Hz to Nyquist.

    Slaney, "Auditory Toolbox" (1998): linear up to 1 kHz in steps of 200/3 Hz, then 27 mels per factor of 6.4.
    """
    linear, step = 15.0, math.log(6.4) / 27
    top = linear + math.log(sample_rate / 2 / 1000) / step
    mels = torch.linspace(0, top, mel_bins + 2, dtype=torch.float64)
    hertz = torch.where(mels < linear, mels * 200 / 3, 1000 * torch.exp(step * (mels - linear)))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    low, centre, high = (edge[:, None] for edge in (hertz[:-2], hertz[1:-1], hertz[2:]))
    triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    return (triangles * 2 / (high - low)).float()


class _VAEShape(tp.Protocol):
    """Fields of `AutoencoderKL.config` that the codec depends on."""

    in_channels: int
    out_channels: int
    latent_channels: int
    block_out_channels: tp.Sequence[int]


class MelVAECodec(LatentCodec):
    """Log-mel, VAE, vocoder. With the published sizes: 16 kHz, C = 8, F = 16, 25 Hz; 10.24 s is 8 x 256 x 16.

    Audio is padded with silence to whole latent frames, and the decoded audio is cropped.

    Args:
        vae: over [B, 1, T, M] log-mels. Both networks are frozen in place.
        vocoder: from [B, T, M] log-mels; its configuration gives the sample rate, M and the hop.
        scale_factor: what latents are multiplied by before diffusion; None = not known, see `estimate_statistics`.
        normalize: apply `normalize_waveform` before encoding. The published networks were trained on such audio, and
            the level is lost; without, the level stays.
        n_fft: of the log-mel, in samples.
    Raises:
        ValueError: networks that do not fit each other.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        vocoder: SpeechT5HifiGan,
        scale_factor: float | None = None,
        normalize: bool = False,
        n_fft: int = 1024,
    ) -> None:
        shape = tp.cast(_VAEShape, vae.config)
        mel_bins, mel_hop = vocoder.config.model_in_dim, math.prod(vocoder.config.upsample_rates)
        downsampling = 2 ** (len(shape.block_out_channels) - 1)
        if (shape.in_channels, shape.out_channels) != (1, 1) or mel_bins % downsampling:
            raise ValueError(
                f"mel_vae: the VAE must have 1 channel in and out, not {shape.in_channels} and "
                f"{shape.out_channels}, and the vocoder's {mel_bins} mel bins must be a multiple of "
                f"its downsampling, {downsampling}"
            )
        super().__init__(
            vocoder.config.sampling_rate,
            mel_hop * downsampling,
            shape.latent_channels,
            latent_bins=mel_bins // downsampling,
        )
        self.log_mel = LogMel(self.sample_rate, mel_bins, n_fft, mel_hop)
        self.vae = vae.eval().float().requires_grad_(False)
        self.vocoder = vocoder.eval().float().requires_grad_(False)
        self.normalize = normalize
        if scale_factor is not None:
            self.statistics.set(0.0, 1 / scale_factor, count=1)  # not 0, so that they are not estimated again

    @classmethod
    def from_audioldm(cls, folder_or_hub_id: str | Path, normalize: bool = False) -> MelVAECodec:
        """Load from an AudioLDM pipeline: a local folder with `vae/` and `vocoder/`, or a hub id.

        Raises:
            FileNotFoundError: a local folder without one of the two.
        """
        folder = Path(folder_or_hub_id)
        for name in ("vae", "vocoder"):
            if folder.is_dir() and not (folder / name / "config.json").is_file():
                raise FileNotFoundError(
                    f"{folder / name / 'config.json'} is missing: an AudioLDM pipeline has the "
                    "subfolders vae/ and vocoder/"
                )
        vae = AutoencoderKL.from_pretrained(folder_or_hub_id, subfolder="vae")
        vocoder = SpeechT5HifiGan.from_pretrained(folder_or_hub_id, subfolder="vocoder")
        return cls(vae, vocoder, vae.config.scaling_factor, normalize)

    @classmethod
    def from_official(
        cls,
        vae_checkpoint: str | Path,
        vocoder_checkpoint: str | Path,
        vae_config: JsonObject | None = None,
        vocoder_config: JsonObject | None = None,
        scale_factor: float | None = None,
        normalize: bool = False,
    ) -> MelVAECodec:
        """Load the published single files, .ckpt (tensors only, nothing is unpickled) or .safetensors.

        Args:
            vae_checkpoint: CompVis-style keys under `first_stage_model.`, or without prefix.
            vocoder_checkpoint: HiFi-GAN keys under `generator.` or `first_stage_model.vocoder.`, with weight norm or
                without.
            vae_config: its `ddconfig`; None = the published one, as wide as the weights are.
            vocoder_config: its `hifigan_*.json`; None = the published one, as wide as the weights are.
            scale_factor: None = `scale_factor` of the VAE's checkpoint, where it has one.
            normalize: see the class.
        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is not a checkpoint of tensors; a key that is missing, too many, of another shape or
                not finite.
        """
        state = read_checkpoint(vae_checkpoint)
        if scale_factor is None and "scale_factor" in state:
            scale_factor = float(state["scale_factor"])
        weights = vae_weights(state)
        vae_config = vae_config or _as_wide(PUBLISHED_VAE, "ch", weights, "encoder.conv_in.weight")
        vae = build_vae(vae_config)
        load_vae(vae, weights, len(vae_config["ch_mult"]), vae_checkpoint)
        weights = vocoder_weights(read_checkpoint(vocoder_checkpoint))
        width = "upsample_initial_channel"
        vocoder_config = vocoder_config or _as_wide(PUBLISHED_VOCODER, width, weights, "conv_pre.weight")
        vocoder = build_vocoder(vocoder_config)
        load_vocoder(vocoder, weights, vocoder_checkpoint)
        return cls(vae, vocoder, scale_factor, normalize)

    @frozen
    def encode(self, audio: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode audio to the mean of the VAE's posterior, or to a sample of it.

        Args:
            audio: [B, 1, S].
            noise: standard normal [B, C, T, F], to sample with; None = the mean.
        Returns:
            Latents [B, C, T, F].
        Raises:
            ValueError: audio or noise of another shape.
        """
        if noise is None:
            return super().encode(audio)
        posterior = self._posterior(self._checked_audio(audio))
        if noise.shape != posterior.mean.shape:
            raise ValueError(f"mel_vae: noise must be {list(posterior.mean.shape)}, not {list(noise.shape)}")
        return self.statistics.normalize(posterior.mean + posterior.std * noise)

    def _encode(self, audio: Tensor) -> Tensor:
        return self._posterior(audio).mean  # [B, C, T, F]

    def _decode(self, latents: Tensor) -> Tensor:
        mel = self.vae.decode(latents).sample[:, 0]  # [B, 4 T, M]
        return self.vocoder(mel)[:, None, : latents.shape[2] * self.hop_length]  # [B, 1, S]

    def _posterior(self, audio: Tensor) -> DiagonalGaussianDistribution:
        audio = normalize_waveform(audio) if self.normalize else audio
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        return self.vae.encode(self.log_mel(audio[:, 0])[:, None]).latent_dist  # over [B, 1, 4 T, M]


def build_vae(config: JsonObject) -> AutoencoderKL:
    """Build an AutoencoderKL with fresh weights from a CompVis `ddconfig`.

    Raises:
        ValueError: attention outside the middle, or a deterministic encoder.
    """
    if config.get("attn_resolutions") or not config["double_z"]:
        raise ValueError("ddconfig: only attn_resolutions: [] and double_z: true are supported")
    widths = [config["ch"] * factor for factor in config["ch_mult"]]
    return AutoencoderKL(
        config["in_channels"],
        config["out_ch"],
        ("DownEncoderBlock2D",) * len(widths),
        ("UpDecoderBlock2D",) * len(widths),
        widths,
        config["num_res_blocks"],
        latent_channels=config["z_channels"],
    )


def build_vocoder(config: JsonObject) -> SpeechT5HifiGan:
    """Build a HiFi-GAN generator with fresh weights from its published JSON.

    Raises:
        ValueError: residual blocks of type 2.
    """
    if str(config.get("resblock", "1")) != "1":
        raise ValueError(f"HiFi-GAN resblock {config['resblock']!r} is not supported, only '1'")
    names = (
        "upsample_rates",
        "upsample_kernel_sizes",
        "upsample_initial_channel",
        "resblock_kernel_sizes",
        "resblock_dilation_sizes",
    )
    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=config["num_mels"],
            sampling_rate=config.get("sampling_rate", 16000),
            leaky_relu_slope=0.1,
            normalize_before=False,
            **{name: config[name] for name in names},
        )
    )


def _as_wide(config: JsonObject, key: str, weights: tp.Mapping[str, Tensor], first: str) -> JsonObject:
    """Return a configuration with the width that a network's first layer has, where there is that layer."""
    return {**config, key: weights[first].shape[0]} if first in weights else config
