"""A latent codec as AudioCraft's `CompressionModel`, for AudioCraft code that round-trips audio."""

from __future__ import annotations

import torch
from torch import Tensor

from audiocraft_qamdt.utils import prepared

from ..utils.randomness import keyed_generator
from .codec import LatentCodec
from .spectral_vae import FLOOR, FRAME, SpectralVAECodec, amplitude_loss, inverse_stft

import flashy
from audiocraft.models.encodec import CompressionModel
from audiocraft.quantization import DummyQuantizer, QuantizedResult


class LatentCompressionModel(CompressionModel):
    """AudioCraft's interface over `codec`, with continuous latents [B, C, T, F] in place of AudioCraft's codes.

    Args:
        codec: the codec, kept as `.codec`.
    """

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> QuantizedResult:
        """Round trip of audio [B, channels, S]; `codes` are the latents, `bandwidth` counts them as float32 in kb/s."""
        latents = self.codec.encode(x)
        values = self.codec.latent_channels * self.codec.latent_bins
        bandwidth = torch.tensor(32 * values * self.frame_rate / 1000).to(latents)
        return QuantizedResult(self.codec.decode(latents, x.shape[-1]), latents, bandwidth)

    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        """Encode audio [B, channels, S] as (latents [B, C, T, F], no scale)."""
        return self.codec.encode(x), None

    def decode(self, codes: Tensor, scale: Tensor | None = None) -> Tensor:
        """Decode latents [B, C, T, F] to audio [B, channels, all samples they cover].

        Raises:
            ValueError: a scale is given; `encode` never gives one.
        """
        if scale is not None:
            raise ValueError("LatentCompressionModel.decode takes no scale: the latents hold the level")
        return self.codec.decode(codes)

    def decode_latent(self, codes: Tensor) -> Tensor:
        """Return the latents themselves: they are continuous already."""
        return codes

    @property
    def channels(self) -> int:
        """Return the number of audio channels."""
        return self.codec.channels

    @property
    def frame_rate(self) -> float:
        """Return the latent frames per second."""
        return self.codec.frame_rate

    @property
    def sample_rate(self) -> int:
        """Return the audio's sample rate in Hz."""
        return self.codec.sample_rate

    @property
    def num_codebooks(self) -> int:
        """Return 0: the latents are continuous."""
        return 0

    @property
    def total_codebooks(self) -> int:
        """Return 0: the latents are continuous."""
        return 0

    @property
    def cardinality(self) -> int:
        """Refuse: it is not defined for continuous latents."""
        raise NotImplementedError(
            "continuous latents have no codebooks, so no cardinality: a token model such as "
            "MusicGen needs a compression model that quantises"
        )

    def set_num_codebooks(self, n: int) -> None:
        """Refuse: it is not defined for continuous latents."""
        raise NotImplementedError(
            "continuous latents have no codebooks to choose from: leave compression_model_n_q null"
        )


class SpectralVAECompressionModel(LatentCompressionModel):
    """A `SpectralVAE` as AudioCraft's compression solver trains it.

    Args:
        codec: the codec, whose autoencoder is trained.
        kl_weight: of the divergence of a latent number from a standard normal one, in the loss.
        amplitude_weight: of the distance of the amplitudes (see `amplitude_loss`).
        audio_gradient: whether losses of the audio (`mel`, adversaries) reach the weights. Without, they are only
            logged, and a step has one backward pass in place of two.
        autocast: compute the blocks in bfloat16 while training.
    """

    codec: SpectralVAECodec
    steps: Tensor

    def __init__(
        self,
        codec: SpectralVAECodec,
        kl_weight: float,
        amplitude_weight: float = 1.0,
        audio_gradient: bool = True,
        autocast: bool = False,
    ) -> None:
        super().__init__(codec)
        self.kl_weight, self.amplitude_weight = kl_weight, amplitude_weight
        self.audio_gradient, self.autocast = audio_gradient, autocast
        self.quantizer = DummyQuantizer()
        # Counts the steps, which the noise is keyed by: a resumed training repeats the one that never stopped. Floating
        # point, since AudioCraft's moving average keeps nothing else.
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> QuantizedResult:
        """Round trip of audio [B, 1, S] with gradients.

        In training the latents are drawn around their mean, and the audio has the original's phases: no gradient passes
        through the search for phases, and none has to.

        Returns:
            The audio [B, 1, S], the latents [B, C, T], their rate in float32 kb/s, and as `penalty` the weighted KL and
            the loss of the amplitudes.
        Raises:
            ValueError: the audio is not mono, or has samples that are not finite.
            RuntimeError: the loss is not finite, as with weights that diverged.
        """
        if x.shape[1] != self.channels or not x.isfinite().all():
            raise ValueError(f"spectral_vae takes finite mono audio [B, 1, S], not {list(x.shape)}")
        vae = self.codec.vae
        spectrum = vae.spectrum(x)
        log_amplitude = (spectrum.abs() + FLOOR).log()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast and self.training):
            mean, log_variance = vae.encoder(log_amplitude)
            latents = mean + (log_variance / 2).exp() * self._draw(mean) if self.training else mean
            made = vae.decoder(latents)
        error, loss = amplitude_loss(made, log_amplitude)
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2  # arXiv 1312.6114, appendix B
        if self.training:
            phases = spectrum / (spectrum.abs() + FLOOR)
            audio = inverse_stft((made.power() + FLOOR**2).sqrt() * phases, vae.window, FRAME)[:, None]
            audio = audio if self.audio_gradient else audio.detach().requires_grad_()
        else:
            audio = vae.decode(latents)
        bandwidth = torch.tensor(32 * self.codec.latent_channels * self.frame_rate / 1000).to(mean)
        metrics = {"kl": kl.detach(), "amplitude_error": error.detach(), "amplitude_loss": loss.detach()}
        penalty = self.kl_weight * kl + self.amplitude_weight * loss
        if not penalty.isfinite():
            raise RuntimeError(
                f"spectral_vae: the loss is {penalty.item()} at step {int(self.steps)}: start again, which resumes "
                "from the last checkpoint, with a lower optim.lr"
            )
        return QuantizedResult(audio[..., : x.shape[-1]], latents, bandwidth, penalty, metrics)

    def _draw(self, mean: Tensor) -> Tensor:
        generator = keyed_generator("spectral_vae", flashy.distrib.rank(), int(self.steps))
        self.steps += 1
        return torch.randn(mean.shape, generator=generator).to(mean)
