"""Checks of a machine or a cluster before hours of work are queued there: ``python -m var_core.preflight``."""
