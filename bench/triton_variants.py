"""What the Triton kernels are compiled for to be looked at without a GPU: rules, targets, and what launches them.

The launches of a step are those of the host, which runs as it does on the target; what it launches is noted.
"""

import contextlib
import math
import os
from dataclasses import replace
from typing import NamedTuple
from unittest import mock

import torch

from nca_fast import NCA, Rule
from nca_fast.fire_masks import threshold
from nca_fast.folding import plain_rule
from nca_fast.presets import PRESETS

ROWS = 32  # of a program of the single pass, where a variant does not name the size of a canvas

_GROWING = PRESETS["growing"]["rule"]
# As much as the kernels take.
_SEVEN = ("identity", "sobel_x", "sobel_y", "laplacian", "sobel_x9", "sobel_y9", "sobel_x5")
_WIDEST = Rule(channels=32, hidden=(256,), filters=_SEVEN, maximum_window=9, output_bias=True)
_DEEPEST = Rule(channels=64, hidden=(128, 128), filters=_SEVEN[:3], maximum_window=3, alive_channel=3, output_bias=True)
_STYLE = Rule(channels=18, hidden=(90, 90), frozen=3, fire_rate=1.0, output_bias=True)

# name: (rule, precision, state); each one forward and backward
VARIANTS = {
    "texture fp16": (Rule(), "fp16", "fp32"),
    "texture bf16": (Rule(), "bf16", "fp32"),
    "texture bf16, state bf16": (Rule(), "bf16", "bf16"),
    "texture fp16, state fp16": (Rule(), "fp16", "fp16"),
    "texture fp16, zero padding": (Rule(padding="zero"), "fp16", "fp32"),
    "texture fp16, fire rate map": (Rule(), "fp16", "fp32"),
    "texture tf32": (Rule(), "tf32", "fp32"),
    "texture fp32": (Rule(), "fp32", "fp32"),
    "clip fp16": (Rule(hidden=(128,)), "fp16", "fp32"),
    "16 channels fp16": (Rule(channels=16), "fp16", "fp32"),
    "growing without its mask fp16": (replace(_GROWING, alive_channel=None), "fp16", "fp32"),
    "growing fp16": (_GROWING, "fp16", "fp32"),
    "style fp16": (_STYLE, "fp16", "fp32"),
    "style-two-filters fp16": (PRESETS["style-two-filters"]["rule"], "fp16", "fp32"),
    "vae-mnist fp16": (PRESETS["vae-mnist"]["rule"], "fp16", "fp32"),
    "vae-cifar fp16": (PRESETS["vae-cifar"]["rule"], "fp16", "fp32"),
    "vae-face fp16": (PRESETS["vae-face"]["rule"], "fp16", "fp32"),
    "vae-face bf16, state bf16": (PRESETS["vae-face"]["rule"], "bf16", "bf16"),
    "vae-face tf32": (PRESETS["vae-face"]["rule"], "tf32", "fp32"),
    "vae-face fp32": (PRESETS["vae-face"]["rule"], "fp32", "fp32"),
    "the widest fp16": (_WIDEST, "fp16", "fp32"),
    "the widest fp32": (_WIDEST, "fp32", "fp32"),
    "the deepest fp16": (_DEEPEST, "fp16", "fp32"),
}
# Backward steps of canvases on which programs are cut in other ways than at the edge of a large one.
SHAPES = {
    "texture fp16, 4 x 128 x 128": (4, 128, 128),
    "texture fp16, 16 x 64 x 64": (16, 64, 64),
    "texture fp16, 2048 x 2048": (1, 2048, 2048),
    "texture fp16, weights by step": (4, 128, 128),
}
VARIANTS |= {name: (Rule(), "fp16", "fp32") for name in SHAPES}
# Published automata, each with something that those above have not; on one target.
PUBLISHED = ("engram", "dynca", "game-nca", "isotropic", "med-nca", "self-classifying-mnist", "goal-guided")


def _fixed(name):
    """The rule of a preset, its learned filters written as shifts, for these kernels have none."""
    return plain_rule(NCA.preset(name).rule)


