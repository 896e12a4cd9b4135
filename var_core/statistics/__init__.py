"""Exact, mergeable statistics of routing decisions, their files, and the measures derived from counts."""
