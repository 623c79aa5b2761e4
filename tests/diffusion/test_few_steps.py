"""Few steps: the way from noise to latents, what one step should learn, and that teacher and student agree."""

import math

import pytest
import torch

from audiocraft_qamdt.diffusion import few_steps
from audiocraft_qamdt.diffusion.guidance import guided
from audiocraft_qamdt.diffusion.objective import FlowSchedule, NoiseSchedule
from audiocraft_qamdt.diffusion.samplers import sample
from audiocraft_qamdt.diffusion.settings import FEW_STEPS, Guidance

MEAN, STD = 0.7, 0.5
SCHEDULES = [*(NoiseSchedule(prediction=kind) for kind in ("v", "epsilon", "x0")), FlowSchedule()]


def named(schedule):
    return f"{type(schedule).__name__}-{schedule.prediction}"


def exact_denoiser(schedule):
    """What a perfect network predicts for data N(MEAN, STD²)."""

    def denoise(x, t):
        alpha, sigma = schedule.scales(t)
        latents = MEAN + alpha * STD**2 / ((alpha * STD) ** 2 + sigma**2) * (x - alpha * MEAN)
        noise = (x - alpha * latents) / sigma
        return schedule.target(latents, noise, alpha, sigma)

    return denoise


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_a_place_is_where_the_schedule_has_its_timestep(schedule):
    for angle in few_steps.angles(schedule, 6)[:-1]:
        place = few_steps.point(schedule, angle[None])
        alpha, sigma = schedule.scales(place.timesteps)
        assert torch.allclose(alpha, place.alpha, atol=1e-5)
        assert torch.allclose(sigma, place.sigma, atol=1e-5)
    assert few_steps.point(schedule, torch.zeros(1)).sigma == 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_integration_arrives_at_the_exact_solution(schedule, generator):
    noise = torch.randn(4, 2, 16, 4, generator=generator)
    way = few_steps.angles(schedule, 24)[:, None].expand(-1, 4)
    latents = few_steps.integrate(exact_denoiser(schedule), noise, schedule, way)
    exact = MEAN + STD * noise
    assert (latents - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_jumping_to_where_a_landing_is_from_arrives_there(schedule, generator):
    x, reached = torch.randn(2, 3, 1, 4, 4, generator=generator).unbind()
    bounds = few_steps.angles(schedule, 3)
    start, end = few_steps.point(schedule, bounds[:3]), few_steps.point(schedule, bounds[1:])
    latents = few_steps.landing(reached, x, start, end)
    assert torch.allclose(few_steps.jump(latents, x, start, end), reached, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_a_student_with_its_teachers_steps_has_nothing_to_learn(schedule, generator):
    """One step of the teacher in the place of one of the student: the teacher itself has no loss."""
    x = torch.randn(4, 2, 8, 4, generator=generator)
    bounds = few_steps.angles(schedule, 4)
    way = torch.stack([bounds[:4], bounds[1:]])
    start, end = few_steps.point(schedule, way[0]), few_steps.point(schedule, way[1])
    reached = few_steps.integrate(exact_denoiser(schedule), x, schedule, way)
    target = few_steps.landing(reached, x, start, end)
    prediction = exact_denoiser(schedule)(x, start.timesteps)
    assert few_steps.loss(schedule, prediction, target, x, start).max() < 1e-6


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
def test_steps_of_the_sampler_are_those_that_are_learned(schedule, generator):
    noise = torch.randn(2, 2, 8, 4, generator=generator)
    latents = sample(exact_denoiser(schedule), noise, schedule, sampler=FEW_STEPS, steps=4)
    x, bounds = noise, few_steps.angles(schedule, 4)
    for start, end in zip(bounds, bounds[1:], strict=False):
        x = few_steps.integrate(exact_denoiser(schedule), x, schedule, torch.stack([start, end])[:, None].expand(-1, 2))
    assert torch.equal(latents, x)


def test_steps_are_evenly_spaced_between_noise_and_latents():
    bounds = few_steps.angles(NoiseSchedule(), 4)
    assert torch.allclose(bounds.diff(), bounds.diff()[0].expand(4))
    assert bounds[-1] == 0 and 0 < math.pi / 2 - bounds[0] < 0.02


def test_weights_of_each_item_guide_as_one_weight_for_all(generator):
    x = torch.randn(2, 1, 4, 2, generator=generator)
    branches = {name: {"shift": torch.full((2,), value)} for name, value in (("unconditional", 0.0), ("text", 1.0))}
    branches["conditional"] = {"shift": torch.tensor([2.0, 3.0])}

    def predict(x, t, shift):
        return x * shift.view(-1, 1, 1, 1)

    weights = torch.tensor([[1.5, 2.5], [3.0, 1.0]])
    together = guided(predict, guidance=Guidance(), weights=weights, **branches)(x, torch.zeros(2))
    for item, (text, quality) in enumerate(weights.tolist()):
        alone = guided(predict, guidance=Guidance(guidance_scale=text, quality_scale=quality), **branches)
        assert torch.allclose(together[item], alone(x, torch.zeros(2))[item])
