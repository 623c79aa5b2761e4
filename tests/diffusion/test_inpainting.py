"""What is known stays, for every sampler and parametrisation, and what is made is made in its sight."""

from __future__ import annotations

import pytest
import torch

from audiocraft_qamdt.diffusion.inpainting import keeping
from audiocraft_qamdt.diffusion.objective import FLOW_PREDICTIONS, PREDICTIONS, FlowSchedule, NoiseSchedule
from audiocraft_qamdt.diffusion.samplers import SAMPLERS, sample
from audiocraft_qamdt.diffusion.settings import FLOW_SAMPLERS

SCHEDULES = [(NoiseSchedule(prediction=prediction), SAMPLERS) for prediction in PREDICTIONS]
SCHEDULES += [(FlowSchedule(prediction=prediction), FLOW_SAMPLERS) for prediction in FLOW_PREDICTIONS]


@pytest.mark.parametrize(
    "schedule, sampler",
    [(schedule, sampler) for schedule, samplers in SCHEDULES for sampler in samplers],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}-{value.prediction}",
)
def test_known_frames_come_back(schedule, sampler, generator):
    known, noise = torch.randn(2, 2, 3, 16, 4, generator=generator).unbind()
    kept = torch.arange(16) < 10
    denoise = keeping(lambda x, t: torch.zeros_like(x), known, kept, schedule)
    latents = sample(denoise, noise, schedule, sampler=sampler, steps=20)
    # The published sampler ends at the first of the schedule's noise levels, 0.039, instead of at none.
    assert torch.allclose(latents[:, :, kept], known[:, :, kept], atol=0.2 if sampler == "ddim" else 0.02)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_network_sees_the_known_frames_at_the_noise_level_of_the_step(sampler, generator):
    """The noise that is left in what it sees has the deviation σ, and nothing else is in it."""
    schedule, seen = NoiseSchedule(prediction="v"), []
    known = torch.full((1, 4, 64, 8), 2.0)
    signal = schedule.alphas_cumprod()

    def network(x, t):
        share = torch.lerp(signal[t.floor().long()], signal[t.ceil().long()], (t - t.floor()).float())
        alpha, sigma = share.sqrt(), (1 - share).sqrt()
        seen.append(((x - alpha * known).std() / sigma).item())
        return torch.zeros_like(x)

    noise = torch.randn(known.shape, generator=generator)
    sample(keeping(network, known, torch.ones(64).bool(), schedule), noise, schedule, sampler=sampler, steps=10)
    # dpmsolver++ rounds the timesteps that it tells, which is much of the last ones.
    tolerance = 0.2 if sampler == "dpmsolver++" else 0.06
    assert all(value == pytest.approx(1, abs=tolerance) for value in seen), seen
