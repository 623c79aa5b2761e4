"""Settings of generation: the one list of knobs behind the command line, files of prompts, Python, config and page.

A knob is a field of `GenerationParams` or of its `Guidance`, and has that name everywhere. Nothing here imports torch:
the command line lists the knobs whenever it starts.
"""

from __future__ import annotations

import dataclasses
import math
import typing as tp
from dataclasses import dataclass, fields, replace

from ..data.attributes import Curve
from ..diffusion.settings import FEW_STEPS, SAMPLERS, STOCHASTIC, Guidance, check_eta, knob
from ..quality.levels import WORDS
from ..utils.checks import is_number
from ..utils.reading import JsonObject

EXTENSIONS = ("windows", "rope")

LONGEST = 86400.0
"""Seconds that a clip may last: a slip of the pen beyond a day would fill the memory before anything is refused."""

CLAP, PMOS = "clap", "pmos"
PREDICTOR = "acoustic"
"""Predictor of p-MOS that chooses among candidates where none is named."""

OLD_NAMES = {"num_candidates": "candidates"}
"""Names that knobs had before → the names they have."""


def parse_quality(text: str) -> float | Curve:
    """Parse a quality as typed: `4`, or `0:1,8:5` for a curve of seconds:value points."""
    try:
        if ":" not in text:
            value = float(text)
            return int(value) if value.is_integer() else value
        points = [tuple(float(part) for part in point.split(":")) for point in text.split(",")]
        if any(len(point) != 2 or not all(map(math.isfinite, point)) for point in points):
            raise ValueError
        return [(point[0], point[1]) for point in points]
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a number from 1 to 5 nor a curve like 0:1,8:5 (seconds:value)") from None


def scorer_names(rerank: str) -> tuple[str, ...]:
    """Return the names of what `rerank` adds up: `clap`, `pmos:PREDICTOR`, or both.

    Raises:
        ValueError: something else, or a predictor by import path: settings may come with a model from elsewhere.
    """
    kind, colon, predictor = rerank.partition(":")
    scorers = {CLAP: (CLAP,), PMOS: (PMOS,), f"{CLAP}+{PMOS}": (CLAP, PMOS)}.get(kind)
    if scorers is None or (colon and PMOS not in scorers) or ":" in predictor or bool(colon) != bool(predictor):
        raise ValueError(
            f"rerank={rerank!r} is unknown: give clap, pmos, clap+pmos, or the latter two with the name of a "
            "predictor (pmos:acoustic)"
        )
    return tuple(f"{PMOS}:{predictor or PREDICTOR}" if name == PMOS else name for name in scorers)


def parse_rerank(text: str) -> str:
    """Check what chooses among candidates as typed: see `scorer_names`."""
    scorer_names(text)
    return text


