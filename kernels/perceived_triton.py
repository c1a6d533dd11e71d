"""Runs the Triton kernels that keep perception in memory between them, range of cells by range of cells.

They serve what the single pass of step_fwd_triton.py and step_bwd_triton.py has no registers for: larger filters, local
maxima, the alive mask, wide layers, and the backward pass of two hidden layers.

    forward   perceive_fwd, network_fwd, with an alive mask `bury`
    backward  perceive_fwd, network_bwd, network_weights per layer, in the end perceive_bwd; with an alive mask, which
              must be known first, network_fwd and `bury` of the gradient before them

Of what lies between the kernels (scratch) most is for a range of cells, which is as large as `_SCRATCH` allows; the
gradient of the perception is for all cells. All of it is allocated once per rollout.
"""

import math

import torch
import triton
from nca_fast.kernels.alive_triton import bury
from nca_fast.kernels.layer_packing_triton import layer_packing
from nca_fast.kernels.network_bwd_triton import network_bwd
from nca_fast.kernels.network_fwd_triton import network_fwd
from nca_fast.kernels.network_weights_triton import network_weights
from nca_fast.kernels.packing_triton import DTYPES, TRITON_DTYPES, Weights, product
from nca_fast.kernels.perceive_bwd_triton import perceive_bwd
from nca_fast.kernels.perceive_fwd_triton import perceive_fwd
from torch import Tensor

_SCRATCH = 128 << 20  # bytes, for a range of cells
_PROGRAMS = 1024  # of the sums of weight gradients
ELEMENTS = 512  # numbers of a state that one program perceives: four for a thread
# Cells of one program of the network, and units of the last hidden layer that it works off at a time, at most.
CELLS = {"fp32": 32, "tf32": 32, "fp16": 64, "bf16": 64}
UNITS = {"fp32": 16, "tf32": 32, "fp16": 64, "bf16": 64}
WARPS = {"fp32": 8, "tf32": 4, "fp16": 4, "bf16": 4}


def through_memory(about, precision: str) -> tuple[bool, bool]:
    """Whether a rule (`backends.About`) goes this way, forward and backward."""
    widths = [out for out, _, _ in about.layers[:-1]]
    channels, filters = about.layers[-1][0] + about.frozen, len(about.stencils)
    wide = about.stencils.shape[1] > 3 or about.maximum_window is not None or about.alive_channel is not None
    wide = wide or channels > 32 or filters > 8 or max(widths) > 128
    # Two rows of tiles in float32 do not fit into shared memory.
    wide = wide or precision == "tf32" and (channels > 16 or filters > 4)
    return wide, wide or len(widths) > 1


