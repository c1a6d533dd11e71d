"""The Triton backend, see `nca_fast.backends.Backend`."""

from .limits import DEVICE, LEARNS, bytes_per_cell, load, refusal

__all__ = ["DEVICE", "LEARNS", "bytes_per_cell", "load", "refusal"]
