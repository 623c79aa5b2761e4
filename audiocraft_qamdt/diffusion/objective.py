"""Define the network's training target and loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

PREDICTIONS = ("epsilon", "v", "x0")
TIMESTEPS = ("uniform", "logit_normal")
_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class NoiseSchedule:
    """Variance schedule of the forward process; the defaults are those of the published QA-MDT (config qa_mdt.yaml).

    Args:
        num_steps: number of diffusion steps.
        beta_start, beta_end: first and last variance; their square roots are spaced evenly ("scaled_linear").
        prediction: "epsilon" (noise), "v" (velocity, arXiv 2202.00512) or "x0" (clean latents).
    """

    num_steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"diffusion.prediction={self.prediction!r} is unknown: choose one of {', '.join(PREDICTIONS)}"
            )

    def alphas_cumprod(self) -> Tensor:
        """Return the share of signal variance left after each step: [num_steps], float32, decreasing."""
        betas = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_steps) ** 2
        return torch.cumprod(1 - betas, dim=0)


class DiffusionObjective(nn.Module):
    """Noising, target and weighted squared error. All randomness is handed in.

    Args:
        schedule: the forward process and what is predicted.
        snr_gamma: γ of the min-SNR weighting (arXiv 2303.09556, eq. 5; published QA-MDT: 5). None = unweighted.
        timesteps: how training timesteps are drawn: "uniform" (published) or "logit_normal" (arXiv 2403.03206, 3.1).
        timesteps_mean, timesteps_std: of the logit of the timestep over num_steps; above 0 = more noise.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        schedule: NoiseSchedule,
        snr_gamma: float | None = 5.0,
        timesteps: str = "uniform",
        timesteps_mean: float = 0.0,
        timesteps_std: float = 1.0,
    ) -> None:
        super().__init__()
        if timesteps not in TIMESTEPS:
            raise ValueError(f"diffusion.timesteps={timesteps!r} is unknown: choose one of {', '.join(TIMESTEPS)}")
        self.schedule = schedule
        self.snr_gamma = snr_gamma
        self.timesteps, self.timesteps_mean, self.timesteps_std = timesteps, timesteps_mean, timesteps_std
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod(), persistent=False)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t = α x_0 + σ ε.

        Args:
            latents, noise: [B, C, T, F].
            timesteps: [B], integers in [0, num_steps).
        """
        alpha, sigma = self._scales(timesteps)
        return alpha * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict for `add_noise` of the same arguments: [B, C, T, F]."""
        alpha, sigma = self._scales(timesteps)
        if self.schedule.prediction == "epsilon":
            return noise
        if self.schedule.prediction == "x0":
            return latents
        return alpha * noise - sigma * latents

    def weights(self, timesteps: Tensor) -> Tensor:
        """Return each item's loss weight, [B]: min(SNR, γ) for the predicted quantity (arXiv 2303.09556, sec. 3.4)."""
        signal = self.alphas_cumprod[timesteps]
        snr = signal / (1 - signal)
        if self.snr_gamma is None:
            return torch.ones_like(snr)
        clipped = snr.clamp(max=self.snr_gamma)
        return {"epsilon": clipped / snr, "v": clipped / (snr + 1), "x0": clipped}[self.schedule.prediction]

    def loss(self, prediction: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the weighted mean squared error of each item: [B], float32."""
        error = (prediction.float() - self.target(latents, noise, timesteps)).square().flatten(1).mean(dim=1)
        return error * self.weights(timesteps)

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return training timesteps [batch] on the generator's device."""
        steps = self.schedule.num_steps
        if self.timesteps == "uniform":
            return torch.randint(steps, (batch,), generator=generator, device=generator.device)
        logits = torch.randn(batch, generator=generator, device=generator.device)
        shares = torch.sigmoid(self.timesteps_mean + self.timesteps_std * logits)
        return (shares * steps).long().clamp(max=steps - 1)

    def fixed_timesteps(self, batch: int, offset: int) -> Tensor:
        """Return timesteps [batch] of validation items `offset`, `offset + 1`, …: always the same, spread evenly."""
        index = torch.arange(offset, offset + batch, dtype=torch.float64)
        steps = (index * _GOLDEN_RATIO).frac() * self.schedule.num_steps
        return steps.long().to(self.alphas_cumprod.device)

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        signal = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return signal.sqrt(), (1 - signal).sqrt()
