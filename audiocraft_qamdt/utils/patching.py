"""Replace a module's attribute while another library's code looks it up there."""

from __future__ import annotations

import typing as tp
from contextlib import contextmanager


@contextmanager
def replaced(owner: object, name: str, value: object) -> tp.Iterator[None]:
    """Let `owner.name` be `value` inside the context; what was there is put back, whatever is raised."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
