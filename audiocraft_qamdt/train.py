"""Dora's entry point: `dora run solver=qamdt/...` from the checkout finds it without a package being named.

It takes the place of `audiocraft.train`, whose config folder AudioCraft's wheel does not hold: same functions, our
config. AudioCraft's own solvers run from here too when its config is on the search path (AUDIOCRAFT_CONFIG_ROOT).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import random
import socket
import sys
import time
import types
import typing as tp
from pathlib import Path

import omegaconf
from dora import XP, get_xp, git_save, hydra_main
from dora.conf import SlurmConfig

from audiocraft_qamdt.utils import prepared

from .compat import CONFIG_ROOT, check_attention_backend
from .register import register
from .slurm.team import training_parameters
from .utils.dora import base_config, compose_bases_once, read_arguments_by
from .utils.errors import reporting
from .utils.files import locked, remove_dead_parts
from .utils.quoting import quoted

import flashy
from audiocraft.environment import AudioCraftEnvironment

if tp.TYPE_CHECKING:
    from audiocraft.solvers.base import StandardSolver
from audiocraft.utils.cluster import get_slurm_parameters

logger = logging.getLogger(__name__)
LOCK = "running.lock"
LOST_NODE = 120.0  # seconds; NFS frees the locks of a client that is gone after 90
register()


def resolve_config_dset_paths(cfg: omegaconf.DictConfig) -> None:
    """Make the paths of manifests absolute, also when Dora runs from a git clone of the project."""
    for key, value in cfg.datasource.items():
        if isinstance(value, str):
            cfg.datasource[key] = git_save.to_absolute_path(value)


def get_solver(cfg: omegaconf.DictConfig) -> StandardSolver:
    """Return the solver of a config; batch sizes become per process.

    Raises:
        ValueError: a batch size that the number of processes does not divide.
    """
    from .builders import SPLITS, resolve_device

    from audiocraft import solvers

    cfg.device = resolve_device(cfg.device)
    _split_batch(cfg.dataset, "dataset")
    for split in SPLITS:
        if split in cfg.dataset:
            _split_batch(cfg.dataset[split], f"dataset.{split}")
    resolve_config_dset_paths(cfg)
    return solvers.get_solver(cfg)


def _split_batch(cfg: omegaconf.DictConfig, key: str) -> None:
    world_size = flashy.distrib.world_size()
    if cfg.get("batch_size") is None:
        return
    if cfg.batch_size % world_size:
        raise ValueError(f"{key}.batch_size={cfg.batch_size} is not a multiple of the {world_size} processes")
    cfg.batch_size //= world_size


def get_solver_from_xp(
    xp: XP,
    override_cfg: dict | omegaconf.DictConfig | None = None,
    restore: bool = True,
    load_best: bool = True,
    ignore_state_keys: tp.Sequence[str] = (),
    disable_fsdp: bool = True,
) -> StandardSolver:
    """Return the solver of a Dora experiment, as `audiocraft.train.get_solver_from_xp`.

    Args:
        xp: the experiment.
        override_cfg: nested values to change; neither signature nor folder changes with them.
        restore: load its checkpoint.
        load_best: take the best state, not the last.
        ignore_state_keys: state sources not to load, e.g. `optimizer`.
        disable_fsdp: load without FSDP; what FSDP sharded is not loaded then.
    """
    from hydra.core.global_hydra import GlobalHydra

    cfg = xp.cfg
    if override_cfg is not None:
        merged = omegaconf.OmegaConf.merge(xp.cfg, omegaconf.DictConfig(override_cfg))
        cfg = tp.cast(omegaconf.DictConfig, merged)
    ignored = list(ignore_state_keys)
    if disable_fsdp and cfg.fsdp.use:
        cfg.fsdp.use = False
        ignored += ["model", "ema", "best_state"]
    try:
        with xp.enter():
            solver = get_solver(cfg)
            if restore:
                solver.restore(load_best=load_best, ignore_state_keys=ignored)
        return solver
    finally:
        GlobalHydra.instance().clear()


def get_solver_from_sig(sig: str, *args: tp.Any, **kwargs: tp.Any) -> StandardSolver:
    """Return the solver of a Dora signature; what follows is as of `get_solver_from_xp`."""
    return get_solver_from_xp(main.get_xp_from_sig(sig), *args, **kwargs)


def init_seed_and_system(cfg: omegaconf.DictConfig) -> None:
    """Set seeds, threads, start method and attention backend, as AudioCraft does."""
    import numpy as np
    import torch

    from audiocraft.modules.transformer import set_efficient_attention_backend

    check_attention_backend(cfg.efficient_attention_backend)
    multiprocessing.set_start_method(cfg.mp_start_method, force=True)
    # Worker processes import AudioCraft by themselves, without `compat`: the fork server does it once, prepared, and
    # forks them in no time.
    multiprocessing.set_forkserver_preload(["audiocraft_qamdt.solver"])
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    torch.set_num_threads(cfg.num_threads)
    os.environ["MKL_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(cfg.num_threads)
    set_efficient_attention_backend(cfg.efficient_attention_backend)


@hydra_main(config_path=str(CONFIG_ROOT), config_name="config", version_base="1.3")
def main(cfg: omegaconf.DictConfig) -> None:
    """Run the experiment of a config: `show`, `execute_only` and training as in AudioCraft."""
    if status := reporting(lambda: _run(cfg)):
        sys.exit(status)


def _run(cfg: omegaconf.DictConfig) -> None:
    from .builders import resolve_device

    init_seed_and_system(cfg)
    log_name = f"{cfg.execute_only or 'solver'}.log.{{rank}}"
    flashy.setup_logging(level=logging.getLevelName(str(cfg.logging.level).upper()), log_name=log_name)
    flashy.distrib.init(backend="nccl" if resolve_device(cfg.device) == "cuda" else "gloo")
    with contextlib.nullcontext() if cfg.show else _alone():
        _solve(cfg)


@contextlib.contextmanager
def _alone() -> tp.Iterator[None]:
    """Hold the experiment's folder: two processes that train in it would replace each other's checkpoints."""
    if not flashy.distrib.is_rank_zero():
        yield
        return
    folder = get_xp().folder
    with contextlib.ExitStack() as stack:
        try:
            _take(stack, folder / LOCK)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{folder} is already run by another process ({error}): wait for it, or end it first"
            ) from error
        remove_dead_parts(folder)
        yield


def _take(stack: contextlib.ExitStack, lock: Path) -> None:
    """Take the lock, and wait where another machine holds it: a file server frees a dead node's locks after a while."""
    end = time.monotonic() + LOST_NODE
    while True:
        try:
            stack.enter_context(locked(lock, wait=False))
            return
        except BlockingIOError as error:
            if str(error).endswith(f" on {socket.gethostname()}") or time.monotonic() > end:
                raise
            time.sleep(1)


