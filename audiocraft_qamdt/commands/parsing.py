"""A command line whose usual subcommand need not be named."""

from __future__ import annotations

import argparse
import typing as tp


class Parser(argparse.ArgumentParser):
    """Parser of commands; with `usual` set, arguments that begin with no subcommand are those of the usual one."""

    usual: str | None = None
    others: tuple[str, ...] = ()

    def parse_known_args(self, args: tp.Any = None, namespace: tp.Any = None) -> tp.Any:
        """See `argparse`."""
        if self.usual is not None and args and args[0] not in (self.usual, *self.others, "-h", "--help"):
            args = [self.usual, *args]
        return super().parse_known_args(args, namespace)
