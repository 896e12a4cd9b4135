"""Inside the model: finding routers and experts, and reading the decisions they really make."""
