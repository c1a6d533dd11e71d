"""What the Triton kernels can do, and what memory they take. Imported where there is no triton."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

DEVICE = "cuda"  # what torch calls AMD's GPUs too
# KiB of shared memory that the single pass needs, see shared_bytes in bench/results/triton_table.json.
_SHARED_KIB = {"fp32": 74, "tf32": 113, "fp16": 74, "bf16": 74}
_SHARED_KIB_WIDE = 187  # with two hidden layers, more than 16 channels or more than four filters
_SHARED_KIB_THROUGH_MEMORY = 64


def refusal(rule, x: Tensor, precision: str) -> str | None:
    """Says why the Triton kernels cannot serve, or None; see `nca_fast.backends.Backend`."""
    interpreted = x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if x.device.type != "cuda" and not interpreted:
        return f"the Triton kernels take states on a GPU, but x is on {x.device.type}: use x.cuda()."
    if x.dtype == torch.float64:
        return "the Triton kernels take float32, bfloat16 and float16 states, but x is torch.float64: use x.float()."
    if rule.channels > 64:
        return f"the Triton kernels take at most 64 channels, but the rule has {rule.channels}."
    inputs = -(-rule.channels // 4) * 4 * (len(rule.stencils) + (rule.maximum_window is not None))
    if inputs > 256:
        return (
            "the Triton kernels take at most 256 numbers of perception (channels, of which they make a multiple of "
            f"four, times filters and maximum), but the rule has {inputs}."
        )
    if len(rule.hidden) > 2 or max(rule.hidden) * len(rule.hidden) > 256:
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
    if x.is_cuda and torch.version.hip is None:
        return _refusal_of_gpu(rule, x.device, precision)
    return None


def _refusal_of_gpu(rule, device, precision):
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return (
            "the Triton kernels need a GPU of compute capability 8.0 (Ampere) or later, because Triton does not use "
            f"the matrix units of older ones, but {name} has {'.'.join(map(str, capability))}."
        )
    needed = _SHARED_KIB[precision]
    if through_memory(rule, precision)[0]:
        needed = _SHARED_KIB_THROUGH_MEMORY
    elif len(rule.hidden) == 2 or rule.channels > 16 or len(rule.stencils) > 4:
        needed = _SHARED_KIB_WIDE
    there = torch.cuda.get_device_properties(device).shared_memory_per_block_optin // 1024
    if there < needed:
        return (
            f"the Triton kernels need {needed} KiB of shared memory for this rule in precision {precision!r}, but "
            f"{name} has {there} KiB."
        )
    return None


def load() -> None:
    """Builds nothing: Triton compiles a kernel at its first launch."""


def bytes_per_cell(rule) -> int:
    """Counts copies of the state in the kernels' layout: where a rollout begins and ends, and in between."""
    return 4 * 4 * rule.channels


def through_memory(rule, precision: str) -> tuple[bool, bool]:
    """Says whether perception goes through memory, forward and backward: where registers do not hold a single pass."""
    wide = rule.maximum_window is not None or any(len(stencil) > 3 for stencil in rule.stencils)
    wide = wide or rule.channels > 32 or len(rule.stencils) > 8 or max(rule.hidden) > 128
    # Two rows of tiles in float32 do not fit into shared memory.
    wide = wide or precision == "tf32" and (rule.channels > 16 or len(rule.stencils) > 4)
    return wide, wide or len(rule.hidden) > 1
