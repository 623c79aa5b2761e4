"""Samplers: diffusers schedulers behind one function over a callable."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor

from .objective import NoiseSchedule
from .settings import SAMPLERS, check_eta

Denoise = tp.Callable[[Tensor, Tensor], Tensor]
"""denoise(x [B, C, T, F], t [B]) -> the network's prediction [B, C, T, F]."""

StepNoise = tp.Callable[[int], Tensor]
"""step_noise(index of the step) -> standard normal noise [B, C, T, F]."""

_PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


def make_scheduler(sampler: str, schedule: NoiseSchedule, steps: int) -> tp.Any:
    """Return the diffusers scheduler of that name for our noise schedule, its timesteps not set yet.

    Raises:
        ValueError: unknown name; lists the known ones.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r} is unknown: choose one of {', '.join(SAMPLERS)}")
    import diffusers

    name, options = SAMPLERS[sampler]
    if steps == schedule.num_steps and "steps_offset" in options:
        options = {**options, "steps_offset": 0}  # the published offset would start one step beyond the schedule
    return getattr(diffusers, name)(
        num_train_timesteps=schedule.num_steps,
        beta_schedule="scaled_linear",
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        prediction_type=_PREDICTION_TYPES[schedule.prediction],
        **options,
    )


@torch.no_grad()
def sample(
    denoise: Denoise,
    noise: Tensor,
    schedule: NoiseSchedule,
    *,
    sampler: str = "dpmsolver++",
    steps: int = 25,
    eta: float = 0.0,
    step_noise: StepNoise | None = None,
    progress: tp.Callable[[int, int], None] | None = None,
) -> Tensor:
    """Integrate from noise to latents.

    Args:
        denoise: the network (with guidance) as a function of (x, t).
        noise: standard normal start, [B, C, T, F], float32; with `step_noise` all that is random.
        schedule: as in training.
        sampler: a key of `SAMPLERS`.
        steps: number of steps (Heun evaluates the network twice per step).
        eta: noise that each step of `ddim` adds, as a share of the posterior's standard deviation (arXiv 2010.02502,
            eq. 16): 0 = none, 1 = the ancestral sampler of DDPM (published inference).
        step_noise: where that noise comes from; needed where `eta` is above 0.
        progress: called with (evaluations done, evaluations in all).
    Returns:
        Latents [B, C, T, F], float32.
    """
    if not 1 <= steps <= schedule.num_steps:
        raise ValueError(f"steps={steps}: sampling takes between 1 and {schedule.num_steps} steps")
    check_eta(eta, sampler)
    if eta and step_noise is None:
        raise ValueError(f"eta={eta}: pass step_noise, the noise of each step")
    scheduler = make_scheduler(sampler, schedule, steps)
    scheduler.set_timesteps(steps, device=noise.device)
    x = noise.float() * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        prediction = denoise(scheduler.scale_model_input(x, timestep), timestep.expand(len(x)))
        options = {"eta": eta, "variance_noise": step_noise(index)} if eta and step_noise else {}
        x = scheduler.step(prediction.float(), timestep, x, return_dict=False, **options)[0]
        if progress is not None:
            progress(index + 1, len(scheduler.timesteps))
    return x
