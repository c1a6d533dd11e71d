"""Runs the Triton kernels that keep perception in memory between them, range of cells by range of cells.

They serve what the single pass has no registers for: larger filters, local maxima, wide layers, no hidden layer, and
the backward pass of two hidden layers, functions of the update, clamps, reflection and replication.

    forward   perception_fwd, network_fwd
    backward  perception_fwd, network_bwd, network_weights per layer, in the end perception_bwd

Of what lies between the kernels (scratch) most is for a range of cells, which is as large as `_SCRATCH` allows; the
gradient of the perception is for all cells. All of it is allocated once per rollout.
"""

import math

import torch
import triton
from torch import Tensor

from ..fire import Step
from ..frames import Frames, frames_bwd
from ..launch import launch
from ..memory import Scratch
from ..products import COMPILER, DTYPES, product_constants
from ..single_pass import plan
from ..update import living_after, living_before, noise_constant, update_constants
from ..weights import Gradients, PackedWeights
from .network_backward import network_bwd
from .network_forward import network_fwd
from .packing import layer_packing
from .perception import Perception, Rows
from .weight_gradients import network_weights

_SCRATCH = 128 << 20  # bytes, for a range of cells
_PROGRAMS = 1024  # of the sums of weight gradients
_NUMBERS = 1024  # of a filter, in a program of the gradients of frames
# Cells of one program of the network, and units of the last hidden layer that it works off at a time, at most. Its
# gradient takes half as many of wide perception where matrix units take weights from registers: it would spill.
CELLS = {"fp32": 32, "tf32": 32, "fp16": 64, "bf16": 64}
UNITS = {"fp32": 16, "tf32": 32, "fp16": 64, "bf16": 64}
WARPS = {"fp32": 8, "tf32": 4, "fp16": 4, "bf16": 4}