class Perceived:
    """The packed weights of one rollout, and the memory that its kernels share."""

    def __init__(self, params: Tensor, about, precision: str):
        packing = layer_packing(about)
        self.weights = Weights(params, packing, precision)
        self.perception, self.network = packing.perception, packing.network
        self.alive = None
        if about.alive_channel is not None:
            names = ("C", "CHUNK", "CIRCULAR")
            self.alive = {name: self.perception[name] for name in names} | {
                "FROZEN": about.frozen,
                "ALIVE": about.alive_channel,
                "THRESHOLD": about.alive_threshold,
            }
        self.product = {
            "DOT": TRITON_DTYPES[precision],
            "PRODUCT": product(precision, torch.version.hip is not None),
        }
        self.cells = CELLS[precision]
        self.units = math.gcd(UNITS[precision], self.network["UNITS"])
        self.kept = {}

    # --- memory -------------------------------------------------------------------------------------------------------

    def _scratch(self, name, like, *shape, dtype=None):
        """Memory that lasts for the rollout; zeros, because the columns that round it up are read and never written."""
        if name not in self.kept:
            dtype = dtype or DTYPES[self.weights.precision]
            self.kept[name] = torch.zeros(*shape, dtype=dtype, device=like.device)
        return self.kept[name]

    def _ranges(self, x):
        """(first sample, samples, first cell, cells) of all ranges: whole samples, or parts of one."""
        B, H, W, _ = x.shape
        c = self.network
        numbers = c["K"] + 2 * c["UNITS1"] + 2 * c["UNITS"] + c["COLUMNS"]
        most, cells = max(1, _SCRATCH // (numbers * self.weights.matrices.element_size())), H * W
        if cells <= most:
            samples = min(B, most // cells)
            return [(b, min(samples, B - b), 0, cells) for b in range(0, B, samples)]
        return [(b, 1, i, min(most, cells - i)) for b in range(B) for i in range(0, cells, most)]

    # --- launches -----------------------------------------------------------------------------------------------------

    def _perceive(self, x, y, winners, part):
        first_sample, samples, first_cell, cells = part
        BM = ELEMENTS // self.perception["CHUNK"]
        _, H, W, C = x.shape
        perceive_fwd[(samples * triton.cdiv(cells, BM), C // self.perception["CHUNK"])](
            x,
            y,
            y if winners is None else winners,
            first_sample,
            first_cell,
            cells,
            H,
            W,
            **self.perception,
            WINNERS=winners is not None,
            BM=BM,
        )

    def _update(self, x, y, out, keys, fire, origin_column, part):
        first_sample, samples, first_cell, cells = part
        _, H, W, _ = x.shape
        network_fwd[(samples * triton.cdiv(cells, self.cells),)](
            x,
            y,
            out,
            keys,
            fire,
            self.weights.matrices,
            self.weights.biases,
            *self.weights.strides,
            first_sample,
            first_cell,
            cells,
            H,
            W,
            origin_column,
            **self.network,
            **self.product,
            MAP=fire.ndim == 2,
            BM=self.cells,
            BN=self.units,
            num_warps=WARPS[self.weights.precision],
            num_stages=1,  # more would fill the shared memory with weights
        )

    def _bury(self, before, after, of, out):
        B, H, W, _ = before.shape
        BM = ELEMENTS // self.alive["CHUNK"]
        bury[(B * triton.cdiv(H * W, BM),)](before, after, of, out, H * W, H, W, **self.alive, BM=BM)

    # --- steps --------------------------------------------------------------------------------------------------------

    def advance(self, x: Tensor, out: Tensor, keys: Tensor, fire: Tensor, origin_column: int) -> None:
        """out = x after a step. [B, H, W, C4]; keys: the step's row keys; the others as in rollout_triton's."""
        ranges = self._ranges(x)
        y = self._scratch("y", x, ranges[0][1] * ranges[0][3], self.network["K"])
        after = self._scratch("after", x, *x.shape, dtype=torch.float32) if self.alive else out
        for part in ranges:
            self._perceive(x, y, None, part)
            self._update(x, y, after, keys, fire, origin_column, part)
        if self.alive:
            self._bury(x, after, after, out)

    def gradients(self, x: Tensor) -> Tensor:
        """Partial sums of the gradient of the packed weights, zero: float32 [groups * parts, packed]."""
        groups, parts = self._parts(x)
        return torch.zeros(groups * parts, self.weights.packing.packed, device=x.device)

    def _tiles(self, layer):
        """Rows and columns of a tile of a layer's weights, and how many there are."""
        out, inputs, *_ = layer
        largest = UNITS[self.weights.precision]
        rows, columns = (min(largest, triton.next_power_of_2(n)) for n in (out, inputs))
        return rows, columns, triton.cdiv(out, rows) * triton.cdiv(inputs, columns)

    def _parts(self, x):
        """Groups of cells with weights of their own, and parts of each with sums of their own."""
        B, H, W, _ = x.shape
        groups = B if self.weights.per_sample else 1
        tiles = sum(self._tiles(layer)[2] for layer in self.weights.packing.layers)
        blocks = triton.cdiv(B * H * W // groups, self.cells)
        return groups, max(1, min(blocks, _PROGRAMS // (tiles * groups)))

    def retreat(self, x, grad, grad_x, grad_params, scale, keys, fire, origin_column) -> None:
        """grad_x = the gradient of x, given grad, that of the state after the step; grad_params += partial sums.

        Args:
            x, grad, grad_x: [B, H, W, C4].
            grad_params: From `gradients`.
            scale: For "fp16" the power of two that takes grad to about 1; else not read.
            The others as in `advance`.
        """
        B, H, W, C = x.shape
        ranges, c = self._ranges(x), self.network
        cells = ranges[0][1] * ranges[0][3]
        y, *between = (
            self._scratch(name, x, cells, width)
            for name, width in (
                ("y", c["K"]),
                ("h1", c["UNITS1"]),
                ("h", c["UNITS"]),
                ("grad_h1", c["UNITS1"]),
                ("grad_h", c["UNITS"]),
                ("grad_u", c["COLUMNS"]),
            )
        )
        grad_y = self._scratch("grad_y", x, B, H, W, c["K"])
        winners = self._scratch("winners", x, *x.shape, dtype=torch.int8) if self.perception["MAXIMUM"] else None
        if self.alive:
            after = self._scratch("after", x, *x.shape, dtype=torch.float32)
            for part in ranges:
                self._perceive(x, y, winners, part)
                self._update(x, y, after, keys, fire, origin_column, part)
            buried = self._scratch("buried", x, *x.shape, dtype=grad.dtype)
            self._bury(x, after, grad, buried)
            grad = buried
        for part in ranges:
            if not self.alive or len(ranges) > 1:
                self._perceive(x, y, winners, part)
            self._return(grad, y, between, grad_y, scale, keys, fire, origin_column, part)
            self._add_weights(x, y, between, grad_params, scale, part)
        BM = ELEMENTS // self.perception["CHUNK"]
        perceive_bwd[(B * triton.cdiv(H * W, BM), C // self.perception["CHUNK"])](
            grad,
            grad_y,
            grad_y if winners is None else winners,
            grad_x,
            scale,
            H * W,
            H,
            W,
            **self.perception,
            SCALED=self.weights.precision == "fp16",
            BM=BM,
        )

    def _return(self, grad, y, between, grad_y, scale, keys, fire, origin_column, part):
        first_sample, samples, first_cell, cells = part
        _, H, W, _ = grad.shape
        h1, h, grad_h1, grad_h, grad_u = between
        network_bwd[(samples * triton.cdiv(cells, self.cells),)](
            grad,
            y,
            h1,
            h,
            grad_y,
            grad_h1,
            grad_h,
            grad_u,
            scale,
            keys,
            fire,
            self.weights.matrices,
            self.weights.biases,
            *self.weights.strides,
            first_sample,
            first_cell,
            cells,
            H,
            W,
            origin_column,
            **self.network,
            **self.product,
            SCALED=self.weights.precision == "fp16",
            MAP=fire.ndim == 2,
            BM=self.cells,
            BN=self.units,
            num_warps=WARPS[self.weights.precision],
            num_stages=1,  # more would fill the shared memory with weights
        )

    def _add_weights(self, x, y, between, grad_params, scale, part):
        first_sample, samples, _, cells = part
        h1, h, grad_h1, grad_h, grad_u = between
        inputs, outputs = ([y, h1, h], [grad_h1, grad_h, grad_u])
        if not self.network["UNITS1"]:
            inputs, outputs = [y, h], [grad_h, grad_u]
        _, parts = self._parts(x)
        groups, count, first_row = 1, samples * cells, 0
        if self.weights.per_sample:
            groups, count, first_row = samples, cells, first_sample * parts
        for a, g, layer in zip(inputs, outputs, self.weights.packing.layers, strict=True):
            rows, columns, tiles = self._tiles(layer)
            out, width, at_weights, at_bias = layer
            network_weights[(groups * parts * tiles,)](
                g,
                a,
                grad_params,
                scale,
                first_row,
                count,
                parts,
                triton.cdiv(triton.cdiv(count, self.cells), parts),
                at_weights,
                at_bias,
                self.weights.packing.packed,
                OUT=out,
                IN=width,
                **self.product,
                SCALED=self.weights.precision == "fp16",
                BM=self.cells,
                BO=rows,
                BI=columns,
            )
