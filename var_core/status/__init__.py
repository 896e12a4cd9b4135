"""How far a run is, read from the files that it leaves: ``python -m var_core.status``."""
