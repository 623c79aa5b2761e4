"""Combining branches: the weights' special cases, and diffusers' guiders as the reference."""

from __future__ import annotations

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import AdaptiveProjectedGuidance, MomentumBuffer
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance

from audiocraft_qamdt.diffusion.guidance import Combination, Guidance, guided, limit, project, rescale


@pytest.fixture
def branches(generator):
    """Predictions without conditions, with the text, with text and quality."""
    return torch.randn(3, 2, 4, 8, 3, generator=generator).unbind()


def test_equal_weights_are_plain_guidance(branches):
    null, text, full = branches
    plain = Combination(Guidance(guidance_scale=3.0))([null, full])
    assert torch.allclose(
        Combination(Guidance(guidance_scale=3.0, quality_scale=3.0))([null, text, full]), plain, atol=1e-5
    )


@pytest.mark.parametrize("scale, quality_scale, expected", [(1, 1, 2), (1, 0, 1), (0, 0, 0)])
def test_weights_of_one_and_none_are_the_branches(branches, scale, quality_scale, expected):
    guidance = Guidance(guidance_scale=scale, quality_scale=quality_scale)
    assert torch.allclose(Combination(guidance)(branches), branches[expected], atol=1e-5)


def test_each_weight_moves_along_its_own_difference(branches):
    null, text, full = branches
    combined = Combination(Guidance(guidance_scale=2.0, quality_scale=5.0))(branches)
    assert torch.allclose(combined, null + 2 * (text - null) + 5 * (full - text), atol=1e-5)


def test_three_branches_are_evaluated_only_where_the_weights_differ():
    seen = []

    def network(x, t, level):
        seen.append(len(x))
        return level.view(-1, 1, 1, 1).expand_as(x)

    conditions = [{"level": torch.tensor([value])} for value in (5.0, 1.0, 3.0)]  # full, null, text
    x, t = torch.zeros(1, 1, 2, 2), torch.tensor([500])
    for quality_scale, value in ((None, 9.0), (2.0, 9.0), (0.5, 6.0)):
        guidance = Guidance(guidance_scale=2.0, quality_scale=quality_scale)
        denoise = guided(network, conditions[0], conditions[1], guidance, text=conditions[2])
        assert torch.allclose(denoise(x, t), torch.full_like(x, value))
    assert seen == [2, 2, 3]
    with pytest.raises(ValueError, match="quality_scale.*missing"):
        guided(network, conditions[0], conditions[1], Guidance(guidance_scale=2.0, quality_scale=1.0))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_rescale_is_diffusers(branches, share):
    null, _, full = branches
    theirs = ClassifierFreeGuidance(guidance_scale=4.0, guidance_rescale=share)
    theirs.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(500))
    ours = Combination(Guidance(guidance_scale=4.0, guidance_rescale=share))([null, full])
    assert torch.allclose(ours, theirs.forward(full, null).pred, atol=1e-4)


def test_rescale_keeps_the_deviation_of_each_item(branches):
    null, _, full = branches
    guided_std = rescale(null + 9 * (full - null), full, 1.0).std((1, 2, 3))
    assert torch.allclose(guided_std, full.std((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("eta, momentum, norm", [(0.0, 0.0, 0.0), (0.4, 0.0, 0.5), (0.0, -0.5, 0.3), (1.0, -0.75, 0.0)])
def test_projection_is_diffusers(branches, generator, eta, momentum, norm):
    """Over steps, for momentum; their limit is on the root of the sum of squares, ours on that of the mean."""
    values = branches[0][0].numel()
    theirs = AdaptiveProjectedGuidance(
        guidance_scale=2.5,  # on top of the conditional prediction in the original formulation
        adaptive_projected_guidance_rescale=norm * values**0.5,
        eta=eta,
        use_original_formulation=True,
    )
    theirs.momentum_buffer = MomentumBuffer(momentum) if momentum else None
    ours = Combination(Guidance(guidance_scale=3.5, apg_eta=eta, apg_norm=norm, apg_momentum=momentum))
    for step in range(3):
        null, full = torch.randn(2, 2, 4, 8, 3, generator=generator).unbind()
        theirs.set_state(step=step, num_inference_steps=10, timestep=torch.tensor(900 - step))
        assert torch.allclose(ours([null, full]), theirs.forward(full, null).pred, atol=1e-4)


def test_projection_removes_exactly_the_parallel_part(branches):
    update, _, onto = branches
    left = project(update, onto, 0.0)
    assert torch.allclose((left * onto).sum((1, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(project(3 * onto, onto, 0.25), 0.75 * onto, atol=1e-5)
    assert project(update, onto, 1.0) is update


def test_limit_shortens_long_updates_only(branches):
    update = branches[0] * torch.tensor([0.1, 10.0]).view(2, 1, 1, 1)
    limited = limit(update, 0.5)
    assert torch.equal(limited[0], update[0])
    assert limited[1].square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    "setting",
    [
        {"guidance_rescale": 1.5},
        {"guidance_rescale": -0.1},
        {"apg_norm": -1.0},
        {"guidance_scale": float("nan")},
        {"apg_eta": float("inf")},
    ],
)
def test_impossible_values_are_named(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}="):
        Guidance(**setting)
