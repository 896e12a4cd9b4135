"""What predictable routing is worth: counted and measured costs, expert caches on real traces, when it pays."""
