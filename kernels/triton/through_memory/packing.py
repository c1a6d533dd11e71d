"""The weights of a rule for the Triton kernels that keep perception in memory (through_memory/steps.py)."""

from functools import lru_cache

import torch

from ..products import chunks
from .filters import row_profiles


class LayerPacking:
    """The constants of a rule, and where each weight lies: every layer's matrix as it is, rounded up.

    Perception is ordered filter by filter, f * C4 + c, the local maxima last; C4 are the channels with those that fill
    them up to a multiple of four.

    Args:
        maximum_window: Width of the window of the local maximum; 0 for none.
        The others as in `Packing`, with filters of any size.
    """

    first_bias = None  # no bias is among the weights

    def __init__(self, stencils, layers, frozen, padding, maximum_window):
        *hidden, (written, _, out_bias) = layers
        distinct = list(dict.fromkeys(stencils))
        maxima = maximum_window > 0
        C = written + frozen
        padded = -(-C // 4) * 4
        width = _round_up((len(distinct) + maxima) * padded)
        hidden1 = chunks(hidden[0][0]) if len(hidden) == 2 else ()
        units1 = sum(hidden1[1::2])
        units = _round_up(hidden[-1][0]) if hidden else 0
        columns = max(16, 1 << (padded - 1).bit_length())
        filters = self.filters = row_profiles(distinct, maximum_window)
        self.perception = {
            "C": padded,
            "GROUP": 8 if padded % 8 == 0 else 4,
            "K": width,
            "REACH": filters.reach,
            "EVEN": filters.even,
            "ODD": filters.odd,
            "PROFILES": filters.profiles,
            "WEIGHTS": filters.weights,
            "MAXIMUM": maximum_window,
            "PADDING": padding,
        }
        self.network = {
            "C": padded,
            "K": width,
            "INPUTS": chunks(width),
            "UNITS1": units1,
            "HIDDEN1": hidden1,
            "UNITS": units,
            "COLUMNS": columns,
            "BIAS1": len(hidden) == 2 and hidden[0][2],
            "BIAS": bool(hidden) and hidden[-1][2],
            "OUT_BIAS": out_bias,
        }

        f = torch.tensor([distinct.index(stencil) for stencil in stencils] + [len(distinct)] * maxima)[:, None]
        order = [(f * padded + torch.arange(C)).flatten()] + [torch.arange(out) for out, _, _ in layers[:-1]]
        rows = [*order[1:], frozen + torch.arange(written)]
        widths = [width, *([units1] if units1 else []), *([units] if units else [])]
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
    """Rounds up to a multiple of 16, of which the matrix unit makes its tiles."""
    return -(-width // 16) * 16


@lru_cache(maxsize=256)
def layer_packing(rule) -> LayerPacking:
    """Returns the packing of a rule (`nca_fast.rule.KernelRule`), the same object for the same rule."""
    with torch.device("cpu"):  # it is kept, whatever PyTorch's default device is at the first call
        return LayerPacking(rule.stencils, rule.layers, rule.frozen, rule.padding, rule.maximum_window or 0)
