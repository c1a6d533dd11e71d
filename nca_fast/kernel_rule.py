"""What a kernel needs to know of a rule, as plain numbers."""

from array import array
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

from nca_fast.activations import Activation
from nca_fast.derivatives import Derivatives


@dataclass(frozen=True)
class KernelRule:
    """A rule as kernels are told of it.

    Args:
        stencils: [F][S][S] with S the size of the largest filter, 3 at least; smaller ones lie in the middle. Rounded
            to float32, so that all kernels multiply by the same numbers.
        layers: (outputs, inputs, has a bias) of every layer.
        activations: Of every layer; the last is that of the update.
        alive_circular: Whether the alive mask looks beyond the edges to the other side.
        derivatives: The numbers of the stencils that frames turn and scale.
        The others as in `Rule`.
    """

    stencils: tuple[tuple[tuple[float, ...], ...], ...]
    layers: tuple[tuple[int, int, bool], ...]
    frozen: int
    padding: str
    maximum_window: int | None
    alive_channel: int | None
    alive_threshold: float
    alive_mask: str
    alive_circular: bool
    fire_shared: tuple[str, ...]
    activations: tuple[Activation, ...]
    residual: bool
    clamp: tuple[float | None, float | None] | None
    state_noise: float
    update_noise: float
    learned_filters: int
    derivatives: Derivatives

    @classmethod
    def of(cls, rule: Any) -> "KernelRule":
        """Takes from a `Rule` what kernels see; of equal rules the same object, soon found where it is a key."""
        size = max([3, *(filter.size for filter in rule.filters)])

        def padded(filter):
            side = (0.0,) * ((size - filter.size) // 2)
            blank = ((0.0,) * size,) * len(side)
            return (*blank, *((*side, *array("f", row), *side) for row in filter.kernel), *blank)

        stencils = tuple(map(padded, rule.filters))
        alive = (rule.alive_channel, rule.alive_threshold, rule.alive_mask, rule.alive_circular)
        noise = (rule.state_noise, rule.update_noise)
        step = (rule.fire_shared, rule.activations, rule.residual, rule.clamp, *noise)
        seen = (rule.frozen, rule.padding, rule.maximum_window)
        return _only(cls(stencils, rule.layers, *seen, *alive, *step, rule.learned_filters, rule.derivatives))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self):
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    @property
    def circular(self) -> bool:
        """Whether the canvas is a torus."""
        return self.padding == "circular"

    @property
    def channels(self) -> int:
        """State channels."""
        return self.frozen + self.layers[-1][0]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(out for out, _, _ in self.layers[:-1])


@lru_cache(maxsize=256)
def _only(rule):
    return rule
