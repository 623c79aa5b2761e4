"""Samplers on a case with a closed form: for Gaussian data the exact denoiser is linear."""

import pytest
import torch

from audiocraft_qamdt.diffusion.objective import PREDICTIONS, NoiseSchedule
from audiocraft_qamdt.diffusion.samplers import SAMPLERS, make_scheduler, sample

MEAN, STD = 0.7, 0.5


def exact_denoiser(schedule: NoiseSchedule):
    """E[· | x_t] for data N(MEAN, STD²), in the schedule's parametrisation."""
    signal_shares = schedule.alphas_cumprod().double()

    def denoise(x, t):
        # schedulers may ask between integer steps
        low, high = t.floor().long(), t.ceil().long()
        share = torch.lerp(signal_shares[low], signal_shares[high], (t - low).double()).view(-1, 1, 1, 1)
        alpha, sigma = share.sqrt(), (1 - share).sqrt()
        gain = alpha * STD**2 / (share * STD**2 + sigma**2)
        x0 = MEAN + gain * (x.double() - alpha * MEAN)
        epsilon = (x - alpha * x0) / sigma
        return {"x0": x0, "epsilon": epsilon, "v": alpha * epsilon - sigma * x0}[schedule.prediction].float()

    return denoise


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gaussian_data_is_recovered(sampler, prediction, generator):
    schedule = NoiseSchedule(prediction=prediction)
    noise = torch.randn(64, 2, 16, 4, generator=generator)
    latents = sample(exact_denoiser(schedule), noise, schedule, sampler=sampler, steps=50)
    assert latents.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert latents.std().item() == pytest.approx(STD, rel=0.1)


@pytest.mark.parametrize("sampler", ["dpmsolver++", "unipc", "heun"])
def test_higher_order_samplers_come_close_to_many_ddim_steps(sampler, generator):
    schedule = NoiseSchedule()
    noise = torch.randn(4, 2, 16, 4, generator=generator)
    reference = sample(exact_denoiser(schedule), noise, schedule, sampler="ddim", steps=1000)
    fast = sample(exact_denoiser(schedule), noise, schedule, sampler=sampler, steps=25)
    assert (fast - reference).norm() / reference.norm() < 0.02


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_is_its_items(sampler, generator):
    schedule = NoiseSchedule()
    noise = torch.randn(3, 2, 8, 4, generator=generator)
    together = sample(exact_denoiser(schedule), noise, schedule, sampler=sampler, steps=8)
    alone = torch.cat(
        [sample(exact_denoiser(schedule), item[None], schedule, sampler=sampler, steps=8) for item in noise]
    )
    assert torch.allclose(together, alone, atol=1e-5)


def test_ddim_is_the_published_sampler():
    scheduler = make_scheduler("ddim", NoiseSchedule(), steps=10)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0] and not scheduler.config.clip_sample


def test_progress_counts_evaluations(generator):
    schedule, seen = NoiseSchedule(), []
    sample(
        exact_denoiser(schedule),
        torch.randn(1, 1, 4, 4, generator=generator),
        schedule,
        sampler="heun",
        steps=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(index + 1, 7) for index in range(7)]


def test_bad_settings_are_named():
    noise = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="sampler 'plms' is unknown.*ddim"):
        sample(lambda x, t: x, noise, NoiseSchedule(), sampler="plms")
    with pytest.raises(ValueError, match="steps=0"):
        sample(lambda x, t: x, noise, NoiseSchedule(), steps=0)
