"""Launches the kernels of the single pass, and says what they are compiled for; programs are cut in plan.py."""

import torch
import triton
from torch import Tensor

from ..launch import launch
from ..products import chunks, product_constants
from ..weights import PackedWeights
from . import plan
from .backward import step_bwd
from .forward import step_fwd
from .packing import packing


class SinglePass:
    """The packed weights of one rollout, and the launches of its steps.

    Args:
        params, rule, precision: As in `RolloutWeights` (steps.py).
    """

    def __init__(self, params: Tensor, rule, precision: str):
        self.weights = PackedWeights(params, packing(rule), precision)
        self._plans = {}

    def _forward_constants(self, per_cell):
        weights = self.weights
        constants = weights.packing.constants
        small = constants["C"] * len(constants["TERMS"]) <= 64 and not constants["HIDDEN2"]
        in_registers = plan.weights_in_registers(weights.matrices.device)
        two_rows = small and weights.matrices.element_size() == 2 and not in_registers
        unroll = 2 if two_rows else 1  # as many as there are registers for
        return constants | product_constants(weights.precision) | {"MAP": per_cell, "UNROLL": unroll}

    def _backward_constants(self, per_cell):
        constants = self._forward_constants(per_cell)
        for name in ("UNROLL", "HIDDEN2", "UNITS2", "BIAS2"):  # rules of two layers have another backward pass
            del constants[name]
        packing = self.weights.packing
        return constants | {"TRANSPOSED": packing.transposed, "SCALED": self.weights.precision == "fp16"}

    def _launch(self, kernel, programs, tensors, keys, fire, numbers, origin_column, **constants):
        """Launches so many programs of a kernel on the tensors and with the numbers that are its own."""
        weights = self.weights
        launch(
            kernel,
            (programs,),
            *tensors,
            keys,
            fire,
            weights.matrices,
            weights.biases,
            *weights.strides,
            *tensors[0].shape[1:3],
            *numbers,
            origin_column,
            num_stages=1,  # more would take the loads through shared memory
            **constants,
        )

    def forward(self, x: Tensor, out: Tensor, keys: Tensor, fire: Tensor, origin_column: int, keep=False) -> bool:
        """out = x after a step without its alive mask; the arguments as in `forward_step` (steps.py).

        Returns:
            False: a single pass keeps nothing for `backward`.
        """
        B, H, W, _ = x.shape
        tile = plan.forward_tile(self.weights, B, H, W)
        programs = B * triton.cdiv(W, tile.columns) * triton.cdiv(H, tile.rows)
        constants = self._forward_constants(fire.ndim == 2)
        constants |= {"BW": tile.columns, "CARRIED": tile.CARRIED, "num_warps": tile.warps}
        self._launch(step_fwd, programs, (x, out), keys, fire, (tile.rows,), origin_column, **constants)
        return False

    def _backward_plan(self, x, per_cell):
        """Lists (pass, how bands are dealt out) of one backward step, and counts partial sums of weight gradients."""
        key = x.shape, per_cell
        if key not in self._plans:
            self._plans[key] = plan.backward_plan(self.weights, *x.shape[:3], per_cell)
        return self._plans[key]

    def gradient_buffer(self, x: Tensor) -> Tensor:
        """Makes partial sums of the gradient of the packed weights, zero: float32 [programs, packed]."""
        _, sums = self._backward_plan(x, False)
        return torch.zeros(sums, self.weights.packing.packed, dtype=torch.float32, device=x.device)

    def backward(self, x, grad, grad_x, buffer, scale, keys, fire, origin_column, kept: bool) -> None:
        """grad_x = the gradient of x, buffer += partial sums; the arguments as in `backward_step`.

        Args:
            grad: Gradient of the state after the step, multiplied by the alive mask.
            buffer: From `gradient_buffer`.
            kept: What `forward` returned.
        """
        B, H, W, _ = x.shape
        rules = B if self.weights.per_sample else 1
        constants = self._backward_constants(fire.ndim == 2)
        for p, dealt in self._backward_plan(x, fire.ndim == 2)[0]:
            columns, down = triton.cdiv(W, p.written), triton.cdiv(H, dealt.rows)
            numbers = dealt.rows, columns, down, B // rules * columns * down, dealt.bands, dealt.programs
            constants |= {name: getattr(p, name) for name in ("GRAD_X", "GRAD_W1", "GRAD_W", "CARRIED", "RING")}
            constants["HIDDEN1"] = chunks(constants["UNITS1"], p.chunk)
            constants |= {"BW": p.columns, "SEVERAL": dealt.several, "num_warps": p.warps}
            tensors, programs = (x, grad, grad_x, buffer, scale), rules * dealt.programs
            self._launch(step_bwd, programs, tensors, keys, fire, numbers, origin_column, **constants)
