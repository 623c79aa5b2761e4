"""Dora grids: `dora grid qamdt.<name>` (config/config.yaml names this package)."""
