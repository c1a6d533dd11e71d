"""Runs the Triton kernels that keep perception in memory between them, range of cells by range of cells.

They serve what the single pass has no registers for: larger filters, local maxima, wide layers, and the backward pass
of two hidden layers.

    forward   perceive_fwd, network_fwd
    backward  perceive_fwd, network_bwd, network_weights per layer, in the end perceive_bwd

Of what lies between the kernels (scratch) most is for a range of cells, which is as large as `_SCRATCH` allows; the
gradient of the perception is for all cells. All of it is allocated once per rollout.
"""

import math

import torch
import triton
from torch import Tensor

from ..packing import DTYPES, TRITON_DTYPES, Weights, product
from ..scratch import Scratch
from .network_backward import network_bwd
from .network_forward import network_fwd
from .packing import layer_packing
from .perception import Perception, Rows
from .weight_gradients import network_weights

_SCRATCH = 128 << 20  # bytes, for a range of cells
_PROGRAMS = 1024  # of the sums of weight gradients
# Cells of one program of the network, and units of the last hidden layer that it works off at a time, at most.
CELLS = {"fp32": 32, "tf32": 32, "fp16": 64, "bf16": 64}
UNITS = {"fp32": 16, "tf32": 32, "fp16": 64, "bf16": 64}
WARPS = {"fp32": 8, "tf32": 4, "fp16": 4, "bf16": 4}


def through_memory(about, precision: str) -> tuple[bool, bool]:
    """Whether a rule (`backends.About`) goes this way, forward and backward."""
    widths = [out for out, _, _ in about.layers[:-1]]
    channels, filters = about.layers[-1][0] + about.frozen, len(about.stencils)
    wide = about.stencils.shape[1] > 3 or about.maximum_window is not None
    wide = wide or channels > 32 or filters > 8 or max(widths) > 128
    # Two rows of tiles in float32 do not fit into shared memory.
    wide = wide or precision == "tf32" and (channels > 16 or filters > 4)
    return wide, wide or len(widths) > 1


