"""One module a figure, one shared style."""
