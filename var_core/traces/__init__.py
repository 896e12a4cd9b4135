"""The ordered record of decisions, one row a token and layer."""