@dataclass(frozen=True)
class GenerationParams:
    """Settings of generation.

    Args:
        duration: seconds.
        quality: level 1 to 5, fractions interpolate; or a curve; None = unknown.
        pmos: the same as a p-MOS (see `attributes_for`), instead of `quality`.
        steps, sampler: see `diffusion.samplers.sample`.
        eta: see `diffusion.samplers.sample`; samplers that add no noise leave it aside (published: 1).
        seed: same seed, same clip, whatever the batch it is in; see `item_seeds`.
        negative_prompt: description that guidance leads away from; None = from no description.
        guidance: see `diffusion.settings.Guidance`.
        null_level: quality level of the unconditional branch; 0 = unknown (published sampler: 3, paper: 1).
        null_prefix: quality word before the unconditional branch's text, where the model's text carries quality (paper:
            low); None = none (published code).
        candidates: clips made for each description, of which the best is kept (published: 3).
        clap: hub id or folder of the CLAP model that chooses among them.
        rerank: what chooses: "clap" (published) by agreement with the text, "pmos:PREDICTOR" by predicted quality,
            "clap+pmos:PREDICTOR" by the sum of both, with p-MOS brought to a scale of 0 to 1.
        extend: how clips longer than the training segment are made: "windows" that overlap, denoised together; or
            "rope", all at once (rotary positions only; memory and time grow with the length).
        extend_stride: seconds from one window to the next; None = half a window.
    """

    duration: float = knob(10.0, float, "seconds; any length")
    quality: float | Curve | None = knob(
        None, parse_quality, "level 1 to 5, or a curve 0:1,8:5 of seconds:level; default: unknown"
    )
    pmos: float | Curve | None = knob(None, parse_quality, "quality as p-MOS, turned into levels as in training")
    steps: int = knob(25, int, "steps of the sampler")
    sampler: str = knob("dpmsolver++", str, ", ".join(SAMPLERS))
    eta: float = knob(0.0, float, "noise that each step of ddim adds: 0 = none, 1 = as published")
    seed: int = knob(0, int, "same seed, same clip")
    negative_prompt: str | None = knob(None, str, "description to lead away from")
    guidance: Guidance = Guidance()
    null_level: float = knob(0.0, float, "quality level that guidance leads away from; 0 = unknown")
    null_prefix: str | None = knob(None, str, "quality word before the text that guidance leads away from")
    candidates: int = knob(1, int, "clips made for each one kept")
    clap: str | None = knob(None, str, "hub id or folder of the CLAP model that chooses among candidates")
    rerank: str = knob(CLAP, parse_rerank, "what chooses: clap, pmos:PREDICTOR or clap+pmos:PREDICTOR")
    extend: str = knob("windows", str, "how to make clips longer than the model's: windows, or rope")
    extend_stride: float | None = knob(None, float, "seconds from one window to the next; default: half a window")

    def __post_init__(self) -> None:
        if not (is_number(self.duration) and self.duration > 0):
            raise ValueError(f"duration={self.duration!r}: give a number of seconds above 0")
        if self.duration > LONGEST:
            raise ValueError(f"duration={self.duration!r}: a clip lasts at most {LONGEST:.0f} s (a day)")
        if self.sampler not in (*SAMPLERS, FEW_STEPS):
            raise ValueError(f"sampler {self.sampler!r} is unknown: choose one of {', '.join(SAMPLERS)}")
        if not is_number(self.eta):
            raise ValueError(f"eta={self.eta!r}: give a number from 0 to 1")
        check_eta(self.eta, STOCHASTIC[0])
        for name in ("steps", "candidates"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name}={getattr(self, name)!r}: give a whole number above 0")
        if not (is_number(self.null_level) and (self.null_level == 0 or 1 <= self.null_level <= 5)):
            raise ValueError(f"null_level={self.null_level!r}: give a quality level from 1 to 5, or 0 (unknown)")
        if self.null_prefix not in (None, *WORDS):
            raise ValueError(f"null_prefix={self.null_prefix!r} is unknown: choose one of {', '.join(WORDS)}")
        if not isinstance(self.seed, int):
            raise ValueError(f"seed={self.seed!r}: give a whole number")
        scorer_names(self.rerank)
        if self.extend not in EXTENSIONS:
            raise ValueError(f"extend={self.extend!r} is unknown: choose one of {', '.join(EXTENSIONS)}")
        if self.extend_stride is not None and not (is_number(self.extend_stride) and self.extend_stride > 0):
            raise ValueError(f"extend_stride={self.extend_stride!r}: give a number of seconds above 0")

    @property
    def used_eta(self) -> float:
        """Return `eta` for the sampler that is chosen."""
        return self.eta if self.sampler in STOCHASTIC else 0.0

    def changed(self, **settings: object) -> GenerationParams:
        """Return a copy with other values for some of `KNOBS`; a quality replaces a p-MOS, and the other way round.

        Raises:
            TypeError: a setting that does not exist.
            ValueError: an impossible value.
        """
        values = renamed(settings)
        if values.get("eta"):  # a recipe's eta is left aside by samplers without noise; one that is asked for is not
            check_eta(values["eta"], values.get("sampler", self.sampler))
        return self.with_recipe(values)

    def with_recipe(self, settings: tp.Mapping[str, object]) -> GenerationParams:
        """Return a copy with the settings of a recipe, which may hold an `eta` for another sampler than its own.

        Raises:
            TypeError, ValueError: as `changed`.
        """
        values: JsonObject = dict(settings)
        if unknown := sorted(values.keys() - KNOBS.keys()):
            raise TypeError(f"no settings {', '.join(unknown)}: choose among {', '.join(KNOBS)}")
        if {"quality", "pmos"} & values.keys():
            values = {"quality": None, "pmos": None, **values}
        guidance = {name: values.pop(name) for name in _GUIDANCE & values.keys()}
        return replace(self, guidance=replace(self.guidance, **guidance), **values)

    def to_dict(self) -> JsonObject:
        """Return the values of all knobs by name."""
        values = dataclasses.asdict(self)
        return {**{name: value for name, value in values.items() if name != "guidance"}, **values["guidance"]}


_GUIDANCE = {field.name for field in fields(Guidance)}

KNOBS: dict[str, dataclasses.Field] = {
    field.name: field
    for own in fields(GenerationParams)
    for field in (fields(Guidance) if own.name == "guidance" else [own])
}
"""Every setting by its name; `metadata` has how it is parsed and a line of help."""


def renamed(settings: tp.Mapping[str, object]) -> JsonObject:
    """Return settings under their present names, where they have one of `OLD_NAMES`."""
    return {OLD_NAMES.get(name, name): value for name, value in settings.items()}
