"""Metrics that AudioCraft lacks, in one table beside its own (`table.METRICS`), fed by one pass over audio."""
