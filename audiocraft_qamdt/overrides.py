"""Overrides of a grid against the config that they compose, before any of its experiments is started."""

from __future__ import annotations

import difflib
import typing as tp

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

ERRORS = (HydraException, OmegaConfBaseException, AssertionError, ValueError)
"""What Hydra, OmegaConf and Dora raise for overrides that they cannot use."""


def checked(main: tp.Any, argv: tp.Sequence[str]) -> tp.Any:
    """Dora's experiment with these overrides.

    Args:
        main: decorated by Dora.
        argv: overrides, the recipe first.
    Raises:
        ValueError: one line that names the first override at fault: no key or no choice of the config.
    """
    try:
        return main.get_xp(argv)
    except ERRORS as error:
        index = next((i for i in range(len(argv)) if not _composes(main, argv[: i + 1])), len(argv) - 1)
        raise ValueError(f"{argv[index]}: {_reason(main, argv[:index], argv[index], error)}") from error


def _composes(main: tp.Any, argv: tp.Sequence[str]) -> bool:
    try:
        main.get_xp(argv)
    except ERRORS:
        return False
    return True


def _reason(main: tp.Any, before: tp.Sequence[str], override: str, error: Exception) -> str:
    key, equals, _ = override.partition("=")
    if not equals:
        return "an override is key=value"
    reason = str(error).strip().splitlines()[0]
    if not reason.startswith(("Could not override", "Key ")):
        return reason
    keys = _keys(OmegaConf.to_container(main.get_xp(before).cfg))
    near = difflib.get_close_matches(key.lstrip("+~"), keys, n=1)
    return f"the config has no key {key}" + (f", did you mean {near[0]}?" if near else "")


def _keys(node: tp.Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix[:-1]]
    return [key for name, child in node.items() for key in _keys(child, f"{prefix}{name}.")]