class ThroughMemory:
    """The packed weights of one rollout, and the launches of its steps.

    Args:
        params, rule, precision, noise: As in `RolloutWeights` (steps.py).
        scratch, frames: Of the rollout.
    """

    def __init__(
        self,
        params: Tensor,
        rule,
        precision: str,
        scratch: Scratch,
        noise: Tensor | None = None,
        frames: Frames | None = None,
    ):
        packing = layer_packing(rule)
        self.weights, self.rule, self.noise = PackedWeights(params, packing, precision), rule, noise
        self.perception, self.network = Perception(packing, scratch, frames), packing.network
        self.scratch, self.frames = scratch, frames
        self.product = product_constants(precision)
        self.cells = CELLS[precision]
        self.units = math.gcd(UNITS[precision], self.network["UNITS"] or 16)
        device = self.weights.matrices.device
        found = plan.capability(device)
        architecture = found[0] if found else None
        wide = max(self.network["K"], self.network["UNITS1"]) > 96
        halved = wide and self.cells == self.units == 64 and plan.weights_in_registers(device)
        self.backward_cells, self.backward_units = self.cells, self.units
        small = self.cells == self.units == 64 and not self.network["UNITS1"] and self.network["K"] <= 48
        # With four the compiler for these keeps to 80 registers, and spills.
        self.backward_warps = 2 if small and found in ((8, 6), (8, 9)) else WARPS[precision]
        if halved and architecture == 12:
            self.backward_units = self.units // 2
        elif halved:
            self.backward_cells = self.cells // 2
        elif architecture == 10 and precision == "fp32":
            self.backward_units = math.gcd(32, self.network["UNITS"] or 16)
        self.sum_stages = 1 if architecture == 10 and precision == "bf16" else 3  # of loads; three spill there

    def _between(self, name, like, *shape):
        """Gives scratch for what the matrix products multiply."""
        return self.scratch(name, like, *shape, dtype=DTYPES[self.weights.precision])

    def _winners(self, x):
        return self.scratch("winners", x, *x.shape, dtype=torch.int8) if self.perception.maximum else None

    def _ranges(self, x):
        """Cuts the canvas into ranges of rows: whole samples, or parts of one."""
        B, H, W, _ = x.shape
        c = self.network
        numbers = c["K"] + 2 * c["UNITS1"] + 2 * c["UNITS"] + c["COLUMNS"]
        most = max(1, _SCRATCH // (numbers * self.weights.matrices.element_size()))
        samples = min(B, most // (H * W))
        if samples:
            return [Rows(b, min(samples, B - b), 0, H) for b in range(0, B, samples)]
        rows = max(1, most // W)
        return [Rows(b, 1, i, min(rows, H - i)) for b in range(B) for i in range(0, H, rows)]

    def _network_grid(self, x, part, cells):
        return (part.samples * -(-part.count * x.shape[2] // cells),)

    def _network_arguments(self, x, step, part):
        """Lists what both kernels of the network are told: draws, weights, and which cells are theirs."""
        _, H, W, _ = x.shape
        draws = step.keys, step.fire, step.living, self.noise if self.rule.update_noise else None
        weights = *self.weights.now, *self.weights.strides
        return *draws, *weights, part.first_sample, part.first * W, part.count * W, H, W, step.column

    def _network_options(self, step, living, cells, units):
        """Lists what both are compiled for: LIVING (update.py), cells of a program, and units at a time."""
        return {
            **self.network,
            **update_constants(self.rule, living),
            **self.product,
            "NOISE": noise_constant(self.rule.update_noise, self.noise),
            "WORDS": step.words,
            "MAP": step.by,
            "BM": cells,
            "BN": units,
            "num_warps": WARPS[self.weights.precision],
            "num_stages": 1,  # more would fill the shared memory with weights
        }

    def _network_forward(self, x, y, out, step, part, options):
        arguments = self._network_arguments(x, step, part)
        launch(network_fwd, self._network_grid(x, part, self.cells), x, y, out, *arguments, **options)

    def forward(self, x: Tensor, out: Tensor, step: Step, keep=False) -> bool:
        """out = x after a step, without what is done to those who do not live after it; as `forward_step` (steps.py).

        Args:
            keep: Whether to note which neighbours are the local maxima, for `backward`.

        Returns:
            Whether the perception of all cells is still in memory, for `backward`.
        """
        ranges, winners = self._ranges(x), self._winners(x) if keep else None
        y = self._between("y", x, ranges[0].samples * ranges[0].count * x.shape[2], self.network["K"])
        options = self._network_options(step, living_before(self.rule), self.cells, self.units)
        for part in ranges:
            self.perception.forward(x, y, winners, part)
            self._network_forward(x, y, out, step, part, options)
        return len(ranges) == 1

    def sums(self, x: Tensor) -> Tensor:
        """Makes partial sums of the gradient of the packed weights, zero: float32 [rules * parts, packed]."""
        rules, parts = self._parts(x)
        return torch.zeros(rules * parts, self.weights.packing.packed, dtype=torch.float32, device=x.device)

    def _tiles(self, layer):
        """Chooses rows and columns of a tile of a layer's weights, and counts the tiles."""
        out, inputs, *_ = layer
        largest = UNITS[self.weights.precision]
        rows, columns = (min(largest, triton.next_power_of_2(n)) for n in (out, inputs))
        return rows, columns, triton.cdiv(out, rows) * triton.cdiv(inputs, columns)

    def _parts(self, x):
        """Counts rules, and parts of the cells of each with sums of their own."""
        B, H, W, _ = x.shape
        rules = B if self.weights.per_sample else 1
        tiles = sum(self._tiles(layer)[2] for layer in self.weights.packing.layers)
        blocks = triton.cdiv(B * H * W // rules, self.cells)
        return rules, max(1, min(blocks, _PROGRAMS // (tiles * rules)))

    def backward(self, x, grad, grad_x, buffer: Gradients, scale, step: Step, kept: bool) -> None:
        """grad_x = the gradient of x; the arguments as in `backward_step`.

        Args:
            kept: What `forward` with `keep` returned for the same x, or False.
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
        grad_y, straight = self._between("grad_y", x, *x.shape[:3], c["K"]), self._straight(grad)
        options = self._network_options(step, living_after(self.rule), self.backward_cells, self.backward_units)
        options |= {"num_warps": self.backward_warps, "SCALED": self.weights.precision == "fp16"}
        del options["PLAIN"]
        layers = self._layers(x, y, between)
        for part in ranges:
            if not kept:
                self.perception.forward(x, y, winners, part)
            self._network_backward(grad, x, straight, y, between, grad_y, scale, step, part, options)
            self._weight_gradients(x, buffer.sums, scale, part, layers)
            if self.frames:
                self._frame_gradients(x, y, grad_y, buffer.turns, scale, part)
        straight, scale = grad if straight is None else straight, scale if self.weights.precision == "fp16" else None
        self.perception.backward(straight, grad_y, winners, grad_x, scale)

    def _straight(self, grad):
        """Gives room for the gradient that reaches the state straight; None where that is the one of the result."""
        rule = self.rule
        if (
            rule.residual
            and not rule.clamp
            and rule.alive_channel is None
            and rule.activations[-1] == ("identity", 0, 1)
        ):
            return None
        return self.scratch("straight", grad, *grad.shape, dtype=torch.float32)

    def _network_backward(self, grad, x, straight, y, between, grad_y, scale, step, part, options):
        h1, h, grad_h1, grad_h, grad_u = between
        launch(
            network_bwd,
            self._network_grid(grad, part, self.backward_cells),
            grad,
            x if self.rule.clamp else None,
            straight,
            y,
            h1,
            h,
            grad_y,
            grad_h1,
            grad_h,
            grad_u,
            scale,
            *self._network_arguments(grad, step, part),
            **options,
        )

    def _frame_gradients(self, x, y, grad_y, turns, scale, part):
        _, H, W, C = x.shape
        columns, scaled = triton.next_power_of_2(C), self.weights.precision == "fp16"
        cells = max(1, _NUMBERS // columns)
        launch(
            frames_bwd,
            self._network_grid(x, part, cells),
            y,
            grad_y,
            turns,
            scale,
            part.first_sample,
            part.first * W,
            part.count * W,
            H,
            W,
            C=C,
            K=self.network["K"],
            TURNS=self.frames.turns,
            SCALED=scaled,
            COLUMNS=columns,
            BM=cells,
            **COMPILER,
        )

    def _layers(self, x, y, between):
        """Counts parts of the cells, and lists of each layer: its outputs' gradients, its inputs, where its weights and
        bias begin, tiles, and constants."""
        h1, h, grad_h1, grad_h, grad_u = between
        layers = self.weights.packing.layers
        inputs = [y, *[h1, h][3 - len(layers) :]]
        outputs = [*[grad_h1, grad_h][3 - len(layers) :], grad_u]
        shared = self.product | {"SCALED": self.weights.precision == "fp16", "BM": self.cells}
        found = []
        for a, g, layer in zip(inputs, outputs, layers, strict=True):
            rows, columns, tiles = self._tiles(layer)
            out, width, *places = layer
            constants = {"OUT": out, "IN": width, **shared, "BO": rows, "BI": columns, "num_stages": self.sum_stages}
            found.append((g, a, places, tiles, constants))
        return self._parts(x)[1], found

    def _weight_gradients(self, x, buffer, scale, part, layers):
        cells, (parts, layers) = part.count * x.shape[2], layers
        rules, count, first_row = 1, part.samples * cells, 0
        if self.weights.per_sample:
            rules, count, first_row = part.samples, cells, part.first_sample * parts
        blocks = -(-count // (self.cells * parts))
        for g, a, (at_weights, at_bias), tiles, constants in layers:
            numbers = first_row, count, parts, blocks, at_weights, at_bias, self.weights.packing.packed
            launch(network_weights, (rules * parts * tiles,), g, a, buffer, scale, *numbers, **constants)
