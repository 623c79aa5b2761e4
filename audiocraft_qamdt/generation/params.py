"""Settings of generation, and the seed of each clip."""

from __future__ import annotations

import typing as tp
from collections import Counter
from dataclasses import dataclass

from ..compat import prepare
from ..conditioning.attributes import Curve, is_number
from ..diffusion.guidance import Guidance
from ..diffusion.samplers import SAMPLERS, STOCHASTIC, check_eta
from ..quality.levels import WORDS
from ..utils.randomness import keyed_seed

prepare()


EXTENSIONS = ("windows", "rope")


@dataclass(frozen=True)
class GenerationParams:
    """Settings of generation.

    Args:
        duration: seconds.
        steps, sampler: see `diffusion.samplers.sample`.
        eta: see `diffusion.samplers.sample`; samplers that add no noise leave it aside (published: 1).
        guidance: see `diffusion.guidance.Guidance`.
        null_level: quality level of the unconditional branch; 0 = unknown (published sampler: 3, paper: 1).
        null_prefix: quality word before the unconditional branch's text, where the model's text carries quality (paper:
            low); None = none (published code).
        seed: same seed, same clip, whatever the batch it is in; see `item_seeds`.
        num_candidates: clips made for each description, of which the one that CLAP prefers is kept (published: 3).
        clap: hub id or folder of that CLAP model.
        quality: level 1 to 5, fractions interpolate; or a curve; None = unknown.
        pmos: the same as a p-MOS (see `attributes_for`), instead of `quality`.
        negative_prompt: description that guidance leads away from; None = from no description.
        extend: how clips longer than the training segment are made: "windows" that overlap, denoised together; or
            "rope", all at once (rotary positions only; memory and time grow with the length).
        extend_stride: seconds from one window to the next; None = half a window.
    """

    duration: float
    steps: int = 25
    sampler: str = "dpmsolver++"
    eta: float = 0.0
    guidance: Guidance = Guidance()
    null_level: float = 0.0
    null_prefix: str | None = None
    seed: int = 0
    num_candidates: int = 1
    clap: str | None = None
    quality: float | Curve | None = None
    pmos: float | Curve | None = None
    negative_prompt: str | None = None
    extend: str = "windows"
    extend_stride: float | None = None

    def __post_init__(self) -> None:
        if not (is_number(self.duration) and self.duration > 0):
            raise ValueError(f"duration={self.duration!r}: give a number of seconds above 0")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r} is unknown: choose one of {', '.join(SAMPLERS)}")
        if not is_number(self.eta):
            raise ValueError(f"eta={self.eta!r}: give a number from 0 to 1")
        check_eta(self.eta, STOCHASTIC[0])
        for name in ("steps", "num_candidates"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name}={getattr(self, name)!r}: give a whole number above 0")
        if self.null_prefix not in (None, *WORDS):
            raise ValueError(f"null_prefix={self.null_prefix!r} is unknown: choose one of {', '.join(WORDS)}")
        if not isinstance(self.seed, int):
            raise ValueError(f"seed={self.seed!r}: give a whole number")
        if self.extend not in EXTENSIONS:
            raise ValueError(f"extend={self.extend!r} is unknown: choose one of {', '.join(EXTENSIONS)}")
        if self.extend_stride is not None and not (is_number(self.extend_stride) and self.extend_stride > 0):
            raise ValueError(f"extend_stride={self.extend_stride!r}: give a number of seconds above 0")

    @property
    def used_eta(self) -> float:
        """`eta` for the sampler that is chosen."""
        return self.eta if self.sampler in STOCHASTIC else 0.0


def item_seeds(descriptions: tp.Sequence[str | None], seed: int) -> list[int]:
    """Seed of each clip's noise: of its description, so that its place in a batch does not matter.

    The second clip of the same description is the one that `seed + 1` would give, and so on.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for description in descriptions:
        text = description or ""
        seeds.append(keyed_seed(seed + seen[text], text))
        seen[text] += 1
    return seeds
