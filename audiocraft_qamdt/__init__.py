"""QA-MDT for AudioCraft: quality-aware masked diffusion for text-to-music (arXiv 2405.15863).

Importing this package changes nothing: call `audiocraft_qamdt.register.register()` to add it to AudioCraft.
"""

__version__ = "0.1.0"
