"""AudioCraft, made importable: a module that imports AudioCraft imports this one, too.

Imports are sorted such that AudioCraft's come last (see .ruff.toml); a test looks that none lacks this one.
"""

from ..compat import prepare

prepare()
