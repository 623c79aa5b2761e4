"""A command line whose usual subcommand need not be named."""

from __future__ import annotations

import argparse
import typing as tp
from pathlib import Path


class _Help(argparse.HelpFormatter):
    """Help that gives the default of each option that has one, where the text does not."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        given = isinstance(action.default, (int, float, str, Path)) and not isinstance(action.default, bool)
        given = given and action.default != argparse.SUPPRESS
        if not (action.help and action.option_strings and given) or "default" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Parser of commands, whose help gives defaults.

    With `usual` set, arguments that begin with no subcommand are those of the usual one.
    """

    usual: str | None = None
    others: tuple[str, ...] = ()

    def __init__(self, *args: tp.Any, **options: tp.Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, **options})

    def parse_known_args(self, args: tp.Any = None, namespace: tp.Any = None) -> tp.Any:
        """See `argparse`."""
        if self.usual is not None and args and args[0] not in (self.usual, *self.others, "-h", "--help"):
            args = [self.usual, *args]
        return super().parse_known_args(args, namespace)