def _solve(cfg: omegaconf.DictConfig) -> None:
    solver = get_solver(cfg)
    if cfg.show:
        solver.show()
        return
    if cfg.execute_only:
        if not cfg.execute_inplace and cfg.continue_from is None:
            raise ValueError(
                f"execute_only={cfg.execute_only} needs continue_from=<sig or path>, or execute_inplace=true"
            )
        solver.restore(replay_metrics=False)
        solver.run_one_stage(cfg.execute_only)
        return
    solver.run()


def _slurm_config() -> SlurmConfig:
    """Return the defaults of `dora grid` and `dora launch` for SLURM; read when they are needed."""
    recipe = omegaconf.OmegaConf.to_container(get_slurm_parameters(base_config(main).slurm))
    return SlurmConfig(**training_parameters(tp.cast(dict, recipe)))


def _overrides(argv: tp.Sequence[str]) -> list[str]:
    if wrong := [argument for argument in argv if "=" not in argument]:
        raise ValueError(f"{wrong[0]!r} is no override: give KEY=VALUE, in quotes where the value holds spaces")
    return [quoted(argument) for argument in argv]


def _quoted_argv() -> list[str]:
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]  # Hydra reads them there
    return sys.argv[1:]


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Report what fails before a run has begun, as `reporting` does; an exception hook."""

    def again() -> None:
        raise error.with_traceback(trace)

    try:
        status = reporting(again)
    except BaseException as bug:
        sys.__excepthook__(kind, bug, trace)
        return
    sys.exit(status)


_get_xp = main.get_xp
main.get_xp = lambda argv: _get_xp(_overrides(argv))
read_arguments_by(main, _quoted_argv)
compose_bases_once(main)
if Path(sys.argv[0]).name == "dora" or Path(sys.argv[0]).parent.name == "dora":
    sys.excepthook = _report_uncaught
main.dora.dir = AudioCraftEnvironment.get_dora_dir()
main.get_slurm_config = _slurm_config
if main.dora.shared is not None and not os.access(main.dora.shared, os.R_OK):
    logger.warning("dora.shared=%s cannot be read: ignored", main.dora.shared)
    main.dora.shared = None

if __name__ == "__main__":
    main()
