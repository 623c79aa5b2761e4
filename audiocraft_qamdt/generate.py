"""The address of `QAMDT` in READMEs of published exports: `from audiocraft_qamdt.generate import QAMDT` stays valid.

New code imports it as `from audiocraft_qamdt import QAMDT`.
"""

from .generation.qamdt import QAMDT

__all__ = ["QAMDT"]
