"""What studies are called. Light, for the workflow reads it."""

SEARCH, CONTROL = "search", "random"
"""The study by the configured sampler; and the one beside it, as many trials drawn at random."""
