"""The weights of a rule for the Triton kernels that keep perception in memory (perceived_triton.py)."""

from functools import lru_cache

import torch
from nca_fast.kernels.packing_triton import chunks, stencils


class LayerPacking:
    """As `Packing` of packing_triton, but every layer's matrix as it is, rounded up.

    Perception is ordered filter by filter, f * C4 + c, the local maxima last; C4 are the channels with those that fill
    them up to a multiple of four.

    Args:
        maximum_window: Width of the window of the local maximum; 0 for none.
        The others as in `Packing`, with filters of any size.
    """

    first_bias = None  # no bias is among the weights

    def __init__(self, stencils, layers, frozen, circular, maximum_window):
        (units1, _, bias1), *middle, (written, _, out_bias) = layers
        distinct = list(dict.fromkeys(stencils))
        maxima = maximum_window > 0
        C = written + frozen
        padded = -(-C // 4) * 4
        size = max([maximum_window, 3, *(len(stencil) for stencil in stencils)])
        distinct_padded = tuple(_padded(stencil, size) for stencil in distinct)
        half, reach = maximum_window // 2, size // 2

        def used(i, j):
            in_window = maxima and max(abs(i - reach), abs(j - reach)) <= half
            return in_window or any(stencil[i][j] for stencil in distinct_padded)

        width = _round_up((len(distinct) + maxima) * padded)
        hidden1 = chunks(units1) if middle else ()
        units1 = sum(hidden1[1::2])
        last, _, bias = middle[0] if middle else layers[0]
        units = _round_up(last)
        columns = max(16, 1 << (padded - 1).bit_length())
        self.perception = {
            "C": padded,
            "CHUNK": 8 if padded % 8 == 0 else 4,
            "K": width,
            "STENCILS": tuple(tuple(tap for row in stencil for tap in row) for stencil in distinct_padded),
            "USED": tuple(tuple(used(i, j) for j in range(size)) for i in range(size)),
            "MAXIMUM": maximum_window,
            "CIRCULAR": circular,
        }
        self.network = {
            "C": padded,
            "FROZEN": frozen,
            "K": width,
            "INPUTS": chunks(width),
            "UNITS1": units1,
            "HIDDEN1": hidden1,
            "UNITS": units,
            "COLUMNS": columns,
            "BIAS1": bool(middle) and bias1,
            "BIAS": bias,
            "OUT_BIAS": out_bias,
        }

        f = torch.tensor([distinct.index(stencil) for stencil in stencils] + [len(distinct)] * maxima)[:, None]
        order = [(f * padded + torch.arange(C)).flatten()] + [torch.arange(out) for out, _, _ in layers[:-1]]
        rows = [*order[1:], frozen + torch.arange(written)]
        widths = [width, units1, units] if middle else [width, units]
        heights = [*widths[1:], columns]
        self.layers, index, at = [], [], 0  # (outputs, inputs, where weights begin, where the bias begins)
        at_bias = self.weights = sum(w * h for w, h in zip(widths, heights, strict=True))
        for row, column, (_, _, has_bias), w, h in zip(rows, order, layers, widths, heights, strict=True):
            self.layers.append((h, w, at, at_bias))
            index.append(at + (row[:, None] * w + column).flatten())
            if has_bias:
                index.append(at_bias + row)
            at, at_bias = at + w * h, at_bias + h
        self.packed = at_bias
        self.index = torch.cat(index)


def _round_up(width):
    """To a multiple of 16, of which the matrix unit makes its tiles."""
    return -(-width // 16) * 16


def _padded(stencil, size):
    """A stencil with zeros around it."""
    side = (size - len(stencil)) // 2
    rows = tuple((0.0,) * side + row + (0.0,) * side for row in stencil)
    return ((0.0,) * size,) * side + rows + ((0.0,) * size,) * side


@lru_cache(maxsize=256)
def _layer_packing(*settings):
    return LayerPacking(*settings)


def layer_packing(about) -> LayerPacking:
    """The packing of a rule (`backends.About`), the same object for the same rule."""
    settings = (about.layers, about.frozen, about.circular, about.maximum_window or 0)
    return _layer_packing(stencils(about), *settings)