VARIANTS |= {f"{name} fp16": (_fixed(name), "fp16", "fp32") for name in PUBLISHED}
VARIANTS["studying growth fp16"] = (replace(_GROWING, fire_rate=0.8, fire_shared=()), "fp16", "fp32")
VARIANTS["game-nca fp32"] = (PRESETS["game-nca"]["rule"], "fp32", "fp32")
# Every cell with a frame of its own: both ways of the kernels, and filters whose neighbours fill the registers.
_LARGE = ("identity", "sobel_x9", "sobel_y9", "sobel_x5", "sobel_y5", "laplacian")
_FRAMED = {"texture": Rule(), "growing": _GROWING, "style": _STYLE}
VARIANTS |= {f"{name} fp16, frames": (rule, "fp16", "fp32") for name, rule in _FRAMED.items()}
VARIANTS |= {f"texture {precision}, frames": (Rule(), precision, "fp32") for precision in ("bf16", "tf32", "fp32")}
VARIANTS["texture fp16, frames, fire rate map"] = (Rule(), "fp16", "fp32")
VARIANTS["texture bf16, state bf16, frames"] = (Rule(), "bf16", "bf16")
VARIANTS["large filters fp16, frames"] = (Rule(channels=16, filters=_LARGE), "fp16", "fp32")
_ONE_TARGET = {f"{name} fp16" for name in PUBLISHED} | {"studying growth fp16", "game-nca fp32"}
_ONE_TARGET |= {n for n in VARIANTS if "frames" in n and n not in ("texture fp16, frames", "growing fp16, frames")}
STATES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
POINTERS = {dtype: name for name, dtype in STATES.items()} | {torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}
TARGETS = {
    "sm_90": ("cuda", 90, 32),
    "sm_80": ("cuda", 80, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
    "sm_86": ("cuda", 86, 32),
    "sm_89": ("cuda", 89, 32),
    "sm_120": ("cuda", 120, 32),
}
# Of the GPUs for which canvases are cut: H200, A100, B200, MI300X, RTX 3090, 4090 and 5090.
MULTIPROCESSORS = dict(zip(TARGETS, (132, 108, 148, 304, 82, 128, 170), strict=True))
# Of consumer cards the named automata in the precision that is the default there, and frames.
_CONSUMER = ("sm_86", "sm_89", "sm_120")
_PRESETS = ("texture", "clip", "growing", "style", "style-two-filters", "vae-mnist", "vae-cifar", "vae-face")


def variants_of(target: str) -> list[str]:
    """Names of the variants that are compiled for a target."""
    if target in _CONSUMER:
        return [*(f"{name} fp16" for name in _PRESETS), "texture fp16, frames", *SHAPES]
    return [name for name in VARIANTS if target == "sm_90" or name not in _ONE_TARGET]


def kinds_of(target: str) -> list[tuple[str, str]]:
    """Names and directions of the rows of a target."""
    return [(n, d) for n in variants_of(target) for d in ("forward", "backward") if d == "backward" or n not in SHAPES]


class Launch(NamedTuple):
    """One launch of a kernel: what it is compiled for, and the share of a program."""

    kernel: object
    arguments: dict
    constants: dict
    warps: int
    stages: int
    fused: bool | None  # whether multiplications and additions are to be fused; None: as Triton likes
    canvas: tuple[int, int, int] | None  # samples, rows and columns, where the variant names them

    @property
    def rows(self) -> int:
        """Of a program of the single pass."""
        return self.arguments["R"] * self.arguments["bands"] if self.canvas else ROWS

    @property
    def turns(self) -> float:
        """Of the loop, in a program of ROWS rows, or blocks of cells, or with all chunks of a layer."""
        c = self.constants
        if "LINES" in c:
            return math.ceil(self.arguments["lines"] / c["LINES"])
        if "BW" in c:
            strips = 1 + self.rows // self.arguments["H"] if c.get("SEVERAL") else 1
            return (self.rows + 2 * strips * c.get("GRAD_X", False)) / c.get("UNROLL", 1)
        if "REACH" in c:
            return ROWS + 2 * c["REACH"]
        return ROWS if "BO" in c else c["UNITS"] / c["BN"] if "BN" in c else 0

    @property
    def cells(self) -> float:
        """Of a program; tiles of a layer's weights share theirs."""
        c = self.constants
        if "LINES" in c:
            return math.prod(self.canvas) / math.ceil(self.arguments["packed"] / c["COLUMNS"])
        if "BW" in c:
            whole = c["BW"] - 2 * (c.get("GRAD_X", False) and not c["RING"])
            return self.rows * (self.arguments["W"] / self.arguments["columns"] if self.canvas else whole)
        if "BO" in c:
            return ROWS * c["BM"] / (math.ceil(c["OUT"] / c["BO"]) * math.ceil(c["IN"] / c["BI"]))
        if "REACH" in c:  # of a group of channels
            return ROWS * c["BM"] * c["GROUP"] / c["C"]
        return c["BM"]


class _Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self, kernel, launches, canvas):
        self.kernel, self.launches, self.canvas = kernel, launches, canvas

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps=4, num_stages=3, enable_fp_fusion=None, **constants):
        named = dict(zip(self.kernel.arg_names, arguments, strict=False))
        self.launches.append(
            Launch(self.kernel, named, constants, num_warps, num_stages, enable_fp_fusion, self.canvas)
        )


