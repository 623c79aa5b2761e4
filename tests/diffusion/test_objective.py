"""The forward process and its targets, against closed forms."""

import pytest
import torch

from audiocraft_qamdt.diffusion.objective import PREDICTIONS, DiffusionObjective, NoiseSchedule


def pair(generator):
    latents, noise = (torch.randn(4, 3, 5, 2, generator=generator) for _ in range(2))
    return latents, noise, torch.tensor([0, 10, 500, 999])


def test_schedule_is_the_one_of_diffusers():
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    assert torch.allclose(NoiseSchedule().alphas_cumprod(), reference.alphas_cumprod)


def test_noising_keeps_unit_variance(generator):
    latents, noise = (torch.randn(1, 8, 256, 16, generator=generator) for _ in range(2))
    for step in (0, 300, 999):
        noisy = DiffusionObjective(NoiseSchedule()).add_noise(latents, noise, torch.tensor([step]))
        assert noisy.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noisy_latents_and_target_give_the_latents_back(prediction, generator):
    latents, noise, timesteps = pair(generator)
    objective = DiffusionObjective(NoiseSchedule(prediction=prediction))
    noisy, target = objective.add_noise(latents, noise, timesteps), objective.target(latents, noise, timesteps)
    alpha = objective.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    solved = {"epsilon": (noisy - sigma * target) / alpha, "x0": target, "v": alpha * noisy - sigma * target}[
        prediction
    ]
    assert torch.allclose(solved, latents, atol=2e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weights_are_the_same_loss_on_x0_for_every_prediction(prediction, generator):
    """The same error of x0 must cost the same whatever is predicted (arXiv 2303.09556, sec. 3.4)."""
    latents, noise, timesteps = pair(generator)
    objective = DiffusionObjective(NoiseSchedule(prediction=prediction))
    alpha = objective.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1).double()
    sigma = (1 - alpha**2).sqrt()
    error = torch.randn(latents.shape, generator=generator, dtype=torch.float64)
    scale = {"epsilon": -alpha / sigma, "x0": torch.ones_like(alpha), "v": -1 / sigma}[prediction]
    prediction_with_error = objective.target(latents, noise, timesteps).double() + scale * error
    snr = (alpha / sigma).square().flatten()
    expected = snr.clamp(max=5) * error.square().flatten(1).mean(1)
    loss = objective.loss(prediction_with_error.float(), latents, noise, timesteps)
    assert torch.allclose(loss.double(), expected, rtol=2e-2)


def test_without_gamma_the_loss_is_plain(generator):
    latents, noise, timesteps = pair(generator)
    objective = DiffusionObjective(NoiseSchedule(), snr_gamma=None)
    assert torch.allclose(objective.loss(noise + 2, latents, noise, timesteps), torch.full((4,), 4.0))


def test_perfect_prediction_costs_nothing(generator):
    latents, noise, timesteps = pair(generator)
    objective = DiffusionObjective(NoiseSchedule(prediction="v"))
    assert objective.loss(objective.target(latents, noise, timesteps), latents, noise, timesteps).abs().max() == 0


def test_fixed_timesteps_do_not_depend_on_the_batch_and_cover_the_schedule():
    objective = DiffusionObjective(NoiseSchedule())
    whole = objective.fixed_timesteps(64, 0)
    assert torch.equal(whole, torch.cat([objective.fixed_timesteps(16, offset) for offset in range(0, 64, 16)]))
    assert torch.histc(whole.float(), bins=8, min=0, max=1000).min() >= 6
    assert 0 <= whole.min() and whole.max() < 1000


def test_drawn_timesteps_repeat_and_cover_the_schedule():
    objective = DiffusionObjective(NoiseSchedule())
    first, again = (objective.draw_timesteps(4000, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and first.min() < 5 and first.max() > 994


def test_unknown_prediction_names_the_key():
    with pytest.raises(ValueError, match="diffusion.prediction='flow'.*epsilon, v, x0"):
        NoiseSchedule(prediction="flow")
