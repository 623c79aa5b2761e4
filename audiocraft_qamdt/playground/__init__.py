"""A test bench: synthetic music with known instruments, chords and captions, degraded by known amounts.

It makes the whole pipeline run on one CPU with nothing downloaded. It is never presented as music quality.
"""
