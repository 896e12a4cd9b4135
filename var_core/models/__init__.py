"""Language models: training the demo model, fetching, loading, and n-gram baselines."""
