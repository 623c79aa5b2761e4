"""Samplers: diffusers schedulers behind one function over a callable."""

from __future__ import annotations

import typing as tp

import torch
from torch import Tensor

from .few_steps import Denoise as Denoise
from .few_steps import sample_few
from .objective import FlowSchedule, NoiseSchedule, Schedule
from .settings import FEW_STEPS, FLOW_SAMPLERS, SAMPLERS, check_eta

StepNoise = tp.Callable[[int], Tensor]
"""step_noise(index of the step) -> standard normal noise [B, C, T, F]."""


class Scheduler(tp.Protocol):
    """A diffusers scheduler, as `sample` calls it; only those of flows are asked for their `sigmas`."""

    timesteps: Tensor
    sigmas: Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device | None = None) -> None: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...

    def step(
        self, model_output: Tensor, timestep: Tensor | int, sample: Tensor, *, return_dict: bool, **options: object
    ) -> tuple[Tensor, ...]: ...


_PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


def make_scheduler(sampler: str, schedule: Schedule, steps: int, positions: int = 1) -> Scheduler:
    """Return the diffusers scheduler of that name for our noise schedule, its timesteps not set yet.

    Args:
        sampler: a key of `SAMPLERS`, of `FLOW_SAMPLERS` for a flow.
        schedule: as in training.
        steps: how many steps it will take.
        positions: latent positions T * F of a clip, which the shift of a flow depends on.
    Raises:
        ValueError: unknown name, or one that is not for a flow; lists the known ones.
    """
    _check_sampler(sampler, schedule)
    if isinstance(schedule, FlowSchedule):
        return _flow_scheduler(sampler, schedule, steps, positions)
    return _scheduler(sampler, schedule, steps)


def check_sampling(schedule: Schedule, sampler: str, steps: int, eta: float) -> None:
    """Refuse what `sample` cannot follow.

    Raises:
        ValueError: naming the setting.
    """
    if not 1 <= steps <= schedule.num_steps:
        raise ValueError(f"steps={steps}: sampling takes between 1 and {schedule.num_steps} steps")
    check_eta(eta, sampler)
    if sampler != FEW_STEPS:
        _check_sampler(sampler, schedule)


def _check_sampler(sampler: str, schedule: Schedule) -> None:
    flow = isinstance(schedule, FlowSchedule)
    known, of = (FLOW_SAMPLERS, " for a model of diffusion.schedule.kind=flow") if flow else (SAMPLERS, "")
    if sampler not in known:
        raise ValueError(f"sampler {sampler!r} is unknown{of}: choose one of {', '.join(known)}")


def _flow_scheduler(sampler: str, schedule: FlowSchedule, steps: int, positions: int) -> Scheduler:
    import diffusers

    name, options = FLOW_SAMPLERS[sampler]
    key = "flow_shift" if "use_flow_sigmas" in options else "shift"
    options = {**options, key: schedule.shift_for(positions)}
    scheduler = getattr(diffusers, name)(num_train_timesteps=schedule.num_steps, **options)
    if (
        key == "shift"
    ):  # even steps from 1 to 0; as it comes, the last but one would be a thousandth, a step for nothing
        scheduler.sigma_max, scheduler.sigma_min = 1.0, 1 / steps
    return scheduler


def _scheduler(sampler: str, schedule: NoiseSchedule, steps: int) -> Scheduler:
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
    schedule: Schedule,
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
        sampler: a key of `SAMPLERS`, or `FEW_STEPS`.
        steps: number of steps (Heun evaluates the network twice per step).
        eta: noise that each step of `ddim` adds, as a share of the posterior's standard deviation (arXiv 2010.02502,
            eq. 16): 0 = none, 1 = the ancestral sampler of DDPM (published inference).
        step_noise: where that noise comes from; needed where `eta` is above 0.
        progress: called with (evaluations done, evaluations in all).
    Returns:
        Latents [B, C, T, F], float32.
    """
    check_sampling(schedule, sampler, steps, eta)
    if eta and step_noise is None:
        raise ValueError(f"eta={eta}: pass step_noise, the noise of each step")
    if sampler == FEW_STEPS:
        return sample_few(denoise, noise, schedule, steps, progress)
    scheduler = make_scheduler(sampler, schedule, steps, noise[0, 0].numel())
    scheduler.set_timesteps(steps, device=noise.device)
    predict = _velocity if isinstance(schedule, FlowSchedule) else _prediction
    x = noise.float() * getattr(scheduler, "init_noise_sigma", 1.0)
    for index, timestep in enumerate(scheduler.timesteps):
        prediction = predict(denoise, x, scheduler, index, schedule)
        options = {"eta": eta, "variance_noise": step_noise(index)} if eta and step_noise else {}
        x = scheduler.step(prediction, timestep, x, return_dict=False, **options)[0]
        if progress is not None:
            progress(index + 1, len(scheduler.timesteps))
    return x


def _prediction(denoise: Denoise, x: Tensor, scheduler: Scheduler, index: int, schedule: Schedule) -> Tensor:
    timestep = scheduler.timesteps[index]
    return denoise(scheduler.scale_model_input(x, timestep), timestep.expand(len(x))).float()


def _velocity(denoise: Denoise, x: Tensor, scheduler: Scheduler, index: int, schedule: Schedule) -> Tensor:
    # The exact times: schedulers that are not made for flows round their timesteps.
    time = scheduler.sigmas[index].to(x)
    prediction = denoise(x, (time * schedule.num_steps).expand(len(x))).float()
    return prediction if schedule.prediction == "v" else (x - prediction) / time
