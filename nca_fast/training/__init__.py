"""Training: one loop, one pool, and per task one config dataclass with one train function."""
