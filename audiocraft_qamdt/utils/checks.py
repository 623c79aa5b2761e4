"""Checks of what users give."""

from __future__ import annotations

import math
import typing as tp


def is_number(value: object) -> tp.TypeGuard[float]:
    """Return whether a value is a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
