"""Shares of the rows are whole and separate, and options reach submitit; jobs themselves are in tests/slurm."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiocraft_qamdt.slurm.shards import add_shard_options, parse_shard, run_shards, slurm_parameters, take_shard


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.set_defaults(command="work")
    add_shard_options(parser)
    return parser.parse_args(argv)


@given(st.lists(st.integers()), st.integers(1, 20))
def test_shards_share_all_rows_and_none_twice(rows, count):
    shares = [take_shard(rows, parse_shard(f"{index}/{count}")) for index in range(count)]
    assert sorted(row for share in shares for row in share) == sorted(rows)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("3", "'3' must be i/n, such as 0/4"),
        ("a/b", "'a/b' must be i/n"),
        ("-1/4", "'-1/4' must be i/n"),
        ("1/2/3", "'1/2/3' must be i/n"),
        ("4/4", "shard 4/4: the first number must be from 0 to 3"),
        ("0/0", "shard 0/0: the second number must be at least 1"),
    ],
)
def test_a_wrong_shard_is_refused_with_what_is_wrong(text, message, capsys):
    with pytest.raises(SystemExit):
        parse(f"--shard={text}")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--slurm", "0"], "at least 1"),
        (["--slurm", "2", "--shard", "0/2"], "not allowed with"),
        (["--slurm-option", "qos"], "'qos' must be KEY=VALUE"),
    ],
)
def test_options_that_make_no_sense_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        parse(*argv)
    assert message in capsys.readouterr().err


def test_without_slurm_the_work_is_done_here():
    assert run_shards(parse(), lambda shard: shard).results == [(0, 1)]
    done = run_shards(parse("--shard", "2/5"), lambda shard: shard)
    assert (done.results, done.lines, done.status) == ([(2, 5)], [], 0)


def test_the_teams_file_gives_the_defaults_and_options_win(team):
    team("  partitions: {team: ours, global: all}\n  slurm_exclude: bad1,bad2\n  slurm: {account: music, time: 30}\n")
    assert slurm_parameters(parse()) == {
        "slurm_partition": "ours,all",
        "slurm_account": "music",
        "timeout_min": 30,
        "cpus_per_task": 2,
        "slurm_additional_parameters": {"exclude": "bad1,bad2"},
    }
    argv = "--slurm-partition x --slurm-time 5 --slurm-gpus 1 --slurm-mem 8 --slurm-cpus 3 --slurm-option qos=low"
    assert slurm_parameters(parse(*argv.split())) == {
        "slurm_partition": "x",
        "slurm_account": "music",
        "timeout_min": 5,
        "gpus_per_node": 1,
        "mem_gb": 8.0,
        "cpus_per_task": 3,
        "slurm_additional_parameters": {"exclude": "bad1,bad2", "qos": "low"},
    }


def test_a_team_without_slurm_settings_leaves_them_to_slurm(team):
    team("  partitions: {team: same, global: same}\n")
    assert slurm_parameters(parse())["slurm_partition"] == "same"
    team("")
    assert slurm_parameters(parse()) == {"timeout_min": 1200, "cpus_per_task": 2}
    team("  slurm: {gpu: 1}\n")
    with pytest.raises(ValueError, match=r"slurm\.gpu in the team's file is unknown: choose among partition, .*gpus"):
        slurm_parameters(parse())


def test_where_there_is_no_slurm_it_says_so(team, tmp_path, monkeypatch):
    team("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"--slurm: there is no SLURM on this machine .*use --shard i/n"):
        run_shards(parse("--slurm", "2"), print)
