"""Launches the kernels of the single pass, and says what they are compiled for; programs are cut in plan.py."""

import torch
import triton
from torch import Tensor

from ..fire import Step
from ..frames import Frames
from ..launch import launch
from ..products import chunks, product_constants
from ..update import living_after, living_before, noise_constant, update_constants
from ..weights import Gradients, PackedWeights
from . import plan
from .backward import step_bwd
from .forward import step_fwd
from .packing import packing


class SinglePass:
    """The packed weights of one rollout, and the launches of its steps.

    Args:
        params, rule, precision, noise: As in `RolloutWeights` (steps.py).
        frames: Of the rollout.
    """

    def __init__(self, params: Tensor, rule, precision: str, noise: Tensor | None = None, frames: Frames | None = None):
        self.weights = PackedWeights(params, packing(rule), precision)
        self.noise, self.rule = noise, rule
        self.field, self.turns = (frames.field, frames.turns) if frames else (None, ())
        self._plans = {}

    def _constants(self, step, living):
        """Lists what both kernels are compiled for; living: see update.py."""
        weights = self.weights
        constants = weights.packing.constants | update_constants(self.rule, living)
        draws = {"NOISE": noise_constant(self.rule.update_noise, self.noise), "WORDS": step.words, "MAP": step.by}
        return constants | draws | {"TURNS": self.turns} | product_constants(weights.precision)

    def _unroll(self):
        """Chooses rows per turn of the forward loop: as many as there are registers for."""
        weights = self.weights
        constants = weights.packing.constants
        small = constants["C"] * len(constants["TERMS"]) <= 64 and not constants["HIDDEN2"]
        in_registers = plan.weights_in_registers(weights.matrices.device)
        return 2 if small and weights.matrices.element_size() == 2 and not in_registers else 1

    def _backward_constants(self, step):
        constants = self._constants(step, living_after(self.rule))
        for name in ("HIDDEN2", "UNITS2", "BIAS2", "CLAMP", "PLAIN", "NOISE"):  # that have another backward pass
            del constants[name]
        packing = self.weights.packing
        return constants | {"TRANSPOSED": packing.transposed, "SCALED": self.weights.precision == "fp16"}

    def _launch(self, kernel, programs, tensors, step, more, numbers, **constants):
        """Launches so many programs of a kernel on the tensors and with the numbers that are its own."""
        weights = self.weights
        launch(
            kernel,
            (programs,),
            *tensors,
            step.keys,
            step.fire,
            step.living,
            *more,
            *weights.now,
            *weights.strides,
            *tensors[0].shape[1:3],
            *numbers,
            step.column,
            num_stages=1,  # more would take the loads through shared memory
            **constants,
        )

    def forward(self, x: Tensor, out: Tensor, step: Step, keep=False) -> bool:
        """out = x after a step, without what is done to those who do not live after it; as `forward_step` (steps.py).

        Returns:
            False: a single pass keeps nothing for `backward`.
        """
        B, H, W, _ = x.shape
        tile = plan.forward_tile(self.weights, B, H, W)
        programs = B * triton.cdiv(W, tile.columns) * triton.cdiv(H, tile.rows)
        constants = self._constants(step, living_before(self.rule)) | {"UNROLL": self._unroll()}
        constants |= {"BW": tile.columns, "CARRIED": tile.CARRIED, "num_warps": tile.warps}
        noise = self.noise if self.rule.update_noise else None
        self._launch(step_fwd, programs, (x, out), step, (noise, self.field), (tile.rows,), **constants)
        return False

    def _backward_plan(self, x, per_cell):
        """Lists (pass, how bands are dealt out) of one backward step, and counts partial sums of weight gradients."""
        key = x.shape, per_cell
        if key not in self._plans:
            self._plans[key] = plan.backward_plan(self.weights, *x.shape[:3], per_cell, self.field is not None)
        return self._plans[key]

    def sums(self, x: Tensor) -> Tensor:
        """Makes partial sums of the gradient of the packed weights, zero: float32 [programs, packed]."""
        _, sums = self._backward_plan(x, False)
        return torch.zeros(sums, self.weights.packing.packed, dtype=torch.float32, device=x.device)

    def backward(self, x, grad, grad_x, buffer: Gradients, scale, step: Step, kept: bool) -> None:
        """grad_x = the gradient of x; the arguments as in `backward_step`.

        Args:
            kept: What `forward` returned.
        """
        B, H, W, _ = x.shape
        rules = B if self.weights.per_sample else 1
        constants = self._backward_constants(step)
        per_cell = step.by > 0 or constants["LANES"]
        for p, dealt in self._backward_plan(x, per_cell)[0]:
            columns, down = triton.cdiv(W, p.written), triton.cdiv(H, dealt.rows)
            numbers = dealt.rows, columns, down, B // rules * columns * down, dealt.bands, dealt.programs
            of_pass = ("GRAD_X", "GRAD_W1", "GRAD_W", "CARRIED", "RING", "NARROW")
            constants |= {name: getattr(p, name) for name in of_pass}
            # Masks of channels take registers, which the profiles of two rows leave where they are loaded again.
            constants["CARRIED"] = p.CARRIED and not constants["LANES"]
            constants["HIDDEN1"] = chunks(constants["UNITS1"], p.chunk)
            constants |= {"BW": p.columns, "SEVERAL": dealt.several, "num_warps": p.warps}
            tensors, programs = (x, grad, grad_x, buffer.sums, scale), rules * dealt.programs
            self._launch(step_bwd, programs, tensors, step, (self.field, buffer.turns), numbers, **constants)
