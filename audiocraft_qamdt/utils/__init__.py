"""Files, plots, pages, randomness, checks, AudioCraft prepared, Dora's private names; only `compat` is below."""
