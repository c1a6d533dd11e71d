"""What the Triton kernels can do, and what memory they take. Imported where there is no triton."""

import os
import re
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

DEVICE = "cuda"  # what torch calls AMD's GPUs too
LEARNS = False
OLDEST_TRITON = (3, 5)  # 3.3 cannot compile the kernels, 3.4 spills 51 registers in the backward pass
# KiB of shared memory that the single pass needs on GPUs that have no more than 99, whose matrix units take weights
# from registers: the most of a forward and a backward step, see shared_bytes in bench/results/triton_table.json.
_SHARED_KIB = {"fp32": 74, "tf32": 76, "fp16": 46, "bf16": 46}
_SHARED_KIB_TWO_LAYERS = {"fp32": 94, "fp16": 60, "bf16": 60}  # up to 24 channels; fp32: up to four filters
_SHARED_KIB_TWO_LAYERS_WIDE = {"fp16": 72, "bf16": 72}  # up to 32 channels and four filters
_SHARED_KIB_WIDE = 187
_SHARED_KIB_THROUGH_MEMORY = 64


def refusal(rule, x: Tensor, precision: str, uses: tuple[str, ...] = ()) -> str | None:
    """Says why the Triton kernels cannot serve, or None; see `nca_fast.backends.Backend`."""
    interpreted = x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if x.device.type != "cuda" and not interpreted:
        return f"the Triton kernels take states on a GPU, but x is on {x.device.type}: use x.cuda()."
    if x.dtype == torch.float64:
        return "the Triton kernels take float32, bfloat16 and float16 states, but x is torch.float64: use x.float()."
    if rule.channels > 64:
        return f"the Triton kernels take at most 64 channels, but the rule has {rule.channels}."
    inputs = -(-rule.channels // 4) * 4 * (len(rule.stencils) + (rule.maximum_window is not None))
    if inputs > 384:
        return (
            "the Triton kernels take at most 384 numbers of perception (channels, of which they make a multiple of "
            "four, times filters and maximum; learned filters and those up to 3x3 beside them are nine), but the rule "
            f"has {inputs}."
        )
    if len(rule.hidden) > 2 or max(rule.hidden, default=0) * len(rule.hidden) > 256:
        return (
            "the Triton kernels take one hidden layer of at most 256 units or two of at most 128, but the rule has "
            f"{rule.hidden}."
        )
    if len(rule.hidden) == 2 and precision == "tf32":
        return (
            'the Triton kernels compute precision "tf32" for one hidden layer (registers), but the rule has '
            f'{rule.hidden}: use precision="fp16" or "fp32".'
        )
    if torch.compiler.is_compiling():  # what is installed cannot be traced
        return None
    if find_spec("triton") is None:
        return "the Triton kernels need triton, which is not installed: run `pip install triton` (Linux)."
    version = triton_version()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return (
            f"the Triton kernels need triton {oldest} or later, which comes with torch 2.9, but here is {version}: run "
            "`pip install --upgrade torch`."
        )
    if not x.is_cuda:
        return None
    return _refusal_of_amd(x.device) if torch.version.hip else _refusal_of_nvidia(rule, x.device, precision)


@lru_cache(maxsize=1)
def triton_version() -> str:
    """Returns the version of the triton that is installed, whatever its package is called."""
    return import_module("triton").__version__


def _refusal_of_amd(device):
    name = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    if re.fullmatch(r"gfx9(0a|4\d|5\d)", name):
        return None
    return (
        "the Triton kernels need an AMD GPU of the Instinct series (MI200 or later: gfx90a, gfx942, gfx950), because "
        f"on others they do not fit into the registers, but {torch.cuda.get_device_name(device)} is {name}: stay with "
        "convolutions, or move model and state to the CPU, which has kernels."
    )


def _refusal_of_nvidia(rule, device, precision):
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return (
            "the Triton kernels need a GPU of compute capability 8.0 (Ampere: A100, L4, RTX 30) or later, because "
            f"Triton does not use the matrix units of older ones (Turing, such as T4), but {name} has "
            f"{'.'.join(map(str, capability))}: choose a later one, stay with convolutions, or move model and state "
            "to the CPU, which has kernels."
        )
    needed = _shared_kib(rule, precision)
    there = torch.cuda.get_device_properties(device).shared_memory_per_block_optin // 1024
    if there < needed:
        return (
            f"the Triton kernels need {needed} KiB of shared memory for this rule in precision {precision!r}, but "
            f"{name} has {there} KiB."
        )
    return None


def _shared_kib(rule, precision):
    if through_memory(rule, precision)[0]:
        return _SHARED_KIB_THROUGH_MEMORY
    filters = len(set(rule.stencils))
    if len(rule.hidden) == 2:
        if rule.channels <= 24 and filters <= (8 if precision != "fp32" else 4):
            return _SHARED_KIB_TWO_LAYERS.get(precision, _SHARED_KIB_WIDE)
        return _SHARED_KIB_TWO_LAYERS_WIDE.get(precision, _SHARED_KIB_WIDE) if filters <= 4 else _SHARED_KIB_WIDE
    return _SHARED_KIB_WIDE if rule.channels > 16 or filters > 4 else _SHARED_KIB[precision]


def load() -> None:
    """Builds nothing: Triton compiles a kernel at its first launch."""


def bytes_per_cell(rule) -> int:
    """Counts copies of the state in the kernels' layout: where a rollout begins and ends, in between, with noise."""
    return 4 * (4 + (rule.state_noise > 0)) * rule.channels + (rule.alive_channel is not None)


def through_memory(rule, precision: str, framed: bool = False) -> tuple[bool, bool]:
    """Says whether perception goes through memory, forward and backward: where registers do not hold a single pass.

    Args:
        framed: Whether there are frames, whose gradients hang on what cells perceived and on what it returns.
    """
    wide = rule.maximum_window is not None or any(len(stencil) > 3 for stencil in rule.stencils)
    wide = wide or rule.channels > 32 or len(rule.stencils) > 8 or max(rule.hidden, default=129) > 128
    # Two rows of tiles in float32 do not fit into shared memory.
    wide = wide or precision == "tf32" and (rule.channels > 16 or len(rule.stencils) > 4)
    *hidden, last = rule.activations
    # What the gradient needs is known only after all hidden units, or is what went into them.
    again = rule.clamp is not None or last != ("identity", 0, 1)
    again = again or any(divisor != 1 or name in ("gelu", "silu", "hardtanh") for name, _, divisor in hidden)
    again = again or len(rule.hidden) > 1 or rule.padding in ("reflect", "replicate")
    much = rule.channels > 12 or len(set(rule.stencils)) > 4 or max(rule.hidden, default=0) > 96
    return wide, wide or again or (framed and much)
