"""The search for a policy's settings, on recorded decisions, and what is chosen of it."""
