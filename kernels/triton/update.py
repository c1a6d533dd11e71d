"""The end of a step in Triton, from what the last layer gives to the next state; and its gradient.

    v = s + m (f(u) + noise)        without RESIDUAL: f(u) + noise where m, else s
    x' = clamp(v alive)

on the written channels; the others are copied. Both ways of the kernels, one kernel or through memory, end in it.
Where a cell must live for its update (LIVING = 1), m is cut to the living; where it must for all that is written (2),
all that is written is multiplied by `alive`. What else makes a cell die comes after these kernels (alive.py), and may:
the clamp holds zero.
"""

import triton
import triton.language as tl

from .activations import IDENTITY, applied, function
from .fire import NORMAL_UNIT


def update_constants(rule, living: int) -> dict:
    """Lists what kernels are told of the end of a rule's step (`nca_fast.rule.KernelRule`).

        FROZEN, WRITTEN: How many channels are copied, and how many are written after them.
        FUNCTIONS: Of the layers, see activations.py.
        RESIDUAL: Whether the update is added to the state or takes its place.
        CLAMP: (low, high) of what is written, or ().
        LIVING: See above; 0: neither.
        PLAIN: Whether the step ends in x' = s + m u.
        LANES: Whether each channel fires for itself.
        ONE_COLUMN: Whether all columns share their draws of the fire mask.

    Args:
        living: LIVING.
    """
    functions = tuple(map(function, rule.activations))
    low, high = rule.clamp or (None, None)
    clamp = (-float("inf") if low is None else low, float("inf") if high is None else high) if rule.clamp else ()
    plain = rule.residual and not clamp and not living and functions[-1] == IDENTITY
    return {
        "FROZEN": rule.frozen,
        "WRITTEN": rule.layers[-1][0],
        "FUNCTIONS": functions,
        "RESIDUAL": rule.residual,
        "CLAMP": clamp,
        "LIVING": living,
        "PLAIN": plain and rule.update_noise == 0,
        "LANES": "channel" not in rule.fire_shared,
        "ONE_COLUMN": "width" in rule.fire_shared,
    }


def living_before(rule) -> int:
    """Says what hangs on those who lived before the step, see LIVING, forward."""
    return {"update": 1, "before": 2}.get(rule.alive_mask, 0) if rule.alive_channel is not None else 0


def living_after(rule) -> int:
    """Says likewise, backward, where all is known."""
    return 0 if rule.alive_channel is None else 1 if rule.alive_mask == "update" else 2


def noise_constant(deviation: float, factor) -> tuple:
    """Writes NOISE of kernels: (deviation, whether samples have factors of their own, unit of the numbers), or ()."""
    return (deviation, int(factor.numel() > 1), NORMAL_UNIT) if deviation else ()


@triton.jit
def is_written(channel, FROZEN: tl.constexpr, WRITTEN: tl.constexpr):
    """Says which channels are written, [1, channels]."""
    return ((channel >= FROZEN) & (channel < FROZEN + WRITTEN))[None, :]


@triton.jit
def moved(s, u, m, RESIDUAL: tl.constexpr):
    """Takes the update where m."""
    if RESIDUAL:
        return s + tl.where(m, u, 0.0)
    else:
        return tl.where(m, u, s)


@triton.jit
def masked(v, alive, written):
    """Multiplies what is written by whether the cell is alive; a value that blew up stays NaN."""
    return tl.where(written, v * tl.where(alive, 1.0, 0.0), v)


@triton.jit
def updated(
    s,
    u,
    noise,
    m,
    alive,
    channel,
    FROZEN: tl.constexpr,
    WRITTEN: tl.constexpr,
    F: tl.constexpr,
    RESIDUAL: tl.constexpr,
    CLAMP: tl.constexpr,
    LIVING: tl.constexpr,
):
    """Computes the next state of cells and channels, float32 [cells, channels].

    Args:
        s, u: State, and what the last layer gives.
        noise: Added to the update: 0, or as many numbers.
        m: Who fires, [cells, channels or 1].
        alive: Who lives, [cells, 1]; looked at with LIVING.
        channel: Numbers of the channels, [channels].
        F: The last of FUNCTIONS.
    """
    written = is_written(channel, FROZEN, WRITTEN)
    m = m & written
    if LIVING == 1:
        m = m & alive
    v = moved(s, applied(u, F) + noise, m, RESIDUAL)
    if LIVING == 2:
        v = masked(v, alive, written)
    if len(CLAMP) > 0:
        v = tl.where(written & (v < CLAMP[0]), CLAMP[0], v)
        v = tl.where(written & (v > CLAMP[1]), CLAMP[1], v)
    return v


@triton.jit
def passed_on(g, v, alive, written, CLAMP: tl.constexpr, LIVING: tl.constexpr):
    """Computes the gradient of v, given that of x'; v is looked at with CLAMP, `alive` with LIVING = 2."""
    if len(CLAMP) > 0:  # at its bounds it passes the gradient on, and beyond them none
        g = tl.where(written & ~((v >= CLAMP[0]) & (v <= CLAMP[1])), 0.0, g)
    if LIVING == 2:
        g = masked(g, alive, written)
    return g


@triton.jit
def kept(g, m, written, RESIDUAL: tl.constexpr):
    """Computes the gradient that reaches s straight, not by way of the update, given that of v."""
    if RESIDUAL:
        return g
    else:
        return tl.where(m & written, 0.0, g)
