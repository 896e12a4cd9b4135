"""What a policy costs in quality: loss, generated programs, and how sure that is."""
