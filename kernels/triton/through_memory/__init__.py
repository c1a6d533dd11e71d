"""A step in two kernels: perception goes through memory."""
