"""Rectified flow: closed forms, samplers on Gaussian data, and everything that is built on a schedule."""

import pytest
import torch

from audiocraft_qamdt.diffusion.objective import (
    FLOW_PREDICTIONS,
    DiffusionObjective,
    FlowSchedule,
    NoiseSchedule,
    make_schedule,
)
from audiocraft_qamdt.diffusion.samplers import make_scheduler, sample
from audiocraft_qamdt.diffusion.settings import FLOW_SAMPLERS, Guidance

MEAN, STD = 0.7, 0.5


def exact_denoiser(schedule: FlowSchedule):
    """What a perfect network predicts for data N(MEAN, STD²)."""

    def denoise(x, t):
        time = (t.double() / schedule.num_steps).view(-1, 1, 1, 1)
        gain = (1 - time) * STD**2 / ((1 - time) ** 2 * STD**2 + time**2)
        latents = MEAN + gain * (x.double() - (1 - time) * MEAN)
        return (latents if schedule.prediction == "x0" else (x - latents) / time).float()

    return denoise


def exact_solution(noise):
    """Where the probability flow takes noise: Gaussian data is a linear map of it."""
    return MEAN + STD * noise


@pytest.mark.parametrize("prediction", FLOW_PREDICTIONS)
@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_samplers_arrive_at_the_exact_solution(sampler, prediction, shift, generator):
    schedule = FlowSchedule(prediction=prediction, shift=shift)
    noise = torch.randn(4, 2, 16, 4, generator=generator)
    errors = []
    for steps in (10, 40):
        latents = sample(exact_denoiser(schedule), noise, schedule, sampler=sampler, steps=steps)
        errors.append(((latents - exact_solution(noise)).norm() / exact_solution(noise).norm()).item())
    assert errors[1] < (0.05 if sampler == "euler" else 0.02), errors
    assert errors[1] < max(errors[0] / 2, 0.01), errors


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_one_straight_path_takes_one_step(sampler, generator):
    """Data of a single point: the velocity is constant, so that a step from noise is exact."""
    schedule, point = FlowSchedule(), 0.3
    noise = torch.randn(2, 2, 4, 4, generator=generator)
    latents = sample(lambda x, t: noise - point, noise, schedule, sampler=sampler, steps=1)
    assert torch.allclose(latents, torch.full_like(latents, point), atol=5e-3)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_a_batch_is_its_items(sampler, generator):
    schedule = FlowSchedule()
    noise = torch.randn(3, 2, 8, 4, generator=generator)
    together = sample(exact_denoiser(schedule), noise, schedule, sampler=sampler, steps=8)
    alone = [sample(exact_denoiser(schedule), item[None], schedule, sampler=sampler, steps=8) for item in noise]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_the_network_is_asked_from_noise_to_clean(sampler, generator):
    seen = []

    def network(x, t):
        seen.append(float(t[0]))
        return torch.zeros_like(x)

    sample(network, torch.randn(1, 1, 4, 4, generator=generator), FlowSchedule(), sampler=sampler, steps=5)
    assert seen[0] == pytest.approx(1000, abs=1)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == pytest.approx(1000 / 5, rel=0.7)  # the last step is a step, and not one from next to nothing


def test_noising_is_a_straight_path_and_the_velocity_its_slope(generator):
    latents, noise = (torch.randn(3, 2, 5, 1, generator=generator) for _ in range(2))
    objective = DiffusionObjective(FlowSchedule())
    times = torch.tensor([0.0, 250.0, 1000.0])
    noisy = objective.add_noise(latents, noise, times)
    assert torch.equal(noisy[0], latents[0])
    assert torch.equal(noisy[2], noise[2])
    assert torch.allclose(noisy[1], 0.75 * latents[1] + 0.25 * noise[1])
    later = objective.add_noise(latents, noise, times + 10)
    assert torch.allclose((later - noisy) * 100, objective.target(latents, noise, times), atol=2e-3)


def test_the_loss_of_clean_latents_is_the_one_of_the_velocity(generator):
    latents, noise, error = (torch.randn(4, 2, 5, 1, generator=generator) for _ in range(3))
    times = torch.tensor([100.0, 300.0, 600.0, 1000.0])
    clean = DiffusionObjective(FlowSchedule(prediction="x0")).loss(latents + error, latents, noise, times)
    velocity = noise - latents - error / (times / 1000).view(-1, 1, 1, 1)  # (x_t − x_0) / t of the wrong x_0
    expected = DiffusionObjective(FlowSchedule()).loss(velocity, latents, noise, times)
    assert torch.allclose(clean, expected, rtol=1e-4)


@pytest.mark.parametrize("timesteps", ["uniform", "logit_normal"])
def test_the_shift_moves_training_as_it_moves_sampling(timesteps):
    drawn = {}
    for shift in (1.0, 3.0):
        objective = DiffusionObjective(FlowSchedule(shift=shift), timesteps=timesteps)
        drawn[shift] = objective.draw_timesteps(20000, torch.Generator().manual_seed(0)) / 1000
    assert drawn[1.0].median().item() == pytest.approx(0.5, abs=0.01)
    assert drawn[3.0].median().item() == pytest.approx(3 * 0.5 / (1 + 2 * 0.5), abs=0.01)
    scheduler = make_scheduler("euler", FlowSchedule(shift=3.0), 2)
    scheduler.set_timesteps(2)
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.75, 0.0], abs=1e-5)


def test_longer_clips_are_shifted_by_the_root_of_their_length():
    schedule = FlowSchedule(shift=1.5, shift_positions=128)
    assert schedule.shift_for(128) == 1.5
    assert schedule.shift_for(512) == 3.0


def test_fixed_timesteps_do_not_depend_on_the_batch():
    objective = DiffusionObjective(FlowSchedule())
    whole = objective.fixed_timesteps(64, 0)
    assert torch.equal(whole, torch.cat([objective.fixed_timesteps(16, offset) for offset in range(0, 64, 16)]))
    assert torch.histc(whole, bins=8, min=0, max=1000).min() >= 6


def test_guidance_up_to_1_acts_on_the_first_step():
    assert Guidance(guidance_interval=(0.2, 1.0)).covers(1.0)
    assert not Guidance(guidance_interval=(0.2, 0.9)).covers(1.0)


def test_one_word_switches_and_bad_words_are_named():
    published = {"num_steps": 1000, "beta_start": 0.0015, "beta_end": 0.0195, "prediction": None}
    assert make_schedule("ddpm", **published, shift=1.0, shift_positions=None) == NoiseSchedule()
    assert make_schedule("flow", **published, shift=1.0, shift_positions=None) == FlowSchedule()
    with pytest.raises(ValueError, match="schedule.kind='edm' is unknown: choose one of ddpm, flow"):
        make_schedule("edm")
    with pytest.raises(ValueError, match="schedule.prediction='epsilon' does not go with kind=flow"):
        make_schedule("flow", prediction="epsilon")
    with pytest.raises(ValueError, match="schedule.shift=2.0 needs kind=flow"):
        make_schedule("ddpm", shift=2.0)
    with pytest.raises(ValueError, match="schedule.shift=-1"):
        make_schedule("flow", shift=-1)
    with pytest.raises(ValueError, match="sampler 'ddim' is unknown for a model of .*kind=flow: choose one of euler"):
        sample(lambda x, t: x, torch.zeros(1, 1, 2, 2), FlowSchedule(), sampler="ddim")
