"""The weights of a rule for the single pass, in the order of its matrices (single_pass/operands.py).

Equal filters are one: their weights are added up.
"""

from functools import lru_cache

import torch

from ..products import chunks


def _terms(stencil):
    """Writes a filter as (index, weight, ...) over the nine profiles S, D, M of three rows, not empty."""
    terms = []
    for row, (a, b, c) in enumerate(stencil):
        for profile, weight in enumerate(((a + c) / 2, (c - a) / 2, b - a - c)):
            if weight:
                terms += [3 * row + profile, weight]
    return tuple(terms) or (4, 0.0)


def _transposed(terms):
    """Lists for each of the nine profiles the (filter, weight, ...) that use it; () for none."""
    return tuple(
        tuple(
            v for f, t in enumerate(terms) for i, w in zip(t[::2], t[1::2], strict=True) if i == n and w for v in (f, w)
        )
        for n in range(9)
    )


class Packing:
    """The constants of a rule, and where each weight lies among the packed ones.

    Args:
        stencils: Rows of the 3x3 filters, as nested tuples.
        layers: (outputs, inputs, has a bias) of every layer: two or three.
        frozen: Channels that are read and never written.
        padding: What lies beyond the edges.
    """

    def __init__(self, stencils, layers, frozen, padding):
        (units1, _, bias1), *middle, (written, _, out_bias) = layers
        distinct = list(dict.fromkeys(stencils))
        F, FP = len(distinct), max(2, 1 << (len(distinct) - 1).bit_length())
        C = written + frozen
        padded = -(-C // 4) * 4
        slots, last = -(-padded // 8), padded // 8 * 8  # `last`: where a group of 4 channels begins, or nothing does
        terms = tuple(map(_terms, distinct)) + ((),) * (FP - F)

        f = torch.tensor([distinct.index(stencil) for stencil in stencils])[:, None]
        c = torch.arange(C)[None, :]
        within = torch.where(c < last, f * 8 + c % 8, f // 2 * 8 + c % 8 * 2 + f % 2)
        positions = (c // 8 * (8 * FP) + within).flatten()
        channels = frozen + torch.arange(written)
        channels = torch.where(channels < last, channels, last + (channels - last) * 2)
        # Two neighbouring columns of the perception that are 1, for the high and the low part of the first bias.
        ones = None
        if last < padded:
            ones = last * FP + 4 * FP
        elif FP > F:
            ones = F * 8

        hidden1, hidden2 = chunks(units1), chunks(middle[0][0]) if middle else ()
        units = [sum(hidden[1::2]) for hidden in (hidden1, hidden2) if hidden]
        inputs = tuple(v for k in range(0, slots, 2) for v in (k * 8 * FP, min(2, slots - k) * 8 * FP))
        outputs = 16 if slots <= 2 else 32
        self.constants = {
            "C": padded,
            "TERMS": terms,
            "INPUTS": inputs,
            "HIDDEN1": hidden1,
            "HIDDEN2": hidden2,
            "OUTPUTS": (0, outputs),
            "UNITS1": units[0],
            "UNITS2": units[1] if middle else 0,
            "BIAS1": bias1 and ones is None,
            "BIAS2": bool(middle) and middle[0][2],
            "OUT_BIAS": out_bias,
            "PADDING": padding,
        }
        self.transposed = _transposed(terms)

        rows = [torch.arange(out) for out, _, _ in layers[:-1]] + [channels]
        columns = [positions] + [torch.arange(out) for out, _, _ in layers[:-1]]
        widths, heights = [slots * 8 * FP, *units], [*units, outputs]
        matrices, biases, at = [], [], 0
        for row, column, width, height in zip(rows, columns, widths, heights, strict=True):
            matrices.append(at + (row[:, None] * width + column).flatten())
            at += height * width
        self.weights = at
        for row, height in zip(rows, heights, strict=True):
            biases.append(at + row)
            at += height
        self.packed = at
        self.first_bias = None
        if bias1 and ones is not None:
            self.first_bias = biases[0] = rows[0] * widths[0] + ones
        kept = [
            t for m, b, (_, _, has) in zip(matrices, biases, layers, strict=True) for t in ((m, b) if has else (m,))
        ]
        self.index = torch.cat(kept)


@lru_cache(maxsize=256)
def packing(rule) -> Packing:
    """Returns the packing of a rule (`nca_fast.rule.KernelRule`), the same object for the same rule."""
    with torch.device("cpu"):  # it is kept, whatever PyTorch's default device is at the first call
        return Packing(rule.stencils, rule.layers, rule.frozen, rule.padding)
