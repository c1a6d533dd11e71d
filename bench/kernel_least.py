"""The least that a part of the C++ kernel can take on Zen 4, by counting the instructions of its loop.

A part takes no less time than the unit of the core that it keeps busy longest. What a 512-bit instruction costs there
was measured instruction by instruction (bench/NOTES.md); that a load waits for memory, or an instruction for another
one, is not counted, so that no part can reach its least and most stand well above.
"""

from typing import NamedTuple

import numpy as np

from nca_fast import NCA

LANES = 16
STEPS = 4  # of a chain: each copies rows from memory once, and writes them there once
FOLD = 1024  # firing cells whose weight gradients are summed in float32
FAR, COMPRESS = 1.5, 4 / 3  # cycles of a load that takes from two lines of the cache; of a compression or expansion
STORE, FAR_STORE = 2, 3


class Cycles(NamedTuple):
    """Cycles that each unit of a core is busy for."""

    multiply: float = 0.0
    add: float = 0.0
    shuffle: float = 0.0
    load: float = 0.0
    store: float = 0.0

    def __add__(self, other: "Cycles") -> "Cycles":  # type: ignore[override]
        return Cycles(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, n: float) -> "Cycles":
        """So many times these."""
        return Cycles(*(n * one for one in self))


WORDS = {"multiply": "multiply-adds", "add": "additions", "shuffle": "shuffles", "load": "loads", "store": "stores"}


class Filters(NamedTuple):
    """What the filters of a rule cost: their number, profiles and terms (see kernels/cpu/filters.h), multiplications
    of profiles, rows to either side."""

    count: int
    profiles: int
    terms: int
    weights: int
    reach: int


def filters_of(nca: NCA) -> Filters:
    """Counts, as the kernel does, columns of filters that are multiples of each other once."""
    stencils = [np.array(stencil) for stencil in nca.rule.kernel_rule.stencils]
    reach = len(stencils[0]) // 2
    columns = [column for stencil in stencils for column in stencil.T if column.any()]
    profiles: list[np.ndarray] = []
    for column in columns:
        if not any(np.linalg.matrix_rank(np.stack([column, known]), 1e-6) == 1 for known in profiles):
            profiles.append(column)
    weights = 0
    for profile in profiles:
        even, odd = (profile + profile[::-1])[reach:], (profile - profile[::-1])[reach:]
        weights += np.count_nonzero(np.abs(even) > 1e-6) + np.count_nonzero(np.abs(odd) > 1e-6)
    return Filters(len(stencils), len(profiles), len(columns), int(weights), reach)


def perception(filters: Filters, window: int) -> Cycles:
    """Of a channel and 16 columns."""
    if filters.reach == 1:  # in registers: three columns are loaded, two profiles of each shifted both ways
        known = Cycles(multiply=1 + filters.count, add=1 + filters.count, shuffle=4, load=3)
    else:
        known = Cycles(
            multiply=filters.weights + filters.terms,
            add=2 * filters.reach,
            load=2 * filters.reach + 1 + FAR * filters.terms,
            store=STORE * filters.profiles,
        )
    packed = Cycles(shuffle=COMPRESS, store=FAR_STORE)
    most = Cycles(add=4 * (window - 1) + 1, load=(1 + FAR) * window + 1, store=STORE)
    return known + packed.times(filters.count + (window > 0)) + (most if window else Cycles())


def transposed(filters: Filters, window: int) -> Cycles:
    """Of a channel and 16 columns: the gradient of the perception to that of the state."""
    rows = 2 * filters.reach + 1
    into = Cycles(add=rows, load=rows, store=STORE * rows)
    if filters.reach == 1:
        taken = Cycles(shuffle=COMPRESS + 2, load=FAR).times(filters.count)
        return taken + Cycles(multiply=2 * filters.count + 2, add=4) + into
    spread = Cycles(multiply=filters.terms + filters.weights, add=2 * filters.reach, load=FAR * filters.terms)
    most = Cycles(add=2 * window**2 + window, load=2 * FAR * window**2 + window, store=STORE * window)
    return spread + into + (most if window else Cycles())


def least(nca: NCA, kind: str) -> dict[str, Cycles]:
    """Cycles of each part of `bench.kernel_parts`, of a cell-step.

    Args:
        nca: The automaton.
        kind: "forward" or "training".
    """
    rule, trains = nca.rule, kind == "training"
    filters, window = filters_of(nca), rule.kernel_rule.maximum_window or 0
    shapes = [tuple(layer.weight.shape[:2]) for layer in nca.layers]  # (outputs, inputs)
    products = [outputs * inputs for outputs, inputs in shapes]
    fired, channel = rule.fire_rate / LANES, rule.channels / LANES  # vectors of a cell-step
    once = STEPS if rule.alive_channel is None else 1
    both = 2 if trains else 1
    found = {
        "products: hidden units": Cycles(multiply=both * sum(products[:-1])).times(fired),
        "products: updates": Cycles(multiply=products[-1]).times(fired),
        "perception": perception(filters, window).times(both * channel),
        "who fires": Cycles(multiply=3, add=5).times(both / LANES),
        "rows copied": Cycles(load=1, store=STORE).times((1 / once + trains) * channel),
        "rows written": Cycles(add=1, shuffle=COMPRESS, load=1 + FAR, store=STORE).times(channel),
    }
    if (
        rule.alive_channel is not None
    ):  # the alive channel is compared before and after, and who fires is drawn once more
        found["who is alive"] = Cycles(multiply=3, add=7, load=2).times(both / LANES)
    if not trains:
        return found
    units, inputs = shapes[-1][1], shapes[0][1]
    parameters = sum(products) + sum(outputs for outputs, _ in shapes)
    square = Cycles(shuffle=32, load=32, store=STORE * LANES)  # 16 rows of 16 cells
    found |= {
        "states saved": Cycles(load=1, store=STORE).times((1 - 1 / once) * channel),
        "products: gradients of weights": Cycles(multiply=sum(products)).times(fired),
        "products: gradients of hidden units": Cycles(products[-1], units, 0, units, STORE * units).times(fired),
        "products: gradients of the perception": Cycles(multiply=products[0]).times(fired),
        "gradients packed": Cycles(shuffle=COMPRESS, load=1, store=FAR_STORE).times(channel),
        "inputs transposed": square.times((inputs + units) / LANES * fired),
        "gradients of biases": Cycles(add=1, load=1).times(sum(outputs for outputs, _ in shapes) * fired),
        "sums of weights folded": Cycles(add=2, load=1.5, store=3).times(parameters / 8 * rule.fire_rate / FOLD),
        "transposed filters": transposed(filters, window).times(channel),
        "gradients begun": Cycles(load=1, store=STORE).times(channel),
    }
    if filters.reach > 1:
        maps = filters.count + (window > 0)
        found["gradients put in place"] = Cycles(shuffle=COMPRESS, load=FAR, store=STORE).times(maps * channel)
    if window:
        found["winners of maxima"] = Cycles(add=3 * window**2, load=2 * FAR * window**2, store=STORE).times(channel)
    return found


def bound(cycles: Cycles) -> tuple[float, str]:
    """The cycles of the busiest unit, and what it does."""
    unit = max(Cycles._fields, key=lambda name: getattr(cycles, name))
    return getattr(cycles, unit), WORDS[unit]
