"""Share the tracks of a manifest among processes: `--shard i/n` runs one share, `--slurm N` all as a job array.

For a command: `add_shard_options` to its parser, a module-level function that works on one shard, and `run_shards`.
"""

from __future__ import annotations

import argparse
import logging
import time
import typing as tp
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..compat import prepare
from .team import job_defaults, team

if tp.TYPE_CHECKING:
    from submitit import Job
    from submitit.core.utils import DelayedSubmission

logger = logging.getLogger(__name__)

Shard = tuple[int, int]
"""(i, n): every n-th row from the i-th on; (0, 1) is all of them."""
Row = tp.TypeVar("Row")

POLL = 1.0  # seconds between two looks at the files in which jobs leave their results
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it

# Option (--slurm-NAME, and key of `slurm` in the team's file) → submitit's parameter, type, help.
SLURM_OPTIONS: dict[str, tuple[str, type, str]] = {
    "partition": ("slurm_partition", str, "partitions, joined by commas (default: the team's)"),
    "account": ("slurm_account", str, "account that is charged"),
    "time": ("timeout_min", int, "minutes for a shard (default: 1200)"),
    "gpus": ("gpus_per_node", int, "GPUs for a shard (default: none)"),
    "mem": ("mem_gb", float, "GB of memory for a shard"),
    "cpus": ("cpus_per_task", int, "CPUs for a shard (default: 2)"),
}
DEFAULTS = {"time": 1200, "cpus": 2}


@dataclass
class Sharded:
    """Outcome of a command's shards.

    Args:
        results: what the work gave for each shard that ended well.
        lines: for the user: which shards failed and why, or how to follow jobs that were not waited for.
        status: exit status: 0, 1 where a shard failed, `INTERRUPTED` after Ctrl-C.
    """

    results: list[tp.Any] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    status: int = 0


def parse_shard(text: str) -> Shard:
    """Return the shard that "i/n" stands for.

    Raises:
        argparse.ArgumentTypeError: saying what is wrong with it.
    """
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be i/n, such as 0/4, 1/4, 2/4 and 3/4")
    shard = int(parts[0]), int(parts[1])
    try:
        take_shard([], shard)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return shard


def take_shard(rows: Sequence[Row], shard: Shard) -> Sequence[Row]:
    """Return the rows of a shard: every n-th from the i-th on.

    Raises:
        ValueError: where there is no such shard.
    """
    index, count = shard
    if count < 1:
        raise ValueError(f"shard {index}/{count}: the second number must be at least 1")
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count}: the first number must be from 0 to {count - 1}")
    return rows[index::count]


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Add `--shard`, `--slurm` and what belongs to them."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--shard", type=parse_shard, default=(0, 1), metavar="I/N", help="every N-th track, beginning with the I-th (0)"
    )
    one.add_argument("--slurm", type=_positive, metavar="N", help="submit N shards to SLURM as a job array")
    group = parser.add_argument_group("SLURM", "defaults: `slurm` and `partitions` of the team in config/teams")
    group.add_argument("--no-wait", action="store_true", help="submit and return")
    for name, (_, kind, text) in SLURM_OPTIONS.items():
        group.add_argument(f"--slurm-{name}", type=kind, metavar=name.upper(), help=text)
    group.add_argument(
        "--slurm-option",
        type=_key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other option of sbatch, such as constraint=a100",
    )
    group.add_argument("--slurm-logs", type=Path, metavar="DIR", help="shared folder for logs (default: Dora's)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of shards, at least 1")
    return int(text)


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must be KEY=VALUE")
    return key, value


def run_shards(args: argparse.Namespace, work: Callable[[Shard], object]) -> Sharded:
    """Run a command's work: on `args.shard` here, or on all `args.slurm` shards as a job array.

    Args:
        args: from a parser with `add_shard_options`, and `command`, its name.
        work: what to do with a shard. It is pickled for SLURM: a module-level function, or `functools.partial` of one.
    Raises:
        RuntimeError: where there is no SLURM, or it refuses the job.
    """
    if args.slurm is None:
        return Sharded([work(args.shard)])
    jobs = _submit(args, work)
    follow = _how_to_follow(jobs)
    if args.no_wait:
        return Sharded(lines=follow)
    logger.info("%s", follow[0])
    try:
        _wait(jobs)
    except KeyboardInterrupt:
        return Sharded(lines=["interrupted; the jobs keep running:", *follow], status=INTERRUPTED)
    return _collect(jobs)