def launches(name: str, direction: str, target: str) -> list[Launch]:
    """What the host launches for one step of a variant.

    Args:
        name: One of VARIANTS.
        direction: "forward" or "backward".
        target: One of TARGETS.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("kernels must be compiled without the interpreter, but TRITON_INTERPRET=1: unset it.")
    from nca_fast.kernels.triton import alive, noise, rollout, step_sums, steps
    from nca_fast.kernels.triton.fire import Step
    from nca_fast.kernels.triton.single_pass import plan
    from nca_fast.kernels.triton.single_pass import steps as single_pass
    from nca_fast.kernels.triton.through_memory import perception
    from nca_fast.kernels.triton.through_memory import steps as through_memory

    found = []
    (rule, precision, state), framed = VARIANTS[name], "frames" in name
    numbers = sum(out * (inputs + has_bias) for out, inputs, has_bias in rule.layers)
    params = torch.zeros(2, 1, numbers) if name.endswith("by step") else torch.zeros(numbers)
    fire = threshold(torch.zeros(2, 2) if name.endswith("map") else rule.fire_rate)
    x = rollout.to_layout(torch.zeros(1, rule.channels, 2, 130, dtype=STATES[state]))
    if name in SHAPES:
        x = x[:1, :1, :1].expand(*SHAPES[name], -1)  # takes no memory
    with contextlib.ExitStack() as stack:
        kind, number, _ = TARGETS[target]
        capability = (number // 10, number % 10) if kind == "cuda" else None
        hip, count = None if capability else "6", MULTIPROCESSORS[target]
        changes = {"places": lambda device, precision, p: count * plan.resident(p, hip)}
        stack.enter_context(mock.patch.multiple(plan, capability=lambda device: capability, **changes))
        for module, kernels in (
            (single_pass, ("step_fwd", "step_bwd")),
            (perception, ("perception_fwd", "perception_bwd", "add_ring")),
            (through_memory, ("network_fwd", "network_bwd", "network_weights", "frames_bwd")),
            (alive, ("apply_alive_mask", "write_living", "read_living")),
            (noise, ("add_state_noise",)),
            (step_sums, ("add_lines",)),
        ):
            recorders = {k: _Recorder(getattr(module, k), found, SHAPES.get(name)) for k in kernels}
            stack.enter_context(mock.patch.multiple(module, **recorders))
        noisy = rule.state_noise or rule.update_noise
        noise, field = torch.ones(1) if noisy else None, torch.ones(1, 2, *x.shape[1:3]) if framed else None
        weights = rollout.pack_weights(params, rule.kernel_rule, precision, noise, field)
        keys = torch.empty(*x.shape[:2], 4 if noisy else 2, dtype=torch.int32)
        out, step = torch.empty_like(x), Step(keys, fire, 0)
        if direction == "forward":
            steps.forward_step(x, out, weights, step)
        else:
            buffer, scale = steps.gradient_buffer(weights, x), torch.ones(())
            sums = steps.sums_of_a_step(weights, x) if name.endswith("by step") else buffer.sums
            steps.backward_step(x, x, out, buffer._replace(sums=sums), weights, scale, step, x)
            if sums is not buffer.sums:
                step_sums.add_sums(sums, buffer.sums[0])
    return found
