"""Guidance over a network that is simple enough to compute by hand."""

import pytest
import torch

from audiocraft_qamdt.diffusion.guidance import Guidance, guided, stack_conditions


class Network:
    """Predicts the masked mean of its context plus its quality; counts the items it evaluates."""

    def __init__(self):
        self.evaluated = 0

    def __call__(self, x, t, context, context_mask, quality):
        self.evaluated += len(x)
        mean = (context[..., 0] * context_mask).sum(1) / context_mask.sum(1).clamp(min=1)
        return (mean + quality["clip"]).view(-1, 1, 1, 1).expand_as(x)


def branch(values, level):
    return {
        "context": torch.tensor(values).view(1, -1, 1),
        "context_mask": torch.ones(1, len(values)),
        "quality": {"clip": torch.tensor([level])},
    }


COND, NULL = branch([1.0, 3.0, 5.0], 4.0), branch([2.0], 1.0)
X, T = torch.zeros(1, 1, 2, 2), torch.tensor([500])


def test_extrapolates_from_the_null_branch():
    denoise = guided(Network(), COND, NULL, Guidance(guidance_scale=3.5))
    null, cond = 2.0 + 1.0, 3.0 + 4.0
    assert torch.allclose(denoise(X, T), torch.full_like(X, null + 3.5 * (cond - null)))


@pytest.mark.parametrize("scale, expected", [(1.0, 7.0), (0.0, 3.0)])
def test_scale_one_is_conditional_and_zero_is_unconditional(scale, expected):
    assert torch.allclose(
        guided(Network(), COND, NULL, Guidance(guidance_scale=scale))(X, T), torch.full_like(X, expected)
    )


def test_scale_one_evaluates_once():
    network = Network()
    guided(network, COND, NULL, Guidance(guidance_scale=1.0))(X, T)
    assert network.evaluated == 1


def test_outside_the_interval_only_the_conditional_branch_is_evaluated():
    network = Network()
    denoise = guided(network, COND, NULL, Guidance(guidance_scale=3.0, guidance_interval=(0.2, 0.6)))
    assert torch.allclose(denoise(X, torch.tensor([700])), torch.full_like(X, 7.0))
    assert network.evaluated == 1
    assert torch.allclose(denoise(X, torch.tensor([400])), torch.full_like(X, 15.0))
    assert network.evaluated == 3


def test_conditions_are_prepared_once_not_per_step():
    prepared = []
    denoise = guided(Network(), COND, NULL, Guidance(), prepare=lambda conditions: prepared.append(1) or conditions)
    for _ in range(3):
        denoise(X, T)
    assert len(prepared) == 1


def test_stacking_pads_and_masks_the_shorter_text():
    both = stack_conditions(NULL, COND)
    assert both["context"].shape == (2, 3, 1)
    assert both["context_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert both["quality"]["clip"].tolist() == [1, 4]


def test_branches_with_different_conditions_are_refused():
    with pytest.raises(ValueError, match="different conditions"):
        stack_conditions({"context": None}, {"quality": None})


@pytest.mark.parametrize("interval", [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.5)])
def test_bad_interval_is_named(interval):
    with pytest.raises(ValueError, match="guidance_interval"):
        Guidance(guidance_interval=interval)
