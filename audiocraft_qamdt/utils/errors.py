"""The one place that turns exceptions into what a user reads: one line, and exit status 2."""

from __future__ import annotations

import logging
import os
import typing as tp
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("qamdt")

MISTAKE = 2
"""Exit status of a command that the user can mend, as argparse has it."""

INTERRUPTED = 130
_PACKAGE = str(Path(__file__).resolve().parent.parent)
_QUOTED = "quote it twice for Hydra, '{key}=\"{value}\"', with \\ before each quotation mark inside"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reporting(call: tp.Callable[[], int | None]) -> int:
    """Call a command; a mistake of the user becomes one line in the log, a bug stays a traceback.

    With HYDRA_FULL_ERROR=1 every error is a traceback.

    Returns:
        Exit status.
    """
    try:
        return call() or 0
    except KeyboardInterrupt:
        logger.error("interrupted; what is complete is kept")
        return INTERRUPTED
    except Exception as error:
        message = _message(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        logger.error("%s", message)
        return MISTAKE


def _message(error: Exception) -> str | None:
    """Return the message for the user; None = it is no mistake of theirs."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    text = str(error).strip()
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _hydra_message(error, text)
    if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
        return text if _raised_here(error) else None
    return text if isinstance(error, (OSError, ValueError, ImportError)) and text else None


def _hydra_message(error: Exception, text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if type(error).__name__ == "OverrideParseException":
        key, _, value = str(getattr(error, "override", "")).partition("=")
        return f"{lines[0]}: {_QUOTED.format(key=key, value=value)}"
    return "; ".join(lines[:3]) or type(error).__name__


def _raised_here(error: Exception) -> bool:
    """Return whether this package raised it: torch's own RuntimeErrors have no other remedy than a traceback."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_filename.startswith(_PACKAGE)


class MissingWeights(RuntimeError):
    """Pretrained weights that a recipe needs are missing; the message names them, the reason and an alternative."""


_WITHOUT_WEIGHTS = "run `dora run solver=qamdt/playground`, which needs no weights and no network"


@contextmanager
def needing_weights(what: str, key: str, otherwise: str = _WITHOUT_WEIGHTS) -> tp.Iterator[None]:
    """Turn what loading weights raises into `MissingWeights`; a setting that does not fit stays a ValueError.

    Args:
        what: the weights, as the message names them.
        key: config key of a local copy.
        otherwise: what to do where there is none.
    """
    try:
        yield
    except ValueError:  # a setting that does not fit, not weights that are missing
        raise
    except Exception as error:  # whatever the hub, the file system or the library raises, the user needs one message
        raise MissingWeights(
            f"{what} could not be loaded: {first_line(error)}\nSet {key} to a local copy, or {otherwise}."
        ) from error
