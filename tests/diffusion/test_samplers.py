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


def test_ddim_has_the_published_timesteps_and_last_step():
    scheduler = make_scheduler("ddim", NoiseSchedule(), steps=10)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]
    assert not scheduler.config.clip_sample


def published_ddim(denoise, noise, schedule, steps, eta, step_noise):
    """DDIM from its paper (arXiv 2010.02502, eq. 12 and 16), in float64, over the published timesteps."""
    shares = schedule.alphas_cumprod().double()
    timesteps = [index * (schedule.num_steps // steps) + 1 for index in range(steps)]
    x = noise.double()
    for index, step in enumerate(reversed(range(steps))):
        now, before = shares[timesteps[step]], shares[timesteps[step - 1]] if step else shares[0]
        epsilon = denoise(x.float(), torch.full((len(x),), timesteps[step])).double()
        sigma = eta * ((1 - before) / (1 - now)).sqrt() * (1 - now / before).sqrt()
        x0 = (x - (1 - now).sqrt() * epsilon) / now.sqrt()
        x = before.sqrt() * x0 + (1 - before - sigma**2).sqrt() * epsilon + sigma * step_noise(index)
    return x


def drawn(shape, steps: int, generator):
    noises = torch.randn(steps, *shape, generator=generator)
    return lambda index: noises[index]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_an_independent_implementation_of_it(eta, generator):
    schedule, shape = NoiseSchedule(), (2, 2, 8, 4)
    noise, step_noise = torch.randn(shape, generator=generator), drawn(shape, 20, generator)
    denoise = exact_denoiser(schedule)
    made = sample(denoise, noise, schedule, sampler="ddim", steps=20, eta=eta, step_noise=step_noise)
    expected = published_ddim(denoise, noise, schedule, 20, eta, step_noise)
    assert (made - expected).norm() / expected.norm() < 1e-5


def test_eta_of_zero_changes_no_digit(generator):
    schedule, shape = NoiseSchedule(), (2, 2, 8, 4)
    noise, step_noise = torch.randn(shape, generator=generator), drawn(shape, 8, generator)
    plain = sample(exact_denoiser(schedule), noise, schedule, sampler="ddim", steps=8)
    with_zero = sample(
        exact_denoiser(schedule), noise, schedule, sampler="ddim", steps=8, eta=0.0, step_noise=step_noise
    )
    assert torch.equal(plain, with_zero)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("index", [0, 5, 9])
def test_a_step_adds_noise_of_the_variance_in_closed_form(eta, index, generator):
    """With the same prediction, what a step's noise changes has the standard deviation η σ̃ of eq. 16."""
    schedule, shape = NoiseSchedule(), (1, 1, 64, 64)
    scheduler = make_scheduler("ddim", schedule, 10)
    scheduler.set_timesteps(10)
    timestep = scheduler.timesteps[index]
    x, prediction, drawn_noise = torch.randn(3, *shape, generator=generator)
    step = lambda noise: scheduler.step(prediction, timestep, x, eta=eta, variance_noise=noise, return_dict=False)[0]  # noqa: E731
    shares = schedule.alphas_cumprod()
    now, before = shares[timestep], shares[max(0, int(timestep) - 100)]
    sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
    added = step(drawn_noise) - step(torch.zeros(shape))
    assert torch.allclose(added, sigma * drawn_noise, atol=1e-5)
    assert added.std().item() == pytest.approx(sigma.item(), rel=0.05)


def test_the_ancestral_sampler_recovers_gaussian_data(generator):
    schedule, shape = NoiseSchedule(), (64, 2, 16, 4)
    noise, step_noise = torch.randn(shape, generator=generator), drawn(shape, 200, generator)
    latents = sample(
        exact_denoiser(schedule), noise, schedule, sampler="ddim", steps=200, eta=1.0, step_noise=step_noise
    )
    assert latents.mean().item() == pytest.approx(MEAN, abs=0.05)
    assert latents.std().item() == pytest.approx(STD, rel=0.1)


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
    with pytest.raises(ValueError, match="eta=1.0: sampler=euler adds no noise, set sampler=ddim or eta=0"):
        sample(lambda x, t: x, noise, NoiseSchedule(), sampler="euler", eta=1.0)
    with pytest.raises(ValueError, match="eta=1.5: it is a share"):
        sample(lambda x, t: x, noise, NoiseSchedule(), sampler="ddim", eta=1.5)
    with pytest.raises(ValueError, match="pass step_noise"):
        sample(lambda x, t: x, noise, NoiseSchedule(), sampler="ddim", eta=1.0)
