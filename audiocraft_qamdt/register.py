"""Adds QA-MDT to AudioCraft: the only place that changes anything of AudioCraft's."""

from __future__ import annotations

import functools
import sys
import types
import typing as tp

from audiocraft_qamdt.utils import prepared

from . import builders

import audiocraft.models.builders
import audiocraft.models.encodec
import audiocraft.solvers
import audiocraft.solvers.builders

if tp.TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from audiocraft.models.encodec import CompressionModel
    from audiocraft.modules.conditioners import ConditioningProvider
    from audiocraft.solvers.base import StandardSolver

Function = tp.Callable[..., object]
"""One of AudioCraft's, or ours in its place, which takes AudioCraft's first."""

SOLVERS: dict[str, str] = {"qamdt": "QAMDTSolver"}
"""Value of `solver` in a config -> class in `audiocraft_qamdt.solver`."""


def _get_solver(audiocraft_get_solver: tp.Callable[[DictConfig], StandardSolver], cfg: DictConfig) -> StandardSolver:
    """Return AudioCraft's `get_solver`, knowing ours."""
    if cfg.solver == "compression" and cfg.compression_model == "spectral_vae":
        from .solver import CodecSolver

        return CodecSolver(cfg)
    if cfg.solver == "qamdt" and cfg.distill.use:
        from .distillation import DistillationSolver

        return DistillationSolver(cfg)
    if cfg.solver not in SOLVERS:
        try:
            return audiocraft_get_solver(cfg)
        except KeyError as error:
            if error.args != (cfg.solver,):
                raise
            raise ValueError(
                f"solver={cfg.solver!r} is unknown to AudioCraft and to audiocraft_qamdt, which adds "
                f"{', '.join(SOLVERS)}"
            ) from error
    from . import solver

    return getattr(solver, SOLVERS[cfg.solver])(cfg)


def _get_conditioner_provider(_: Function, output_dim: int, cfg: DictConfig) -> ConditioningProvider:
    """Return AudioCraft's `get_conditioner_provider`, knowing the conditioners in `builders.CONDITIONERS`."""
    return builders.get_conditioner_provider(output_dim, cfg)


def _get_pretrained(
    audiocraft_get_pretrained: tp.Callable[[str, torch.device | str], CompressionModel],
    name: str,
    device: torch.device | str = "cpu",
) -> CompressionModel:
    """Extend AudioCraft's `CompressionModel.get_pretrained` by our codecs: "<codec>" or "<codec>:<checkpoint>"."""
    codec, _, checkpoint = str(name).partition(":")
    if codec not in builders.known_codecs():
        return audiocraft_get_pretrained(name, device)
    from omegaconf import OmegaConf

    from .latents.compression import LatentCompressionModel

    options = {"checkpoint": checkpoint} if checkpoint else {}
    return LatentCompressionModel(
        builders.get_codec(OmegaConf.create({"codec": codec, codec: options}), str(device))
    ).eval()


def _get_compression_model(
    audiocraft_get_compression_model: tp.Callable[[DictConfig], CompressionModel], cfg: DictConfig
) -> CompressionModel:
    """Return AudioCraft's `get_compression_model`, knowing `compression_model: spectral_vae`."""
    if cfg.compression_model != "spectral_vae":
        return audiocraft_get_compression_model(cfg)
    return builders.get_trainable_codec(cfg).to(cfg.device)


# (owner, attribute, ours): each function of AudioCraft's that learns new names, everywhere it is looked up.
TABLE: list[tuple[types.ModuleType | type, str, Function]] = [
    (audiocraft.solvers.builders, "get_solver", _get_solver),
    (audiocraft.solvers, "get_solver", _get_solver),
    (audiocraft.models.builders, "get_conditioner_provider", _get_conditioner_provider),
    (audiocraft.models.builders, "get_compression_model", _get_compression_model),
    (audiocraft.models.encodec.CompressionModel, "get_pretrained", _get_pretrained),
]


def register() -> None:
    """Make AudioCraft know QA-MDT's solver, conditioners and codecs; calling it again changes nothing."""
    for owner, attribute, ours in TABLE:
        theirs = getattr(owner, attribute)
        if hasattr(theirs, "audiocraft_qamdt"):
            continue
        extended = functools.wraps(theirs)(functools.partial(ours, theirs))
        extended.audiocraft_qamdt = True  # type: ignore[attr-defined]
        setattr(owner, attribute, staticmethod(extended) if isinstance(owner, type) else extended)


class _CallableModule(types.ModuleType):
    """This module's type.

    Python binds a submodule to its package under its own name once it is imported, so `audiocraft_qamdt.register` is
    this module. It can be called, so that `from audiocraft_qamdt import register` means the function to its users.
    """

    def __call__(self) -> None:
        register()


sys.modules[__name__].__class__ = _CallableModule
