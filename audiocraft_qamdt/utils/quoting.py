"""Overrides as people type them: values that Hydra's grammar would parse or refuse, such as folders with commas."""

from __future__ import annotations


def quoted(argument: str) -> str:
    """Return an override with its value in quotes where Hydra cannot take it as it is; anything else unchanged.

    A list of choices is a sweep to Hydra; Dora has none, so it is a name with commas.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    parse = OverridesParser.create().parse_override
    try:
        if not equals or not parse(argument).is_sweep_override():
            return argument
    except HydraException:
        pass
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    candidate = f"{key}='{escaped}'"
    try:
        parse(candidate)
    except HydraException:
        return argument  # the key is wrong: Hydra says so
    return candidate
