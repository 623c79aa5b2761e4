"""Sampling in few steps, and what a student learns for it: the end of each step by its teacher's shorter ones.

Progressive distillation (arXiv 2202.00512) with guidance inside (arXiv 2210.03142), at once to the last number of
steps: where the student takes one step, the teacher takes several with guidance.
"""

from __future__ import annotations

import math
import typing as tp
from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import FlowSchedule, Schedule

Denoise = tp.Callable[[Tensor, Tensor], Tensor]
"""denoise(x [B, C, T, F], t [B]) -> the network's prediction [B, C, T, F]."""


@dataclass(frozen=True)
class Point:
    """Place between noise and latents, of each item of a batch.

    Args:
        alpha, sigma: shares of signal and noise [B, 1, 1, 1]; sigma is 0 at the end.
        timesteps: [B], as the network gets them; fractions are between two steps of a schedule.
    """

    alpha: Tensor
    sigma: Tensor
    timesteps: Tensor


def angles(schedule: Schedule, steps: int) -> Tensor:
    """Return where steps begin and end [steps + 1]: angles whose tangent is σ/α, evenly spaced from noise to 0."""
    first = math.pi / 2 if isinstance(schedule, FlowSchedule) else math.atan(schedule.largest_ratio())
    return torch.linspace(first, 0.0, steps + 1, dtype=torch.float64)


def point(schedule: Schedule, angle: Tensor) -> Point:
    """Return the place at each angle [B], in float32."""
    cosine, sine = (value.float().view(-1, 1, 1, 1) for value in (angle.cos(), angle.sin()))
    sine = torch.where(angle.view(-1, 1, 1, 1) == 0, 0.0, sine)
    if isinstance(schedule, FlowSchedule):
        alpha, sigma = cosine / (cosine + sine), sine / (cosine + sine)
        return Point(alpha, sigma, sigma.flatten() * schedule.num_steps)
    return Point(cosine, sine, schedule.timesteps_at(angle.tan()).float())


def clean(schedule: Schedule, prediction: Tensor, x: Tensor, at: Point) -> Tensor:
    """Return the clean latents that a prediction for x [B, C, T, F] stands for."""
    if schedule.prediction == "x0":
        return prediction
    if schedule.prediction == "epsilon":
        return (x - at.sigma * prediction) / at.alpha
    return x - at.sigma * prediction if isinstance(schedule, FlowSchedule) else at.alpha * x - at.sigma * prediction


def jump(latents: Tensor, x: Tensor, start: Point, end: Point) -> Tensor:
    """Return the place at `end` on the straight way from x [B, C, T, F] at `start` to clean latents (DDIM, η = 0)."""
    return end.alpha * latents + end.sigma / start.sigma * (x - start.alpha * latents)


def landing(reached: Tensor, x: Tensor, start: Point, end: Point) -> Tensor:
    """Return the clean latents by which `jump` goes from x at `start` to `reached` at `end`."""
    ratio = end.sigma / start.sigma
    return (reached - ratio * x) / (end.alpha - ratio * start.alpha)


def integrate(denoise: Denoise, x: Tensor, schedule: Schedule, way: Tensor, straight: bool = False) -> Tensor:
    """Follow the ODE from x [B, C, T, F] with second-order steps (DPM-Solver++ 2M, arXiv 2211.01095, algorithm 2).

    The first step is of first order, and so is the last one to clean latents.

    Args:
        denoise: the network, with guidance.
        x: at the first angle of its way.
        schedule: as in training.
        way: angles [steps + 1, B].
        straight: take steps of first order, all of them.
    """
    places = [point(schedule, angle) for angle in way]
    before: Tensor | None = None
    for index, (start, end) in enumerate(zip(places, places[1:], strict=False)):
        latents = clean(schedule, denoise(x, start.timesteps).float(), x, start)
        toward = latents
        if before is not None and not straight:
            toward = latents + _share(places[index - 1], start, end) * (latents - before)
        x, before = jump(toward, x, start, end), latents
    return x


def _share(before: Point, start: Point, end: Point) -> Tensor:
    """Return h / (2 h_before), steps h in log α/σ, which extrapolates clean latents; 0 where the last step ends."""
    ends = end.sigma == 0
    logs = [(place.alpha / place.sigma).log() for place in (before, start)]
    last = (end.alpha / torch.where(ends, 1.0, end.sigma)).log()
    return torch.where(ends, 0.0, (last - logs[1]) / (2 * (logs[1] - logs[0])))


@torch.no_grad()
def sample_few(
    denoise: Denoise,
    noise: Tensor,
    schedule: Schedule,
    steps: int,
    progress: tp.Callable[[int, int], None] | None = None,
) -> Tensor:
    """Go from noise [B, C, T, F] to latents by straight steps between `angles`, one evaluation each."""
    x, ways = noise.float(), angles(schedule, steps)
    for index in range(steps):
        start, end = (point(schedule, ways[place].expand(len(x)).to(x.device)) for place in (index, index + 1))
        x = jump(clean(schedule, denoise(x, start.timesteps).float(), x, start), x, start, end)
        if progress is not None:
            progress(index + 1, steps)
    return x


def loss(schedule: Schedule, prediction: Tensor, target: Tensor, x: Tensor, at: Point) -> Tensor:
    """Return the squared error of each item [B], as one of the velocity whatever the network predicts.

    Args:
        prediction: the student's for x [B, C, T, F].
        target: clean latents that it should stand for, see `landing`.
    """
    error = (clean(schedule, prediction, x, at) - target) / at.sigma
    return error.square().flatten(1).mean(dim=1)
