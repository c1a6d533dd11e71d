"""The C++ backend, see `nca_fast.backends.Backend`."""

from .build import load
from .limits import DEVICE, LEARNS, bytes_per_cell, refusal

__all__ = ["DEVICE", "LEARNS", "bytes_per_cell", "load", "refusal"]
