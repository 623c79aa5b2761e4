"""The help of the commands: it can be shown for each, and says what options are where they are not given."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from audiocraft_qamdt import cli


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def test_help_gives_the_default_of_every_option_that_has_a_number():
    everything = list(parsers(cli._parser()))
    assert len(everything) > 15
    for parser in everything:
        text = " ".join(parser.format_help().split())
        for action in parser._actions:
            if action.help and action.option_strings and type(action.default) in (int, float):
                assert f"(default: {action.default})" in text or "default" in action.help, (parser.prog, action.dest)


def test_help_gives_no_default_where_there_is_none():
    text = next(parser for parser in parsers(cli._parser()) if parser.prog.endswith("generate")).format_help()
    assert "None" not in text and "SUPPRESS" not in text and "(default: False)" not in text
    assert "file of one clip, or folder (default: generated)" in " ".join(text.split())