@dataclass
class ShardJob:
    """The work on one shard, as submitit runs it: requeued after its time is over or it was preempted.

    Args:
        work: see `run_shards`; it must resume where it stopped.
        shard: which one.
    """

    work: Callable[[Shard], object]
    shard: Shard

    def __call__(self) -> object:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
        return self.work(self.shard)

    def checkpoint(self) -> DelayedSubmission:
        """Return the job that submitit submits again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def slurm_parameters(args: argparse.Namespace) -> dict[str, object]:
    """Return submitit's parameters: the options, else the team's, else `DEFAULTS`.

    Raises:
        ValueError: for an option that `slurm` of the team's file has and this module does not know.
    """
    given = {name: getattr(args, f"slurm_{name}") for name in SLURM_OPTIONS}
    chosen = DEFAULTS | job_defaults() | {name: value for name, value in given.items() if value is not None}
    parameters = {SLURM_OPTIONS[name][0]: value for name, value in chosen.items() if value != ""}
    exclude = team().get("slurm_exclude")
    others = ({"exclude": exclude} if exclude else {}) | dict(args.slurm_option)
    return parameters | ({"slurm_additional_parameters": others} if others else {})


def _logs(args: argparse.Namespace) -> Path:
    prepare()
    from audiocraft.environment import AudioCraftEnvironment

    folder = args.slurm_logs or AudioCraftEnvironment.get_dora_dir() / "shards"
    return folder.absolute() / f"{args.command}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000000:06d}"


def _submit(args: argparse.Namespace, work: Callable[[Shard], object]) -> list[Job]:
    import submitit

    try:
        executor = submitit.AutoExecutor(_logs(args), cluster="slurm")
    except RuntimeError as error:
        raise RuntimeError(f"--slurm: there is no SLURM on this machine ({error}); use --shard i/n") from error
    executor.update_parameters(name=f"qamdt-{args.command}", slurm_stderr_to_stdout=True, **slurm_parameters(args))
    try:
        with executor.batch():
            return [executor.submit(ShardJob(work, (index, args.slurm))) for index in range(args.slurm)]
    except submitit.core.utils.FailedJobError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RuntimeError(
            f"SLURM refused the jobs ({reason}): see the --slurm options, or partitions and slurm in the team's file"
        ) from error


def _how_to_follow(jobs: list[Job]) -> list[str]:
    array = jobs[0].job_id.split("_")[0]
    return [
        f"{len(jobs)} shards submitted as job {array}, logs in {jobs[0].paths.folder}",
        f"to watch them: squeue -j {array}; to cancel them: scancel {array}",
        "when they have ended, run the same command without --slurm: nothing is done twice, and it sums up",
    ]


def _wait(jobs: list[Job]) -> None:
    with tqdm(total=len(jobs), desc="shards", unit="shard") as progress:
        running = jobs
        while running:
            time.sleep(POLL)
            running = [job for job in running if not job.done()]
            if len(jobs) - len(running) > progress.n:
                progress.update(len(jobs) - len(running) - progress.n)


def _collect(jobs: list[Job]) -> Sharded:
    done = Sharded()
    for index, job in enumerate(jobs):
        error = job.exception()
        if error is None:
            done.results.append(job.result())
        else:
            reason = _reason(job, error)
            done.lines.append(f"shard {index}/{len(jobs)} failed ({reason}): see {job.paths.stdout}")
    done.status = 1 if done.lines else 0
    return done


def _reason(job: Job, error: Exception) -> str:
    """Return the last line of the job's exception, or SLURM's state where the job was ended from outside."""
    if not job.paths.result_pickle.exists():
        return job.get_info().get("State", "it left no result")
    return str(error).split("-" * 22)[1].strip().splitlines()[-1]
