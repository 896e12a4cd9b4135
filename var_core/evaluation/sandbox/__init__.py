"""Running a program that nobody has read: what it may touch, for how long, and what became of it."""
