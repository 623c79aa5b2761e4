"""Freely licensed music from Debian's packages, or any folder of music, as an AudioCraft data set."""
