"""H1 to H4: statistics, intervals, nulls and verdicts."""
