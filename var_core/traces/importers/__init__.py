"""Reading routing that engines and other people recorded."""
