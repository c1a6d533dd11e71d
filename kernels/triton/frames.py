"""Frames in Triton: what they make of a filter's answer, and their gradients; see `nca_fast.frames`.

    a g_x - b g_y,    b g_x + a g_y,    (a^2 + b^2) l

for a pair of filters along x and y and a laplacian. Gradients go back by the same with (a, -b). Those of a frame are
kept as those of the logarithm of its scale and of its angle, for which it is enough to know what a cell perceived,
turned, and its gradient:

    sum of (grad_x y_x + grad_y y_y) and 2 grad_l y_l        sum of (grad_y y_x - grad_x y_y)

over channels and filters. In kernels TURNS is () where there are no frames, else (whether samples have fields of their
own, for each filter what it is: (1, filter along y), (-1, filter along x), (2, itself) of a laplacian, (0, itself)).
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .cells import own_cells


class Frames(NamedTuple):
    """The frames of a rollout as its kernels take them.

    Args:
        field: float32 [1 or B, 2, H, W]; for products of float16 made smaller, see half_range.py.
        turns: TURNS.
    """

    field: Tensor
    turns: tuple


def turns_of(rule, per_sample: bool) -> tuple:
    """Writes TURNS of a rule (`nca_fast.rule.KernelRule`), whose equal filters are one."""
    distinct = list(dict.fromkeys(rule.stencils))
    kinds = {f: (0, f) for f in range(len(distinct))}
    for pair in rule.derivatives.pairs:
        x, y = (distinct.index(rule.stencils[n]) for n in pair)
        kinds |= {x: (1, y), y: (-1, x)}
    for n in rule.derivatives.laplacians:
        f = distinct.index(rule.stencils[n])
        kinds[f] = (2, f)
    return int(per_sample), tuple(kinds.values())


@triton.jit
def field_of(frames, sample, cells, TURNS: tl.constexpr):
    """Points to the field of a sample, an int64; cells: H * W, an int64."""
    return frames + sample * TURNS[0] * 2 * cells


@triton.jit
def frame_at(field, at, cells):
    """Loads the frames (a, b) of cells, [cells, 1] each; at: their numbers, [cells]."""
    return tl.load(field + at)[:, None], tl.load(field + cells + at)[:, None]


@triton.jit
def turn(own, other, a, b, KIND: tl.constexpr):
    """Turns or scales what a filter answers, beside what its partner does."""
    if KIND == 1:
        return a * own - b * other
    elif KIND == -1:
        return a * own + b * other
    elif KIND == 2:
        return (a * a + b * b) * own
    else:
        return own


@triton.jit
def turned(y, a, b, TURNS: tl.constexpr):
    """Turns what the filters answered."""
    seen = ()
    for f in tl.static_range(len(y)):
        seen = seen + (turn(y[f], y[TURNS[1][f][1]], a, b, TURNS[1][f][0]),)
    return seen


@triton.jit
def turned_back(g, a, b, TURNS: tl.constexpr, STRIDE: tl.constexpr):
    """Takes gradients back through `turned`; g has those of a group's filters from every STRIDE-th place on."""
    back = ()
    for n in tl.static_range(len(g)):
        if n % STRIDE < len(TURNS[1]):
            other = g[n // STRIDE * STRIDE + TURNS[1][n % STRIDE][1]]
            back = back + (turn(g[n], other, a, -b, TURNS[1][n % STRIDE][0]),)
        else:
            back = back + (g[n],)
    return back


@triton.jit
def turn_gradients(y, g, scale, angle, TURNS: tl.constexpr, FIRST: tl.constexpr):
    """Adds the gradients of the logarithm of the scale and of the angle, [cells] each, that a group of channels gives.

    Args:
        y: What the filters answered, turned.
        g: Its gradients: g[FIRST], g[FIRST + 1], ...
    """
    for f in tl.static_range(len(TURNS[1])):
        if TURNS[1][f][0] == 1:
            along_x, along_y = y[f].to(tl.float32), y[TURNS[1][f][1]].to(tl.float32)
            g_x, g_y = g[FIRST + f], g[FIRST + TURNS[1][f][1]]
            scale += tl.sum(g_x * along_x + g_y * along_y, 1)
            angle += tl.sum(g_y * along_x - g_x * along_y, 1)
        elif TURNS[1][f][0] == 2:
            scale += 2.0 * tl.sum(g[FIRST + f] * y[f].to(tl.float32), 1)
    return scale, angle


@triton.jit
def add_turns(turns, at, cells, scale, angle, down, mine):
    """Adds `down` times the gradients to those of the cells that are mine, in a sample's turns [2, H, W]."""
    here = turns + at
    tl.store(here, tl.load(here, mask=mine, other=0.0) + down * scale, mask=mine)
    here += cells
    tl.store(here, tl.load(here, mask=mine, other=0.0) + down * angle, mask=mine)


@triton.jit
def frames_bwd(
    y,
    grad_y,
    turns,
    scale,
    first_sample,
    first_cell,
    cells,
    H,
    W,
    C: tl.constexpr,
    K: tl.constexpr,
    TURNS: tl.constexpr,
    SCALED: tl.constexpr,
    COLUMNS: tl.constexpr,
    BM: tl.constexpr,
):
    """turns += the gradients of the logarithm of the scale and of the angle, of a range of cells; see cells.py.

    Args:
        y: Perception of the range, turned. [cells, K], filter by filter.
        grad_y: Its gradient, times `scale` with SCALED. [B, H, W, K].
        turns: Added to. float32 [B, 2, H, W].
        COLUMNS: C or more, a power of two.
    """
    sample, whole, place, _, _, there = own_cells(first_sample, first_cell, cells, H, W, BM)
    c = tl.arange(0, COLUMNS)[None, :]
    own = tl.arange(0, BM)[:, None] * K + c
    here = there[:, None] & (c < C)
    seen = ()
    g = ()
    for f in tl.static_range(len(TURNS[1])):
        seen = seen + (tl.load(y + place * K + own + f * C, mask=here, other=0.0),)
        g = g + (tl.load(grad_y + whole * K + own + f * C, mask=here, other=0.0).to(tl.float32),)
    down = 1.0
    if SCALED:
        down = 1.0 / tl.load(scale)
    nothing = tl.zeros((BM,), tl.float32)
    by_scale, by_angle = turn_gradients(seen, g, nothing, nothing, TURNS, 0)
    canvas = (tl.zeros((), tl.int64) + H) * W
    at = whole - sample * canvas + tl.arange(0, BM)
    add_turns(turns + sample * 2 * canvas, at, canvas, by_scale, by_angle, down, there)
