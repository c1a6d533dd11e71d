"""The Triton backend, see `nca_fast.backends.Backend`."""

from .limits import DEVICE, bytes_per_cell, load, refusal

__all__ = ["DEVICE", "bytes_per_cell", "load", "refusal"]
