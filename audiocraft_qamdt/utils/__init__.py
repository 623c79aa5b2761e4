"""Files, plots, pages and randomness: used everywhere, import nothing of the package outside this folder."""
