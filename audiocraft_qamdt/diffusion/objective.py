"""Define the forward process, the network's training target and the loss."""

from __future__ import annotations

import math
import typing as tp
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PREDICTIONS = ("epsilon", "v", "x0")
FLOW_PREDICTIONS = ("v", "x0")
SMALLEST_TIME = 0.05
"""Below this time the loss of clean latents, as one on the velocity, grows no more (arXiv 2511.13720, section 4)."""
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

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return α and σ, [B, 1, 1, 1], also between steps, where diffusers' schedulers interpolate log σ/α."""
        log_sigmas = self._log_ratios().to(timesteps.device)
        low, high = timesteps.floor().long(), timesteps.ceil().long()
        share = (timesteps - low).to(log_sigmas.dtype)
        between = torch.lerp(log_sigmas[low], log_sigmas[high], share).view(-1, 1, 1, 1)
        return torch.sigmoid(-2 * between).sqrt(), torch.sigmoid(2 * between).sqrt()

    def timestep_at(self, ratio: float) -> float:
        """Return the first timestep whose σ/α is at least `ratio`, the last one where none is."""
        signal = self.alphas_cumprod()
        ratios = ((1 - signal) / signal).sqrt()
        return float(min(int((ratios < ratio).sum()), self.num_steps - 1))

    def largest_ratio(self) -> float:
        """Return σ/α of the last timestep."""
        return float(self._log_ratios()[-1].exp())

    def timesteps_at(self, ratios: Tensor) -> Tensor:
        """Return the timesteps of σ/α, between two steps by log σ/α as in `scales`; those outside are clamped."""
        known = self._log_ratios().to(ratios)
        wanted = ratios.log().clamp(known[0], known[-1])
        above = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        return above - 1 + (wanted - low) / (high - low)

    def _log_ratios(self) -> Tensor:
        signal = self.alphas_cumprod()
        return 0.5 * ((1 - signal) / signal).log()

    def target(self, latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should predict, of the shape of `latents`."""
        if self.prediction == "v":
            return alpha * noise - sigma * latents
        return noise if self.prediction == "epsilon" else latents


@dataclass(frozen=True)
class FlowSchedule:
    """Straight paths x_t = (1 − t) x_0 + t ε (rectified flow, arXiv 2209.03003), t from 0 (clean) to 1 (noise).

    Args:
        num_steps: what the network gets as its timestep is t * num_steps, as from diffusers' flow schedulers.
        prediction: "v" (velocity ε − x_0) or "x0" (clean latents, with the loss on the velocity: arXiv 2511.13720).
        shift: s of t' = s t / (1 + (s − 1) t); above 1 = more noise, in training and in sampling.
        shift_positions: latent positions T * F of a clip that `shift` is meant for; others take
            s = shift * sqrt(T * F / shift_positions) (arXiv 2403.03206, eq. 23). None = `shift` for all.
    """

    num_steps: int = 1000
    prediction: str = "v"
    shift: float = 1.0
    shift_positions: int | None = None

    def __post_init__(self) -> None:
        if self.prediction not in FLOW_PREDICTIONS:
            raise ValueError(
                f"diffusion.schedule.prediction={self.prediction!r} does not go with kind=flow: choose one of "
                f"{', '.join(FLOW_PREDICTIONS)}, or null for {FLOW_PREDICTIONS[0]}"
            )
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise ValueError(f"diffusion.schedule.shift={self.shift}: it must be above 0; 1 = none")
        if self.shift_positions is not None and self.shift_positions < 1:
            raise ValueError(f"diffusion.schedule.shift_positions={self.shift_positions}: it must be 1 or more")

    def shift_for(self, positions: int) -> float:
        """Return s for clips of that many latent positions."""
        return self.shift if self.shift_positions is None else self.shift * math.sqrt(positions / self.shift_positions)

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of signal and of noise, [B, 1, 1, 1]."""
        time = (timesteps / self.num_steps).view(-1, 1, 1, 1)
        return 1 - time, time

    def timestep_at(self, ratio: float) -> float:
        """Return the timestep whose σ/α is `ratio`."""
        return ratio / (1 + ratio) * self.num_steps

    def target(self, latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should predict, of the shape of `latents`."""
        return latents if self.prediction == "x0" else noise - latents


Schedule = NoiseSchedule | FlowSchedule
SCHEDULES: dict[str, tp.Callable[..., Schedule]] = {"ddpm": NoiseSchedule, "flow": FlowSchedule}
"""`diffusion.schedule.kind`."""


def make_schedule(kind: str = "ddpm", **values: float | str | None) -> Schedule:
    """Return the schedule of that kind; what only the other kind has is left out, and None is the kind's default.

    Raises:
        ValueError: an unknown kind or prediction, or a shift for the kind that has none.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"diffusion.schedule.kind={kind!r} is unknown: choose one of {', '.join(SCHEDULES)}")
    if kind == "ddpm" and (values.get("shift") or 1.0) != 1.0:
        raise ValueError(f"diffusion.schedule.shift={values['shift']} needs kind=flow")
    foreign = ("shift", "shift_positions") if kind == "ddpm" else ("beta_start", "beta_end")
    return SCHEDULES[kind](**{key: value for key, value in values.items() if value is not None and key not in foreign})


class DiffusionObjective(nn.Module):
    """Noising, target and weighted squared error. All randomness is handed in.

    Args:
        schedule: the forward process and what is predicted.
        snr_gamma: γ of the min-SNR weighting (arXiv 2303.09556, eq. 5; published QA-MDT: 5). None = unweighted. A flow
            has none.
        timesteps: how training timesteps are drawn: "uniform" (published) or "logit_normal" (arXiv 2403.03206, 3.1).
        timesteps_mean, timesteps_std: of the logit of the timestep over num_steps; above 0 = more noise.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        schedule: Schedule,
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
        table = schedule.alphas_cumprod() if isinstance(schedule, NoiseSchedule) else torch.zeros(0)
        self.register_buffer("alphas_cumprod", table, persistent=False)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t = α x_0 + σ ε.

        Args:
            latents, noise: [B, C, T, F].
            timesteps: [B], integers in [0, num_steps), of a flow numbers in [0, num_steps].
        """
        alpha, sigma = self._scales(timesteps)
        return alpha * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict for `add_noise` of the same arguments: [B, C, T, F]."""
        return self.schedule.target(latents, noise, *self._scales(timesteps))

    def weights(self, timesteps: Tensor) -> Tensor:
        """Return each item's loss weight, [B]: min(SNR, γ) for the predicted quantity (arXiv 2303.09556, sec. 3.4).

        Of a flow's clean latents: that of the velocity's error, which is theirs over t.
        """
        if isinstance(self.schedule, FlowSchedule):
            time = timesteps / self.schedule.num_steps
            return torch.ones_like(time) if self.schedule.prediction == "v" else time.clamp(min=SMALLEST_TIME) ** -2
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

    def draw_timesteps(self, batch: int, generator: torch.Generator, positions: int = 1) -> Tensor:
        """Return training timesteps [batch] on the generator's device.

        Args:
            batch: how many.
            generator: where the randomness comes from.
            positions: latent positions T * F of an item, which the shift of a flow depends on.
        """
        steps, device = self.schedule.num_steps, generator.device
        if self.timesteps == "logit_normal":
            logits = torch.randn(batch, generator=generator, device=device)
            shares = torch.sigmoid(self.timesteps_mean + self.timesteps_std * logits)
        elif isinstance(self.schedule, FlowSchedule):
            shares = torch.rand(batch, generator=generator, device=device)
        else:
            return torch.randint(steps, (batch,), generator=generator, device=device)
        timesteps = self._timesteps(shares, positions)
        return timesteps if isinstance(self.schedule, FlowSchedule) else timesteps.long()

    def raise_timesteps(
        self, timesteps: Tensor, lowest: Tensor, generator: torch.Generator, positions: int = 1
    ) -> Tensor:
        """Draw the timesteps below their lowest again, from the same distribution within [lowest, num_steps).

        What comes out is distributed as if `draw_timesteps` was repeated until it gave an allowed timestep; the others
        stay as they are. Every item keeps one timestep, so that the mean loss of a batch stays a mean over all of it.

        Args:
            timesteps: [B], of `draw_timesteps`.
            lowest: [B], in [0, num_steps).
            generator: where the randomness comes from, one number for each item.
            positions: as in `draw_timesteps`.
        """
        steps = self.schedule.num_steps
        flow = isinstance(self.schedule, FlowSchedule)
        lowest = lowest if flow else lowest.ceil()
        uniform = torch.rand(len(timesteps), generator=generator, device=generator.device)
        start = self._cumulative(self._share_of(lowest / steps, positions))
        again = self._timesteps(self._quantile(start + uniform * (1 - start)), positions)
        again = again.clamp(lowest, torch.full_like(lowest, steps if flow else steps - 1)).to(timesteps.dtype)
        return torch.where(timesteps < lowest, again, timesteps)

    @staticmethod
    def allowed_items(timesteps: Tensor, lowest: Tensor, generator: torch.Generator) -> Tensor:
        """Give each timestep an item that is allowed there: its own, else any other of the batch.

        So every noise level that the batch holds an item for is trained as often as without lowest timesteps (the idea
        of Ambient Diffusion Omni, arXiv 2506.10038). Where it holds none, the item stays, for `raise_timesteps`.

        Args:
            timesteps: [B], of `draw_timesteps`.
            lowest: [B], of each item.
            generator: where the randomness comes from, B numbers for each timestep.
        Returns:
            indices into the batch, [B].
        """
        batch = len(timesteps)
        own = torch.eye(batch, device=generator.device)
        random = torch.rand(batch, batch, generator=generator, device=generator.device)
        allowed = timesteps[:, None] >= lowest[None]
        # In this order: its own and allowed, another and allowed, its own and not, another and not.
        return torch.where(allowed, random + own, own - 2).argmax(dim=1)

    def _share_of(self, time: Tensor, positions: int) -> Tensor:
        """Return the share that `_timesteps` makes a time in [0, 1] of."""
        if not isinstance(self.schedule, FlowSchedule):
            return time
        shift = self.schedule.shift_for(positions)
        return time / (shift - (shift - 1) * time)

    def _timesteps(self, shares: Tensor, positions: int) -> Tensor:
        steps = self.schedule.num_steps
        if isinstance(self.schedule, FlowSchedule):
            shift = self.schedule.shift_for(positions)
            return shift * shares / (1 + (shift - 1) * shares) * steps
        return (shares * steps).floor().clamp(max=steps - 1)

    def _cumulative(self, shares: Tensor) -> Tensor:
        """Return the probability that a drawn share is lower."""
        if self.timesteps == "uniform":
            return shares
        return torch.special.ndtr((torch.logit(shares) - self.timesteps_mean) / self.timesteps_std)

    def _quantile(self, probabilities: Tensor) -> Tensor:
        """Undo `_cumulative`."""
        if self.timesteps == "uniform":
            return probabilities
        return torch.sigmoid(self.timesteps_mean + self.timesteps_std * torch.special.ndtri(probabilities))

    def fixed_timesteps(self, batch: int, offset: int) -> Tensor:
        """Return timesteps [batch] of validation items `offset`, `offset + 1`, …: always the same, spread evenly."""
        index = torch.arange(offset, offset + batch, dtype=torch.float64)
        steps = (index * _GOLDEN_RATIO).frac() * self.schedule.num_steps
        steps = steps.float() if isinstance(self.schedule, FlowSchedule) else steps.long()
        return steps.to(self.alphas_cumprod.device)

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.schedule, FlowSchedule):
            return self.schedule.scales(timesteps)
        signal = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return signal.sqrt(), (1 - signal).sqrt()
