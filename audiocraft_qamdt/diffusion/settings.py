"""Settings of sampling and guidance: plain data without torch, which a command line can list in no time."""

from __future__ import annotations

import math
import typing as tp
from dataclasses import dataclass, field

Value = tp.TypeVar("Value")

# name -> (class in diffusers, its options). `ddim` has the published timesteps and coefficients; the authors' inference
# runs it with eta=1 (`ddpm.py`, lines 1928 and 2026). The others space their steps evenly in the logarithm of the
# signal-to-noise ratio: on Gaussian data, whose solution is known, 25 steps of dpmsolver++ are 0.2 % from the solution
# that way, and 6.5 % with steps spaced evenly in time.
SAMPLERS: dict[str, tuple[str, dict[str, object]]] = {
    "ddim": (
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"},
    ),
    "dpmsolver++": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_lu_lambdas": True},
    ),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2, "use_exponential_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}),
    "heun": ("HeunDiscreteScheduler", {"use_exponential_sigmas": True}),
}

_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
FLOW_SAMPLERS: dict[str, tuple[str, dict[str, object]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "dpmsolver++": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, **_FLOW},
    ),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2, **_FLOW}),
}
"""As `SAMPLERS`, for models of `diffusion.schedule.kind=flow`."""

FEW_STEPS = "few_steps"
"""Sampler of models that were trained for few steps (`solver=qamdt/distill`): see `few_steps.sample_few`."""

STOCHASTIC = ("ddim",)
"""Samplers that take `eta`."""


def check_eta(eta: float, sampler: str) -> None:
    """Refuse an `eta` that is no share, or that the sampler does not take.

    Raises:
        ValueError: says which samplers take it.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta!r}: it is a share, from 0 to 1")
    if eta and sampler not in STOCHASTIC:
        raise ValueError(f"eta={eta}: sampler={sampler} adds no noise, set sampler={STOCHASTIC[0]} or eta=0")


def knob(default: Value, parse: tp.Callable[[str], Value], help: str) -> Value:
    """Declare a setting of the command line, files of prompts, Python, the config and the page.

    Args:
        parse: from what is typed to a value; it raises ValueError.
        help: one line.
    """
    return field(default=default, metadata={"parse": parse, "help": help})


def parse_interval(text: str) -> tuple[float, float]:
    """Parse two numbers as typed: `0.2,0.8`."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no interval like 0.2,0.8") from None
    return low, high


@dataclass(frozen=True)
class Guidance:
    """Weights of the branches of classifier-free guidance.

    The formulas act on what the network predicts, whatever that is; with all but the first two at their defaults the
    result is the same for noise, velocity and clean latents.

    Args:
        guidance_scale: weight w of ε = ε_null + w (ε_cond − ε_null); 1 = no guidance, one evaluation per step
            (published: 3.5).
        guidance_interval: guidance acts on timesteps in [start, stop), as shares of the schedule (0 = clean, 1 =
            noise); outside of it only the conditional branch is evaluated (arXiv 2404.07724).
        quality_scale: weight of quality by itself, `guidance_scale` is then the text's:
            ε = ε_null + w_text (ε_text − ε_null) + w_quality (ε_cond − ε_text), three evaluations per step
            (arXiv 2211.09800, eq. 3); None = the same as `guidance_scale`.
        guidance_rescale: share φ of the result that is scaled to the conditional prediction's standard deviation
            (arXiv 2305.08891, eq. 15 and 16); 0 = none.
        apg_eta: weight of the part of the update that is parallel to the conditional prediction (adaptive projected
            guidance, arXiv 2410.02416: 0); 1 = kept whole.
        apg_norm: largest root mean square of the update, which a longer one is scaled down to; 0 = any. (Diffusers and
            the paper limit the sum of squares, which grows with the clip's length.)
        apg_momentum: weight of the earlier steps' updates (same paper: about -0.5); 0 = none.
    """

    guidance_scale: float = knob(3.5, float, "weight of the prompt; 1 = no guidance")
    guidance_interval: tuple[float, float] = knob(
        (0.0, 1.0), parse_interval, "START,STOP: guide in this part of the noise schedule, 0 = clean, 1 = noise"
    )
    quality_scale: float | None = knob(None, float, "weight of quality by itself; guidance_scale is then the text's")
    guidance_rescale: float = knob(0.0, float, "share of the result rescaled to the conditional's deviation, 0 to 1")
    apg_eta: float = knob(1.0, float, "projected guidance: weight of the parallel part; 1 = plain guidance")
    apg_norm: float = knob(0.0, float, "projected guidance: largest size of an update; 0 = any")
    apg_momentum: float = knob(0.0, float, "projected guidance: weight of earlier updates; 0 = none")

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"guidance_interval={list(self.guidance_interval)}: give [start, stop] with 0 <= start < stop <= 1"
            )
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale={self.guidance_rescale}: it is a share, from 0 to 1")
        if not self.apg_norm >= 0:
            raise ValueError(f"apg_norm={self.apg_norm}: it is a size, 0 or more")
        for name in ("guidance_scale", "quality_scale", "apg_eta", "apg_norm", "apg_momentum"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"{name}={getattr(self, name)}: it must be finite")

    def covers(self, share: float) -> bool:
        """Return whether guidance acts at this share of the noise schedule."""
        low, high = self.guidance_interval
        return low <= share and (share < high or high == 1)  # a flow starts at 1 itself

    @property
    def separate(self) -> bool:
        """Return whether text and quality have different weights, which takes three branches."""
        return self.quality_scale is not None and self.quality_scale != self.guidance_scale

    @property
    def projected(self) -> bool:
        """Return whether the update is projected, or has momentum or a maximum norm."""
        return (self.apg_eta, self.apg_norm, self.apg_momentum) != (1.0, 0.0, 0.0)
