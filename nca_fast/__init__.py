"""Fast neural cellular automata: a fused rollout and its gradients, and what people build on it."""

from nca_fast import convert, filters, reference
from nca_fast.filters import Filter
from nca_fast.fire_mask import fire_mask
from nca_fast.nca import NCA
from nca_fast.normals import normal
from nca_fast.ops import rollout
from nca_fast.reference import alive
from nca_fast.rule import Rule

__version__ = "0.1.0"
__all__ = [
    "NCA",
    "Filter",
    "Rule",
    "alive",
    "convert",
    "filters",
    "fire_mask",
    "normal",
    "reference",
    "rollout",
]
