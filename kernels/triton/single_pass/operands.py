"""How groups of channels lie in the matrices that the products take, in Triton.

In a matrix every group of channels (single_pass/filters.py) has a slot: 8 columns of an output, 8 FP columns of
perception, where FP is the number of filters rounded up to a power of two. Channel c of a group of 8 is at column c,
filter f of it at 8 f + c. In a group of 4 these are 2 c and 8 (f // 2) + 2 c + f % 2, which a thread can split without
another's help; the second half of its perception is 1, and carries the bias of the first layer for nothing.
"""

import triton
import triton.language as tl


@triton.jit
def side_by_side(a, b):
    """Joins [rows, n] and [rows, n] to [rows, 2 n]."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (a.shape[0], 2 * a.shape[1]))


@triton.jit
def halves(a):
    """Splits [rows, 2 n] into [rows, n] and [rows, n]: undoes `side_by_side`."""
    return tl.split(tl.permute(tl.reshape(a, (a.shape[0], 2, a.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def kept(a, mask, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Puts zeros into a where the mask, of the same shape or to be broadcast, is off.

    In PTX for two numbers at once: to be used where neighbours in the last dimension lie in one thread.
    """
    if PRODUCT == "ptx":
        full = tl.broadcast_to(tl.where(mask, -1, 0).to(tl.int16), a.shape)
        return tl.inline_asm_elementwise(
            "and.b32 $0, $1, $2;", "=r,r,r", [a, full], dtype=a.dtype, is_pure=True, pack=2
        )
    else:
        return tl.where(mask, a.to(tl.float32), 0.0).to(DOT)


