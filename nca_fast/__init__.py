"""Fast neural cellular automata: a fused rollout and its gradients, and what people build on it.

What is offered here is loaded when it is first asked for: torch takes seconds, in which the command line can already
say its version and hear Ctrl-C.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nca_fast.waiting import wait_briefly

if TYPE_CHECKING:
    from nca_fast import convert, filters, frames, reference
    from nca_fast.convolutions import alive
    from nca_fast.filters import Filter
    from nca_fast.fire_masks import fire_mask
    from nca_fast.frames import frame
    from nca_fast.nca import NCA
    from nca_fast.normals import normal
    from nca_fast.ops import rollout
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
    "frame",
    "frames",
    "normal",
    "reference",
    "rollout",
]

# Name -> the module that it is in; of other names in `__all__` it is the module itself.
_HOMES = {
    "NCA": "nca",
    "Filter": "filters",
    "Rule": "rule",
    "alive": "convolutions",
    "fire_mask": "fire_masks",
    "frame": "frames",
    "normal": "normals",
    "rollout": "ops",
}

wait_briefly()  # before torch is loaded, if it is not


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_module(f"{__name__}.{_HOMES.get(name, name)}")
    globals()[name] = value = getattr(found, name) if name in _HOMES else found
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
