"""QA-MDT for AudioCraft: quality-aware masked diffusion for text-to-music (arXiv 2405.15863).

`QAMDT` generates with a trained model; `register()` adds the solver, conditioners and codecs to AudioCraft. Both are
imported when they are first used: importing this package changes nothing and imports nothing else.
"""

from __future__ import annotations

import typing as tp
from importlib import import_module

from .utils.version import __version__ as __version__

if tp.TYPE_CHECKING:
    from .generation.qamdt import QAMDT
    from .register import register

__all__ = ["QAMDT", "register"]


def __getattr__(name: str) -> object:
    if name == "QAMDT":
        return import_module(".generation.qamdt", __name__).QAMDT
    if name == "register":  # the module itself, which can be called: see its end
        return import_module(".register", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
