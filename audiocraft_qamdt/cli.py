"""The `qamdt` command: data, quality and trying things out. Training is `dora run solver=qamdt/...`."""

from __future__ import annotations

import argparse
import logging
import sys

from .commands import (
    annotate,
    app,
    captions,
    data,
    demo,
    evaluate,
    generate,
    grid,
    listening,
    models,
    noise_range,
    quality_curve,
    report,
)
from .commands.parsing import Parser
from .utils.errors import reporting

TOPICS = [
    data,
    annotate,
    noise_range,
    captions,
    generate,
    app,
    evaluate,
    listening,
    quality_curve,
    grid,
    report,
    models,
    demo,
]
"""Modules whose `add_parsers(commands)` adds subcommands, in the order that `--help` lists them."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qamdt", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for topic in TOPICS:
        topic.add_parsers(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a `qamdt` command; mistakes of the user end with one line and exit status 2."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for client in ("httpx", "httpx2"):  # a line for each request to the hub
        logging.getLogger(client).setLevel(logging.WARNING)
    return reporting(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
