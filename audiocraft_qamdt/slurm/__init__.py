"""SLURM: what jobs ask for (`team`), and work that is split over jobs (`shards`)."""
