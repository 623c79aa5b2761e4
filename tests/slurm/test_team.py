"""What trainings ask SLURM for: the recipe's, the team's over it, the environment's over that."""

from __future__ import annotations

import pytest
from dora.conf import SlurmConfig

from audiocraft_qamdt.slurm.shards import SLURM_OPTIONS
from audiocraft_qamdt.slurm.team import KEYS, VARIABLE, training_parameters
from audiocraft_qamdt.train import main

RECIPE = {"gpus": 4, "mem_per_gpu": 40, "time": 3600, "partition": None}


def test_the_team_goes_over_the_recipe_and_the_environment_over_the_team(team, monkeypatch):
    team("")
    assert training_parameters(RECIPE) == RECIPE
    team("  partitions: {team: ours, global: all}\n  slurm: {account: music, time: 30, cpus: 2}\n")
    asked = RECIPE | {"partition": "ours,all", "account": "music", "time": 30, "cpus_per_task": 2}
    assert training_parameters(RECIPE) == asked
    team("  slurm: {account: music, time: 30}\n  training: {time: 900, gpus: 8, qos: long}\n")
    asked = RECIPE | {"account": "music", "time": 900, "gpus": 8, "qos": "long"}
    assert training_parameters(RECIPE) == asked
    monkeypatch.setenv(VARIABLE, "time=60 partition=debug comment='a b'")
    asked |= {"time": 60, "partition": "debug", "comment": "a b"}
    assert training_parameters(RECIPE) == asked
    assert SlurmConfig(**asked).time == 60


@pytest.mark.parametrize("gpus, per_gpu", [(0, 100), (1, 100), (3, 34), (16, 13)])
def test_memory_of_a_job_is_shared_among_the_gpus_of_a_node_in_whole_gb(gpus, per_gpu, team, monkeypatch):
    team("")
    monkeypatch.setenv(VARIABLE, f"mem=100 gpus={gpus}")
    assert training_parameters(RECIPE)["mem_per_gpu"] == per_gpu


def test_an_unknown_key_is_named_with_its_place(team, monkeypatch):
    team("  training: {gpu: 1}\n")
    with pytest.raises(ValueError, match=r"training\.gpu in the team's file is unknown: choose among partition, .*qos"):
        training_parameters(RECIPE)
    team("  slurm: {qos: 1}\n")
    with pytest.raises(ValueError, match=r"slurm\.qos in the team's file is unknown"):
        training_parameters(RECIPE)
    team("")
    monkeypatch.setenv(VARIABLE, "hours=1")
    with pytest.raises(ValueError, match="hours in QAMDT_SLURM is unknown"):
        training_parameters(RECIPE)


def test_dora_asks_for_it(team, monkeypatch):
    team("  training: {account: music, gpus: 2, mem: 30}\n")
    monkeypatch.setenv(VARIABLE, "time=7")
    asked = main.get_slurm_config()
    assert (asked.account, asked.gpus, asked.mem_per_gpu, asked.time, asked.partition) == ("music", 2, 15, 7, None)


def test_shards_and_trainings_share_their_names():
    assert set(SLURM_OPTIONS) == set(KEYS)
