"""Which backend serves a call, why one cannot, and what the kernels are told of a rule."""

import os
import warnings
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from nca_fast.rule import Rule

BackendName = Literal["reference", "cpu", "triton"]
PrecisionName = Literal["fp32", "tf32", "fp16", "bf16"]
BACKENDS, PRECISIONS = get_args(BackendName), get_args(PrecisionName)

_said = set()  # why the reference was taken, each reason told once


def choose(backend: str | None, rule: Rule, x: Tensor, precision: str) -> str:
    """The backend that serves. Raises when it was named and cannot; says so when a fused kernel is not used."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS} or None, but got {backend!r}.")
    if backend == "reference" or (backend is None and x.dtype == torch.float64):
        return "reference"
    name = backend or ("triton" if x.device.type == "cuda" else "cpu")
    reason = refusal(name, rule, x, precision)
    if reason is not None and backend is not None:
        raise ValueError(f'backend="{backend}" cannot serve: {reason} Use backend=None or "reference".')
    if torch.compiler.is_compiling():  # the kernel is built when the compiled model first runs
        return "reference" if reason else name
    if reason is None and name == "triton":
        return "triton"
    if reason is None:
        try:
            kernels("cpu").load()
            return "cpu"
        except RuntimeError as error:
            if backend == "cpu":
                raise
            reason = str(error)
    if reason not in _said:
        _said.add(reason)
        warnings.warn(f"nca_fast runs its slow reference: {reason}", stacklevel=4)
    return "reference"


def refusal(backend: str, rule: Rule, x: Tensor, precision: str | None) -> str | None:
    """Says why a backend cannot run a rule on states of x's type and device, or None where it can."""
    return {"cpu": cpu_refusal, "triton": triton_refusal}[backend](rule, x, precision)


def cpu_refusal(rule, x, precision):
    """Why the C++ kernel cannot do this, or None."""
    if x.device.type != "cpu":
        return f"the C++ kernel takes states on the CPU, but x is on {x.device.type}."
    if x.dtype != torch.float32:
        return f"the C++ kernel takes float32 states, but x is {x.dtype}."
    if precision != "fp32":
        return f'the C++ kernel computes in precision "fp32", but {precision!r} was asked for.'
    if rule.channels > 64:
        return f"the C++ kernel takes at most 64 channels, but the rule has {rule.channels}."
    return None


def triton_refusal(rule, x, precision):
    """Why the Triton kernels cannot do this, or None."""
    interpreted = x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if x.device.type != "cuda" and not interpreted:
        return f"the Triton kernels take states on a GPU, but x is on {x.device.type}: use x.cuda()."
    if x.dtype == torch.float64:
        return "the Triton kernels take float32, bfloat16 and float16 states, but x is torch.float64: use x.float()."
    if rule.channels > 64:
        return f"the Triton kernels take at most 64 channels, but the rule has {rule.channels}."
    perceived = -(-rule.channels // 4) * 4 * (len(rule.filters) + (rule.maximum_window is not None))
    if perceived > 256:
        return (
            "the Triton kernels take at most 256 numbers of perception (channels, of which they make a multiple of "
            f"four, times filters and maximum), but the rule has {perceived}."
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
    if x.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(x.device) < (8, 0):
        return (
            "the Triton kernels need a GPU of compute capability 8.0 (Ampere) or later, because Triton does not use "
            f"the matrix units of older ones, but {torch.cuda.get_device_name(x.device)} has "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(x.device)))}."
        )
    if x.is_cuda and torch.version.hip is None:  # shared_bytes in bench/results/triton_table.json
        through_memory, _ = import_module("nca_fast.kernels.triton.through_memory.steps").through_memory(
            about(rule.to_json()), precision
        )
        wide = len(rule.hidden) == 2 or rule.channels > 16 or len(rule.filters) > 4
        needed = 64 if through_memory else 187 if wide else 113 if precision == "tf32" else 74
        there = torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin // 1024
        if there < needed:
            return (
                f"the Triton kernels need {needed} KiB of shared memory for this rule in precision {precision!r}, but "
                f"{torch.cuda.get_device_name(x.device)} has {there} KiB."
            )
    return None


def kernels(backend: str):
    """The module that runs a backend's kernels."""
    return import_module(f"nca_fast.kernels.{backend}.rollout")


class About(NamedTuple):
    """What a kernel needs to know of a rule.

    Args:
        stencils: [F, S, S] with S the size of the largest filter, 3 at least; smaller ones lie in the middle.
        layers: (outputs, inputs, has a bias) of every layer.
        frozen, circular, maximum_window, alive_channel, alive_threshold: As in `Rule`.
    """

    stencils: Tensor
    layers: tuple[tuple[int, int, bool], ...]
    frozen: int
    circular: bool
    maximum_window: int | None
    alive_channel: int | None
    alive_threshold: float


@lru_cache(maxsize=256)
def about(rule: str) -> About:
    """What a kernel needs to know of a rule, given as JSON."""
    rule = Rule.from_json(rule)
    size = max([3, *(filter.size for filter in rule.filters)])
    stencils = torch.zeros(len(rule.filters), size, size)
    for stencil, filter in zip(stencils, rule.filters, strict=True):
        middle = slice((size - filter.size) // 2, (size + filter.size) // 2)
        stencil[middle, middle] = torch.tensor(filter.kernel)
    alive = (rule.alive_channel, rule.alive_threshold)
    return About(stencils, rule.layers, rule.frozen, rule.padding == "circular", rule.maximum_window, *alive)
