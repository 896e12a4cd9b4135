"""DuckDB: the tables and views over all runs, and the ready queries."""
