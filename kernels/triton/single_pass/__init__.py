"""A step in one kernel: perception lives in registers."""
