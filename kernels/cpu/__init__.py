"""The C++ backend, see `nca_fast.backends.Backend`."""

from .build import load
from .limits import DEVICE, bytes_per_cell, refusal

__all__ = ["DEVICE", "bytes_per_cell", "load", "refusal"]
