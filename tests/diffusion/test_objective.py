"""The forward process and its targets, against closed forms."""

import pytest
import torch

from audiocraft_qamdt.diffusion.objective import PREDICTIONS, DiffusionObjective, FlowSchedule, NoiseSchedule


def pair(generator):
    latents, noise = (torch.randn(4, 3, 5, 2, generator=generator) for _ in range(2))
    return latents, noise, torch.tensor([0, 10, 500, 999])


def test_schedule_is_the_one_of_diffusers():
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    assert torch.allclose(NoiseSchedule().alphas_cumprod(), reference.alphas_cumprod)


@pytest.mark.parametrize("step", [0, 300, 999])
def test_noising_keeps_unit_variance(generator, step):
    latents, noise = (torch.randn(1, 8, 256, 16, generator=generator) for _ in range(2))
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
    assert 0 <= whole.min()
    assert whole.max() < 1000


def test_drawn_timesteps_repeat_and_cover_the_schedule():
    objective = DiffusionObjective(NoiseSchedule())
    first, again = (objective.draw_timesteps(4000, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.min() < 5
    assert first.max() > 994


def test_unknown_prediction_names_the_key():
    with pytest.raises(ValueError, match="diffusion.prediction='flow'.*epsilon, v, x0"):
        NoiseSchedule(prediction="flow")


SCHEDULES = [NoiseSchedule(), FlowSchedule(), FlowSchedule(shift=3.0)]


@pytest.mark.parametrize("draws", ["uniform", "logit_normal"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["ddpm", "flow", "shifted flow"])
def test_raised_timesteps_are_distributed_as_if_drawn_until_allowed(schedule, draws):
    objective = DiffusionObjective(schedule, timesteps=draws, timesteps_mean=0.4, timesteps_std=1.2)
    generator = torch.Generator().manual_seed(3)
    drawn = objective.draw_timesteps(40000, generator)
    raised = objective.raise_timesteps(drawn, torch.full((40000,), 420.0), generator)
    allowed = drawn[drawn >= 420]
    assert raised.dtype == drawn.dtype
    assert raised.min() >= 420
    assert raised.max() <= 1000
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert raised.double().quantile(share).item() == pytest.approx(allowed.double().quantile(share).item(), abs=8)


def test_timesteps_that_an_item_may_not_teach_go_to_others_of_the_batch_at_random():
    timesteps = torch.tensor([950, 100, 500, 300, 700])
    lowest = torch.tensor([900.0, 600.0, 0.0, 0.0, 600.0])
    generator = torch.Generator().manual_seed(0)
    chosen = torch.stack([DiffusionObjective.allowed_items(timesteps, lowest, generator) for _ in range(2000)])
    assert (chosen[:, [0, 2, 3, 4]] == torch.tensor([0, 2, 3, 4])).all(), "what is allowed stays"
    assert chosen[:, 1].unique().tolist() == [2, 3]
    assert (chosen[:, 1] == 2).double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_timestep_that_no_item_may_teach_stays_with_its_own():
    generator = torch.Generator().manual_seed(0)
    lowest = torch.tensor([900.0, 800.0, 600.0])
    assert DiffusionObjective.allowed_items(torch.tensor([10, 500, 20]), lowest, generator).tolist() == [0, 1, 2]


def test_items_that_were_allowed_keep_their_timestep_and_each_keeps_one():
    objective = DiffusionObjective(NoiseSchedule())
    drawn = torch.tensor([10, 400, 900, 3])
    lowest = torch.tensor([0.0, 399.5, 600.0, 998.5])
    raised = objective.raise_timesteps(drawn, lowest, torch.Generator().manual_seed(0))
    assert raised[:3].tolist() == [10, 400, 900]
    assert raised[3] == 999


def test_the_loss_of_a_batch_has_one_scale_whatever_share_of_it_is_restricted(generator):
    """An error of 2 everywhere costs 4 on average, however many items have a lowest timestep."""
    objective = DiffusionObjective(NoiseSchedule(), snr_gamma=None)
    latents, noise, _ = pair(generator)
    for lowest in ([0.0] * 4, [0.0, 0.0, 900.0, 900.0], [900.0] * 4):
        timesteps = objective.raise_timesteps(
            objective.draw_timesteps(4, generator), torch.tensor(lowest), torch.Generator().manual_seed(0)
        )
        assert objective.loss(noise + 2, latents, noise, timesteps).mean().item() == pytest.approx(4)
