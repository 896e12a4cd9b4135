"""Experts that are really offloaded: only some of a model's experts in fast memory, the others streamed when needed."""
