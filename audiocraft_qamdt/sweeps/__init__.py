"""Sweeps: Dora grids run on one machine, their overrides checked, their results compared."""
