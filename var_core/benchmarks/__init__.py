"""What capture costs: paired timings against other ways to the same statistics, and memory that does not grow."""
