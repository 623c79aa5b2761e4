"""Read the SLURM settings of jobs: `partitions`, `slurm`, `training` of the team's file (config/teams), QAMDT_SLURM.

`slurm` holds for every job, `training` for those of `dora grid` and `dora launch` over it, and QAMDT_SLURM, such as
"account=music time=600", for these once more. Options of a command line go over all of them.
"""

from __future__ import annotations

import math
import os
import shlex
import typing as tp
from collections.abc import Mapping

from ..compat import prepare
from ..utils.reading import JsonObject

VARIABLE = "QAMDT_SLURM"
KEYS = ("partition", "account", "time", "gpus", "mem", "cpus")
"""Names, minutes, number for a job, GB on a node, number for a task."""
NODE = 8
"""Most GPUs that Dora asks one node for."""


def team() -> JsonObject:
    """Return the team's settings for the cluster that AudioCraft detects."""
    prepare()
    from omegaconf import OmegaConf

    from audiocraft.environment import AudioCraftEnvironment

    environment = AudioCraftEnvironment.instance()
    return tp.cast(dict, OmegaConf.to_container(environment.config[environment.cluster]))


def job_defaults() -> JsonObject:
    """Return the team's settings for any job: some of `KEYS`; an empty partition is SLURM's own default.

    Raises:
        ValueError: `slurm` in it has another key.
    """
    cluster = team()
    partitions = cluster.get("partitions", {})
    names = dict.fromkeys(partitions[name] for name in ("team", "global") if partitions.get(name))
    own = cluster.get("slurm") or {}
    _check(own, KEYS, "slurm.{} in the team's file")
    return {"partition": ",".join(names)} | own


def training_parameters(recipe: Mapping[str, object]) -> JsonObject:
    """Return Dora's SLURM configuration for a training.

    Args:
        recipe: the config's `slurm`, in Dora's names, for what is set nowhere else.
    Raises:
        ValueError: a key that neither this module nor Dora knows, and where it stands.
    """
    from dora.conf import SlurmConfig
    from omegaconf import OmegaConf

    known = (*KEYS, *SlurmConfig().__dict__)
    own = team().get("training") or {}
    given = tp.cast(dict, OmegaConf.to_container(OmegaConf.from_dotlist(shlex.split(os.environ.get(VARIABLE, "")))))
    _check(own, known, "training.{} in the team's file")
    _check(given, known, f"{{}} in {VARIABLE}")
    asked = {**recipe, **job_defaults(), **own, **given}
    if "mem" in asked:
        asked["mem_per_gpu"] = math.ceil(asked.pop("mem") / min(max(asked["gpus"], 1), NODE))  # SLURM takes no fraction
    if "cpus" in asked:
        asked["cpus_per_task"] = asked.pop("cpus")
    return asked | {"partition": asked["partition"] or None}


def _check(given: Mapping[str, object], known: tp.Iterable[str], where: str) -> None:
    unknown = set(given) - set(known)
    if unknown:
        raise ValueError(f"{where.format(min(unknown))} is unknown: choose among {', '.join(known)}")
