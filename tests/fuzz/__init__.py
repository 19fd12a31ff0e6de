"""Mutated input for every reader of foreign bytes: `make fuzz MINUTES=2`."""
