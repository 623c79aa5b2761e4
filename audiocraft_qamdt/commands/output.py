"""Print the results of commands."""

from __future__ import annotations

import sys
import typing as tp


def say(lines: tp.Iterable[str]) -> None:
    """Print results, a line each, on standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
