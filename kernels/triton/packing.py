"""What the Triton kernels are compiled for, and the weights in the order in which they multiply; see perception_triton.

Weights are packed once per rollout. Equal filters are one: their weights are added up.
"""

import os
from functools import lru_cache

import torch
import triton.language as tl
from torch import Tensor

# Whether Triton's interpreter runs the kernels, on the CPU; decided when triton is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TRITON_DTYPES = {"fp32": tl.float32, "tf32": tl.float32, "fp16": tl.float16, "bf16": tl.bfloat16}


def product(precision: str, hip: bool) -> str:
    """How the kernels multiply, see `products.dot`; hip: on an AMD GPU."""
    if INTERPRETED:
        return "interpreter"
    return {"fp32": "ieee", "tf32": "ieee" if hip else "tf32"}.get(precision, "plain" if hip else "ptx")


def before_hopper(device: torch.device) -> bool:
    """Whether it is an NVIDIA GPU whose matrix units take weights from registers, of which fewer are left."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] < 9


def chunks(width):
    """(start, width, start, width, ...) of chunks of 64, 32 or 16 units, `width` rounded up to a multiple of 16."""
    chunks, start = [], 0
    while start < width:
        size = next(size for size in (64, 32, 16) if size <= -(-(width - start) // 16) * 16)
        chunks += [start, size]
        start += size
    return tuple(chunks)


def _terms(stencil):
    """A filter as (index, weight, ...) over the nine profiles S, D, M of three rows, not empty."""
    terms = []
    for row, (a, b, c) in enumerate(stencil):
        for profile, weight in enumerate(((a + c) / 2, (c - a) / 2, b - a - c)):
            if weight:
                terms += [3 * row + profile, weight]
    return tuple(terms) or (4, 0.0)


def _transposed(terms):
    """For each of the nine profiles, the (filter, weight, ...) that use it; () for none."""
    return tuple(
        tuple(
            v for f, t in enumerate(terms) for i, w in zip(t[::2], t[1::2], strict=True) if i == n and w for v in (f, w)
        )
        for n in range(9)
    )


def _high(bias, precision):
    """What the matrix unit keeps of a number at least, so that the rest can be multiplied apart."""
    if precision == "fp32":
        return bias
    if precision == "tf32":
        return (bias.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return bias.to(DTYPES[precision]).float()


class Packing:
    """The constants of a rule, and where each weight lies among the packed ones.

    Args:
        stencils: Rows of the 3x3 filters, as nested tuples.
        layers: (outputs, inputs, has a bias) of every layer: two or three.
        frozen: Channels that are read and never written.
        circular: Whether the canvas is a torus.
    """

    def __init__(self, stencils, layers, frozen, circular):
        (units1, _, bias1), *middle, (written, _, out_bias) = layers
        distinct = list(dict.fromkeys(stencils))
        F, FP = len(distinct), max(2, 1 << (len(distinct) - 1).bit_length())
        C = written + frozen
        padded = -(-C // 4) * 4
        slots, last = -(-padded // 8), padded // 8 * 8  # `last`: where a chunk of 4 channels begins, or nothing does
        terms = tuple(map(_terms, distinct)) + ((),) * (FP - F)

        f = torch.tensor([distinct.index(stencil) for stencil in stencils])[:, None]
        c = torch.arange(C)[None, :]
        within = torch.where(c < last, f * 8 + c % 8, f // 2 * 8 + c % 8 * 2 + f % 2)
        perceived = (c // 8 * (8 * FP) + within).flatten()
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
            "CIRCULAR": circular,
        }
        self.transposed = _transposed(terms)

        rows = [torch.arange(out) for out, _, _ in layers[:-1]] + [channels]
        columns = [perceived] + [torch.arange(out) for out, _, _ in layers[:-1]]
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


def stencils(about):
    """The filters of a rule (`backends.About`), as nested tuples."""
    return tuple(tuple(tuple(row) for row in stencil) for stencil in about.stencils.tolist())


@lru_cache(maxsize=256)
def _packing(*settings):
    return Packing(*settings)


def packing(about) -> Packing:
    """The packing of a rule (`backends.About`), the same object for the same rule."""
    return _packing(stencils(about), about.layers, about.frozen, about.circular)


@lru_cache(maxsize=256)
def _indices(packing, device):
    """Where params and the first bias lie among the packed weights, kept on the device: a copy would wait for it."""
    first_bias = packing.first_bias
    return packing.index.to(device), None if first_bias is None else first_bias.to(device)


class Weights:
    """The weights of a rollout, packed.

    Args:
        params: All layers' weights [out, in] and biases in a row, float32 [P]; or, one rule per sample, [B, P].
        packing: Where they go: a `Packing`, or a `LayerPacking` (through_memory/packing.py).
        precision: What the matrix products multiply.
    """

    def __init__(self, params: Tensor, packing, precision: str):
        self.packing = packing
        self.precision = precision
        self.per_sample = params.ndim == 2
        self.index, first_bias = _indices(self.packing, params.device)
        packed = params.new_zeros(*params.shape[:-1], self.packing.packed).index_add_(-1, self.index, params)
        if first_bias is not None:
            bias = packed[..., first_bias]
            high = _high(bias, precision)
            packed[..., first_bias] = high
            packed[..., first_bias + 1] = bias - high
        self.matrices = packed[..., : self.packing.weights].to(DTYPES[precision]).contiguous()
        self.biases = packed[..., self.packing.weights :].clone(memory_format=torch.contiguous_format)

    @property
    def strides(self):
        """Numbers from one sample's matrices and biases to the next sample's."""
        return (self.matrices.shape[1], self.biases.shape[1]) if self.per_sample else (0, 0)

    def forward_constants(self, per_cell: bool) -> dict:
        """What `step_fwd` is compiled for, but for the tile; per_cell: the fire rate is a map."""
        constants = self.packing.constants
        small = constants["C"] * len(constants["TERMS"]) <= 64 and not constants["HIDDEN2"]
        two_rows = small and self.matrices.element_size() == 2 and not before_hopper(self.matrices.device)
        return constants | {
            "MAP": per_cell,
            "DOT": TRITON_DTYPES[self.precision],
            "PRODUCT": product(self.precision, torch.version.hip is not None),
            "UNROLL": 2 if two_rows else 1,  # as many as there are registers for
        }

    def backward_constants(self, per_cell: bool) -> dict:
        """What `step_bwd` is compiled for, but for the tile and the pass."""
        constants = self.forward_constants(per_cell)
        for name in ("UNROLL", "HIDDEN2", "UNITS2", "BIAS2"):  # rules of two layers have another backward pass
            del constants[name]
        return constants | {"TRANSPOSED": self.packing.transposed, "SCALED": self.precision == "fp16"}
