"""Overrides of a grid against the config that they compose, before any of its experiments is started."""

from __future__ import annotations

import difflib
import functools
import typing as tp

from dora.hydra import HydraMain
from dora.xp import XP
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..utils.dora import config_groups
from ..utils.errors import first_line

ERRORS = (HydraException, OmegaConfBaseException, AssertionError, ValueError)
"""What Hydra, OmegaConf and Dora raise for overrides that they cannot use."""


def checked(main: HydraMain, argv: tp.Sequence[str]) -> XP:
    """Return Dora's experiment with these overrides.

    Args:
        main: decorated by Dora.
        argv: overrides, the recipe first.
    Raises:
        ValueError: one line that names the first override at fault: no key or no choice of the config, or another kind
            of value.
    """
    try:
        xp = main.get_xp(argv)
    except ERRORS as error:
        index = next((i for i in range(len(argv)) if not _composes(main, argv[: i + 1])), len(argv) - 1)
        raise ValueError(f"{argv[index]}: {_reason(main, argv[:index], argv[index], error)}") from error
    check_kinds(main, xp)
    return xp


def check_kinds(main: HydraMain, xp: XP) -> None:
    """Refuse values of another kind than the config's own: text for a number, a number for a list.

    Whatever the config leaves open (null) may be anything, and null may stand for anything; text may be a number, too
    (a name such as 12).

    Raises:
        ValueError: one line that names the first such override.
    """
    groups = config_groups(main)
    base = _chosen(main, tuple(argument for argument in xp.argv if argument.split("=")[0] in groups))
    for key, value in xp.delta or []:
        own = OmegaConf.select(base, key)
        wanted, given = _kind(own), _kind(value)
        known = (wanted, given) in _TEXT_MAY_BE or any(isinstance(v, str) and (key, v) in _WORDS for v in (own, value))
        if None in (wanted, given) or wanted == given or known:
            continue
        raise ValueError(f"{key}={value}: {key} is {wanted} ({own} in the config), this is {given}")


@functools.lru_cache(maxsize=64)  # hundreds of runs of a grid share a few recipes
def _chosen(main: HydraMain, choices: tuple[str, ...]) -> DictConfig:
    """Return the config with these choices of files and nothing else changed."""
    return main.get_xp(choices).cfg


_TEXT_MAY_BE = {("text", "a number"), ("text", "true or false")}
_WORDS = {("dataset.shuffle_quality", "published"), ("quality.noise_range", "measured")}
"""Words that a key takes beside values of another kind."""


def _kind(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | ListConfig):
        return "a list"
    return "a group of keys"


def _composes(main: HydraMain, argv: tp.Sequence[str]) -> bool:
    try:
        main.get_xp(argv)
    except ERRORS:
        return False
    return True


def _reason(main: HydraMain, before: tp.Sequence[str], override: str, error: Exception) -> str:
    key, equals, _ = override.partition("=")
    if not equals:
        return "an override is key=value"
    reason = first_line(error)
    if not reason.startswith(("Could not override", "Key ")):
        return reason
    keys = _keys(OmegaConf.to_container(main.get_xp(before).cfg))
    near = difflib.get_close_matches(key.lstrip("+~"), keys, n=1)
    return f"the config has no key {key}" + (f", did you mean {near[0]}?" if near else "")


def _keys(node: object, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix[:-1]]
    return [key for name, child in node.items() for key in _keys(child, f"{prefix}{name}.")]
