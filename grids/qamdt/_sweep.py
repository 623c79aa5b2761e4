"""Set recipe, data set, seeds and evaluation of this folder's grids, from the environment.

QAMDT_SOLVER      recipe (default: qamdt/playground, of the claim qamdt/playground_small)
QAMDT_DSET        data set (default: the recipe's own)
QAMDT_SEEDS       values of `seed` (default: 0,1,2)
QAMDT_ARGS        more overrides for every run, e.g. "optim.epochs=1 num_threads=1"
QAMDT_EVALUATION  file of config/solver/qamdt/evaluation that the last epoch measures with (default: playground for the
                  recipes that need no downloads, objective_eval for the others)
QAMDT_CACHE       claim, claim_95, controls: folder of latents that `tools/claim_latents.sh` wrote; without it every run
                  encodes its audio
QAMDT_FROM        grids that only evaluate: signatures of trained runs, separated by commas
QAMDT_MODELS      pretrained_eval, benchmark: exports, checkpoints, hub ids or //sig/<signature>, separated by commas
"""

from __future__ import annotations

import os
import shlex

from dora.explore import Launcher
from dora.log import fatal

from audiocraft_qamdt.utils.dora import main_of

SMALL = ("qamdt/playground", "qamdt/playground_small", "qamdt/debug")
NO_QUALITY = ["conditioner=qamdt/none", "generate.quality=null"]
"""A model that knows text alone, and is asked for nothing else."""
NOISE = ["conditioner=qamdt/noise", "generate.quality=null"]
"""Text alone, too; its degraded tracks teach where noise hides what is wrong with them."""


def listed(name: str, default: str = "") -> list[str]:
    """Values of an environment variable, separated by commas."""
    return [part.strip() for part in os.environ.get(name, default).split(",") if part.strip()]


def needed(name: str, what: str) -> str:
    """Value of an environment variable that a grid cannot do without."""
    if not os.environ.get(name):
        fatal(f"this grid needs {what}: name it in {name}")
    return os.environ[name]


def latents(dset: str, share: str = "0") -> list[str]:
    """Override that trains on the latents of a data set without a share of its degraded tracks."""
    folder = os.environ.get("QAMDT_CACHE")
    return [f"cache.path={folder}/{dset}-{share}"] if folder else []


def recipe(default: str = SMALL[0]) -> list[str]:
    """Overrides of every run: it is evaluated at the end, and asked for the best quality."""
    solver, dset = os.environ.get("QAMDT_SOLVER", default), os.environ.get("QAMDT_DSET")
    evaluation = os.environ.get("QAMDT_EVALUATION", "playground" if solver in SMALL else "objective_eval")
    overrides = [f"solver={solver}", f"solver/qamdt/evaluation={evaluation}"]
    if dset:
        overrides.append(f"dset={dset}")
    return [*overrides, "generate.quality=5", *shlex.split(os.environ.get("QAMDT_ARGS", ""))]


def sweep(launcher: Launcher, *arms: list[str], solver: str = SMALL[0]) -> None:
    """Launch every arm with every seed, as one job array; the first seed of all arms comes first.

    A value that is the recipe's own does not change a signature: what several grids have in common is trained once.

    Args:
        launcher: its own overrides come before the recipe's.
        arms: overrides of each.
        solver: the recipe where the environment names none.
    """
    with launcher.job_array():
        for seed in listed("QAMDT_SEEDS", "0,1,2"):
            for arm in arms:
                launcher(*recipe(solver), f"seed={seed}", *arm)


def evaluate(launcher: Launcher, sources: list[tuple[list[str], str]], *arms: list[str]) -> None:
    """Launch only the evaluation of trained models, with the overrides of every arm.

    Args:
        launcher: its own overrides come before a model's.
        sources: each model's overrides, and what `continue_from` names it.
        arms: overrides of each evaluation.
    """
    if not sources:
        fatal("this grid evaluates trained models: name their signatures in QAMDT_FROM, or models in QAMDT_MODELS")
    with launcher.job_array():
        for argv, source in sources:
            for arm in arms:
                launcher(*argv, f"continue_from={source}", "execute_only=evaluate", *arm)


def trained(launcher: Launcher, signature: str) -> tuple[list[str], str]:
    """Overrides of a trained run, with those of the environment after them, and its name for `continue_from`."""
    main, signature = main_of(launcher), signature.removeprefix("//sig/")
    try:
        argv = list(main.get_argv_from_sig(signature))
    except RuntimeError:
        fatal(f"no experiment {signature} in {main.dora.dir}: check QAMDT_FROM and AUDIOCRAFT_DORA_DIR")
    return [*argv, *shlex.split(os.environ.get("QAMDT_ARGS", ""))], f"//sig/{signature}"
