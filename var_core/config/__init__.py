"""Settings: pydantic models, one module a block; they generate the default YAML, the schema and the reference."""
