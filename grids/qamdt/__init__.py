"""Sweeps of QA-MDT: `dora grid qamdt.<name>` on SLURM, `qamdt grid qamdt.<name>` on this machine."""