@triton.jit
def stacked(y, mask, MASKED: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Lays the filters [cells, 8 or 4] of a group into its slot, [cells, 8 FP].

    With MASKED, cells where the mask [cells] is off have zeros.
    """
    FP: tl.constexpr = len(y)
    BW: tl.constexpr = y[0].shape[0]
    WIDTH: tl.constexpr = y[0].shape[1]
    if MASKED and WIDTH == 8:
        own = ()
        for f in tl.static_range(FP):
            own = own + (kept(y[f], mask[:, None], DOT, PRODUCT),)
        y = own
    if FP == 2:
        a = tl.reshape(tl.join(y[0], y[1]), (BW, WIDTH, 1, 2))
    elif FP == 4:
        a = tl.join(tl.join(y[0], y[2]), tl.join(y[1], y[3]))
    else:
        even = tl.join(tl.join(y[0], y[4]), tl.join(y[2], y[6]))
        odd = tl.join(tl.join(y[1], y[5]), tl.join(y[3], y[7]))
        a = tl.reshape(tl.join(even, odd), (BW, WIDTH, 4, 2))
    if WIDTH == 8:
        return tl.reshape(tl.permute(a, (0, 2, 3, 1)), (BW, FP * WIDTH))
    else:
        spare = tl.full((BW, 4 * FP), 1.0, DOT)
        if MASKED:
            a = kept(a, mask[:, None, None, None], DOT, PRODUCT)
            spare = tl.where(mask[:, None], spare, tl.zeros_like(spare))
        return side_by_side(tl.reshape(tl.permute(a, (0, 2, 1, 3)), (BW, FP * WIDTH)), spare)


@triton.jit
def unstacked(y, FP: tl.constexpr, WIDTH: tl.constexpr):
    """Takes the FP filters of a group apart: undoes `stacked`."""
    BW: tl.constexpr = y.shape[0]
    if WIDTH == 8:
        a = tl.permute(tl.reshape(y, (BW, FP // 2, 2, 8)), (0, 3, 1, 2))
    else:
        a = tl.permute(tl.reshape(y, (BW, FP // 2, 4, 2)), (0, 2, 1, 3))
    even, odd = tl.split(a)
    if FP == 2:
        return (tl.reshape(even, (BW, WIDTH)), tl.reshape(odd, (BW, WIDTH)))
    elif FP == 4:
        y0, y2 = tl.split(even)
        y1, y3 = tl.split(odd)
        return (y0, y1, y2, y3)
    else:
        y04, y26 = tl.split(tl.reshape(even, (BW, WIDTH, 2, 2)))
        y15, y37 = tl.split(tl.reshape(odd, (BW, WIDTH, 2, 2)))
        y0, y4 = tl.split(y04)
        y2, y6 = tl.split(y26)
        y1, y5 = tl.split(y15)
        y3, y7 = tl.split(y37)
        return (y0, y1, y2, y3, y4, y5, y6, y7)


@triton.jit
def to_matrices(y, mask, MASKED: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Lays out perception as matrices [cells, 16 FP] of two groups each, and [cells, 8 FP] of one that is left.

    With MASKED, cells where the mask [cells] is off have zeros.
    """
    slots = ()
    for k in tl.static_range(len(y)):
        slots = slots + (stacked(y[k], mask, MASKED, DOT, PRODUCT),)
    pairs = paired(slots)
    rows = ()
    for k in tl.static_range(len(pairs)):
        rows = rows + (to_matrix_rows(pairs[k]),)
    return rows


@triton.jit
def to_matrix_rows(a):
    """Puts the rows of a matrix, one per cell, in the order in which the matrix unit deals them out to threads."""
    BW: tl.constexpr = a.shape[0]
    if BW < 32:
        return a
    else:
        return tl.reshape(tl.permute(tl.reshape(a, (2, BW // 16, 8, a.shape[1])), (1, 0, 2, 3)), (BW, a.shape[1]))


@triton.jit
def from_matrix_rows(a):
    """Undoes `to_matrix_rows`."""
    BW: tl.constexpr = a.shape[0]
    if BW < 32:
        return a
    else:
        return tl.reshape(tl.permute(tl.reshape(a, (BW // 16, 2, 8, a.shape[1])), (1, 0, 2, 3)), (BW, a.shape[1]))


@triton.jit
def paired(slots):
    """Puts neighbouring slots side by side; an odd one is left alone."""
    pairs = ()
    for k in tl.static_range(0, len(slots), 2):
        if k + 1 < len(slots):
            pairs = pairs + (side_by_side(slots[k], slots[k + 1]),)
        else:
            pairs = pairs + (slots[k],)
    return pairs


@triton.jit
def from_matrices(y, GROUPS: tl.constexpr, TERMS: tl.constexpr, C: tl.constexpr):
    """Takes the filters of every group, GROUPS * FP tensors: undoes `to_matrices`."""
    FP: tl.constexpr = len(TERMS)
    slots = ()
    for k in tl.static_range(len(y)):
        if 2 * k + 1 < GROUPS:
            slots = slots + halves(from_matrix_rows(y[k]))
        else:
            slots = slots + (from_matrix_rows(y[k]),)
    filters = ()
    for k in tl.static_range(GROUPS):
        if 8 * k + 8 <= C:
            filters = filters + unstacked(slots[k], FP, 8)
        else:
            seen, _ = halves(slots[k])
            filters = filters + unstacked(seen, FP, 4)
    return filters


@triton.jit
def output_groups(u, GROUPS: tl.constexpr, C: tl.constexpr):
    """Takes the groups of channels from an output [cells, 16 or 32], one slot of 8 columns each."""
    u = from_matrix_rows(u)
    if u.shape[1] == 16:
        slots = halves(u)
    else:
        a, b = halves(u)
        slots = halves(a) + halves(b)
    parts = ()
    for k in tl.static_range(GROUPS):
        if 8 * k + 8 <= C:
            parts = parts + (slots[k],)
        else:
            part, _ = tl.split(tl.reshape(slots[k], (u.shape[0], 4, 2)))
            parts = parts + (part,)
    return parts


@triton.jit
def output_matrix(parts, mask, MASKED: tl.constexpr, COLUMNS: tl.constexpr, DOT: tl.constexpr, PRODUCT: tl.constexpr):
    """Lays out groups of channels as [cells, COLUMNS], COLUMNS 16 or 32: undoes `output_groups`.

    With MASKED, cells where the mask [cells] is off have zeros.
    """
    slots = ()
    for k in tl.static_range(COLUMNS // 8):
        if k >= len(parts):
            slot = tl.zeros((parts[0].shape[0], 8), DOT)
        elif parts[k].shape[1] == 8:
            slot = parts[k]
        else:
            slot = tl.reshape(tl.join(parts[k], tl.zeros_like(parts[k])), (parts[k].shape[0], 8))
        if MASKED and k < len(parts):
            slot = kept(slot, mask[:, None], DOT, PRODUCT)
        slots = slots + (slot,)
    pairs = paired(slots)
    if COLUMNS == 32:
        return to_matrix_rows(side_by_side(pairs[0], pairs[1]))
    else:
        return to_matrix_rows(pairs[0])
