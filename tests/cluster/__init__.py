"""A real Slurm on one machine, and the workflow on it while things go wrong."""