class Perceived:
    """The packed weights of one rollout, and the launches of its steps.

    Args:
        params, about, precision: As in `Prepared` (steps.py).
        scratch: Of the rollout.
    """

    def __init__(self, params: Tensor, about, precision: str, scratch: Scratch):
        packing = layer_packing(about)
        self.weights = Weights(params, packing, precision)
        self.perception, self.network, self.scratch = Perception(packing), packing.network, scratch
        self.product = {
            "DOT": TRITON_DTYPES[precision],
            "PRODUCT": product(precision, torch.version.hip is not None),
        }
        self.cells = CELLS[precision]
        self.units = math.gcd(UNITS[precision], self.network["UNITS"])

    # --- memory -------------------------------------------------------------------------------------------------------

    def _between(self, name, like, *shape):
        """Scratch for what the matrix products multiply."""
        return self.scratch(name, like, *shape, dtype=DTYPES[self.weights.precision])

    def _winners(self, x):
        return self.scratch("winners", x, *x.shape, dtype=torch.int8) if self.perception.maximum else None

    def _ranges(self, x):
        """Ranges of rows: whole samples, or parts of one."""
        B, H, W, _ = x.shape
        c = self.network
        numbers = c["K"] + 2 * c["UNITS1"] + 2 * c["UNITS"] + c["COLUMNS"]
        most = max(1, _SCRATCH // (numbers * self.weights.matrices.element_size()))
        samples = min(B, most // (H * W))
        if samples:
            return [Rows(b, min(samples, B - b), 0, H) for b in range(0, B, samples)]
        rows = max(1, most // W)
        return [Rows(b, 1, i, min(rows, H - i)) for b in range(B) for i in range(0, H, rows)]

    # --- launches -----------------------------------------------------------------------------------------------------

    def _network_grid(self, x, part):
        return (part.samples * triton.cdiv(part.count * x.shape[2], self.cells),)

    def _network_arguments(self, x, keys, fire, origin_column, part):
        """What the kernels of the network are told alike: the weights, and which cells are theirs."""
        _, H, W, _ = x.shape
        weights = self.weights.matrices, self.weights.biases, *self.weights.strides
        return keys, fire, *weights, part.first_sample, part.first * W, part.count * W, H, W, origin_column

    def _network_options(self, fire):
        """What they are compiled for alike."""
        return {
            **self.network,
            **self.product,
            "MAP": fire.ndim == 2,
            "BM": self.cells,
            "BN": self.units,
            "num_warps": WARPS[self.weights.precision],
            "num_stages": 1,  # more would fill the shared memory with weights
        }

    def _update(self, x, y, out, keys, fire, origin_column, part):
        network_fwd[self._network_grid(x, part)](
            x,
            y,
            out,
            *self._network_arguments(x, keys, fire, origin_column, part),
            **self._network_options(fire),
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    def advance(
        self, x: Tensor, out: Tensor, keys: Tensor, fire: Tensor, origin_column: int, going_back: bool = False
    ) -> bool:
        """out = x after a step without its alive mask; the arguments as in `forward_step` (steps.py).

        Returns:
            Whether the perception of all cells, with going_back all that `retreat` reads of it, is still there.
        """
        ranges, winners = self._ranges(x), self._winners(x) if going_back else None
        y = self._between("y", x, ranges[0].samples * ranges[0].count * x.shape[2], self.network["K"])
        for part in ranges:
            self.perception.see(x, y, winners, part)
            self._update(x, y, out, keys, fire, origin_column, part)
        return len(ranges) == 1

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

    def retreat(self, x, grad, grad_x, grad_params, scale, keys, fire, origin_column, seen: bool) -> None:
        """grad_x = the gradient of x, grad_params += partial sums; the arguments as in `backward_step`.

        Args:
            grad: Gradient of the state after the step, without what the alive mask buried.
            grad_params: From `gradients`.
            seen: What `advance` said about the same x, or False.
        """
        ranges, winners, c = self._ranges(x), self._winners(x), self.network
        cells = ranges[0].samples * ranges[0].count * x.shape[2]
        y, *between = (
            self._between(name, x, cells, width)
            for name, width in (
                ("y", c["K"]),
                ("h1", c["UNITS1"]),
                ("h", c["UNITS"]),
                ("grad_h1", c["UNITS1"]),
                ("grad_h", c["UNITS"]),
            )
        )
        between.append(self.scratch("grad_u", x, cells, c["COLUMNS"], dtype=torch.float32))
        grad_y = self._between("grad_y", x, *x.shape[:3], c["K"])
        for part in ranges:
            if not seen:
                self.perception.see(x, y, winners, part)
            self._return(grad, y, between, grad_y, scale, keys, fire, origin_column, part)
            self._add_weights(x, y, between, grad_params, scale, part)
        self.perception.give_back(grad, grad_y, winners, grad_x, scale if self.weights.precision == "fp16" else None)

    def _return(self, grad, y, between, grad_y, scale, keys, fire, origin_column, part):
        h1, h, grad_h1, grad_h, grad_u = between
        network_bwd[self._network_grid(grad, part)](
            grad,
            y,
            h1,
            h,
            grad_y,
            grad_h1,
            grad_h,
            grad_u,
            scale,
            *self._network_arguments(grad, keys, fire, origin_column, part),
            **self._network_options(fire),
            SCALED=self.weights.precision == "fp16",
        )

    def _add_weights(self, x, y, between, grad_params, scale, part):
        cells = part.count * x.shape[2]
        h1, h, grad_h1, grad_h, grad_u = between
        inputs, outputs = ([y, h1, h], [grad_h1, grad_h, grad_u])
        if not self.network["UNITS1"]:
            inputs, outputs = [y, h], [grad_h, grad_u]
        _, parts = self._parts(x)
        groups, count, first_row = 1, part.samples * cells, 0
        if self.weights.per_sample:
            groups, count, first_row = part.samples, cells, part.first_sample * parts
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
