"""Deciding in the router's place: tables, context cache, budget, audit and certificate."""
