"""Print the results of commands."""

from __future__ import annotations

import sys
import typing as tp


def say(lines: tp.Iterable[str]) -> None:
    """Print results, a line each, on standard output."""
    text = "".join(f"{line}\n" for line in lines)
    encoding = sys.stdout.encoding or "utf-8"
    # A name that the terminal's encoding cannot show is printed with escapes: the work it reports is done.
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
