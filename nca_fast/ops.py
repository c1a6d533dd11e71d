"""The one operation: `rollout`, a whole run of an automaton as one autograd node.

Here are the choice of a backend, and the operator that torch.compile and autograd see. It saves states only;
everything else of the backward pass (masks, perception, hidden units) is computed again by the kernels.
"""

import os
import warnings
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from nca_fast import arguments, reference
from nca_fast.fire_mask import threshold
from nca_fast.rule import Rule

BACKENDS = ("reference", "cpu", "triton")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


def rollout(
    x: Tensor,
    weights: list[tuple[Tensor, Tensor | None]],
    rule: Rule,
    steps: int,
    *,
    seed: int = 0,
    first_step: int = 0,
    origin: tuple[int, int] = (0, 0),
    first_sample: int = 0,
    canvas_height: int | None = None,
    fire_rate: Tensor | None = None,
    backend: str | None = None,
    precision: str = "fp32",
    checkpoint_every: int | None = None,
    bptt_steps: int | None = None,
) -> Tensor:
    """Runs `steps` updates of all cells; differentiable once in x and the weights.

    The fire masks depend on (seed, step, sample, row, column) alone, so two rollouts of 10 steps, the second with
    `first_step=10`, give the same numbers as one of 20, and parts of a canvas the same as the whole.

    Args:
        x: The states of all cells. [B, C, H, W]; float32 (any backend); bfloat16, float16 (triton, reference); float64
            (reference).
        weights: A pair (W, b) for every layer, first to last: W [out, in] or, one rule per sample, [B, out, in];
            b [out] or [B, out], or None where the rule has no bias. Inputs of the first layer are ordered
            filter by filter: index f * C + c. Finite (looked at on the CPU only: a GPU would have to wait for it).
        rule: What a step is.
        steps: Number of updates. At least 1.
        seed: Fixes all fire masks. 0 to 2**64 - 1.
        first_step: Number of the first step. At least 0.
        origin: Row and column of x's first cell in the whole canvas, in cells. At least 0.
        first_sample: Number of x's first sample in the whole batch. At least 0.
        canvas_height: Rows of the whole canvas, where x wraps around it: after its last row x goes on with its row 0.
            For a strip of a torus with some rows above the first; None where x does not wrap.
        fire_rate: A map [H, W] in [0, 1] instead of the rule's single number: parts of a canvas at different speeds.
        backend: One of `BACKENDS`; None picks the fused kernel of x's device, or the reference, saying so once.
        precision: What the matrix products multiply: "fp32", "tf32", "fp16" or "bf16". Accumulation is float32.
            The cpu backend serves "fp32"; on a GPU "fp16" is the fast one.
        checkpoint_every: For the gradient keep only every k-th state and recompute those between; None keeps all.
        bptt_steps: Truncates: only the last k steps pass gradient, and x receives none. None passes it through all.

    Returns:
        The states after the last step. [B, C, H, W], type and device of x.

    Raises:
        TypeError, ValueError: name, rule and value of the first argument that does not hold, or a backend that was
            asked for by name and cannot serve.
        RuntimeError: a second derivative is asked of a kernel (use backend="reference"), or backend="cpu" is asked
            for and the kernel cannot be compiled.
    """
    arguments.check_state(x, rule)
    arguments.check_weights(x, weights, rule)
    arguments.check_numbers(steps, seed, first_step, origin, first_sample, canvas_height, checkpoint_every, bptt_steps)
    if fire_rate is not None:
        arguments.check_fire_rate(x, fire_rate)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, but got {precision!r}.")
    per_sample = any(w.ndim == 3 or (b is not None and b.ndim == 2) for w, b in weights)
    backend = _choose(backend, rule, x, precision)
    if backend == "reference":
        return reference.rollout(
            x,
            weights,
            rule,
            steps,
            seed=seed,
            first_step=first_step,
            origin=origin,
            first_sample=first_sample,
            canvas_height=canvas_height,
            fire_rate=fire_rate,
            precision=precision,
            checkpoint_every=checkpoint_every,
            bptt_steps=bptt_steps,
        )
    params = _flat(weights, x.shape[0] if per_sample else None)
    fire = threshold(rule.fire_rate if fire_rate is None else fire_rate, x.device)
    differentiable = torch.is_grad_enabled() and (x.requires_grad or params.requires_grad)
    every = (checkpoint_every or 1) if differentiable else 0
    # The operator's schema has signed 64-bit integers; the bits of the seed are what counts.
    signed_seed = seed - 2**64 if seed >= 2**63 else seed
    passed = steps if bptt_steps is None else min(bptt_steps, steps)
    return _rollout_op(
        x.contiguous(),
        params,
        fire,
        rule.to_json(),
        backend,
        steps,
        signed_seed,
        first_step,
        *origin,
        first_sample,
        canvas_height or 2**32,
        every,
        passed,
        precision,
    )[0]


def _flat(weights, batch):
    """All layers' weights and biases in a row, float32: [P], or [batch, P] for one rule per sample (batch not None)."""
    tensors = [
        (t.to(torch.float32), ndim) for pair in weights for t, ndim in zip(pair, (2, 1), strict=True) if t is not None
    ]
    if batch is None:
        return torch.cat([t.reshape(-1) for t, _ in tensors])
    rows = [(t if t.ndim > ndim else t.expand(batch, *t.shape)).reshape(batch, -1) for t, ndim in tensors]
    return torch.cat(rows, dim=1)


# --- backends ---------------------------------------------------------------------------------------------------------


_said = set()  # why the reference was taken, each reason told once


def _choose(backend, rule, x, precision):
    """The backend that serves. Raises when it was named and cannot; says so when a fused kernel is not used."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS} or None, but got {backend!r}.")
    if backend == "reference" or (backend is None and x.dtype == torch.float64):
        return "reference"
    name = backend or ("triton" if x.device.type == "cuda" else "cpu")
    refusal = {"cpu": _cpu_refusal, "triton": _triton_refusal}[name](rule, x, precision)
    if refusal is not None and backend is not None:
        raise ValueError(f'backend="{backend}" cannot serve: {refusal} Use backend=None or "reference".')
    if torch.compiler.is_compiling():  # the kernel is built when the compiled model first runs
        return "reference" if refusal else name
    if refusal is None and name == "triton":
        return "triton"
    if refusal is None:
        try:
            _kernels("cpu").load()
            return "cpu"
        except RuntimeError as error:
            if backend == "cpu":
                raise
            refusal = str(error)
    if refusal not in _said:
        _said.add(refusal)
        warnings.warn(f"nca_fast runs its slow reference: {refusal}", stacklevel=4)
    return "reference"


def _cpu_refusal(rule, x, precision):
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


def _triton_refusal(rule, x, precision):
    """Why the Triton kernels cannot do this, or None."""
    if max([filter.size for filter in rule.filters], default=0) > 3:
        return "filters larger than 3x3 have no Triton kernel yet."
    if rule.maximum_window is not None:
        return "the local maximum (maximum_window) has no Triton kernel yet."
    if rule.alive_channel is not None:
        return "the alive mask (alive_channel) has no Triton kernel yet."
    interpreted = x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if x.device.type != "cuda" and not interpreted:
        return f"the Triton kernels take states on a GPU, but x is on {x.device.type}: use x.cuda()."
    if x.dtype == torch.float64:
        return "the Triton kernels take float32, bfloat16 and float16 states, but x is torch.float64: use x.float()."
    if rule.channels > 32:
        return f"the Triton kernels take at most 32 channels, but the rule has {rule.channels}."
    if len(rule.filters) > 8:
        return f"the Triton kernels take at most 8 filters, but the rule has {len(rule.filters)}."
    if len(rule.hidden) > 2 or max(rule.hidden) > 128:
        return f"the Triton kernels take one or two hidden layers of at most 128 units, but the rule has {rule.hidden}."
    wide = len(rule.hidden) == 2 or rule.channels > 16 or len(rule.filters) > 4
    if wide and precision == "tf32":
        return (
            'the Triton kernels compute precision "tf32" for one hidden layer, 16 channels and 4 filters at most '
            '(shared memory): use precision="fp16" or "fp32".'
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
    if x.is_cuda and torch.version.hip is None:  # shared_bytes of the backward pass, bench/results/triton_table.json
        needed = 187 if wide else 113 if precision == "tf32" else 74
        there = torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin // 1024
        if there < needed:
            return (
                f"the Triton kernels need {needed} KiB of shared memory for this rule in precision {precision!r}, but "
                f"{torch.cuda.get_device_name(x.device)} has {there} KiB."
            )
    return None


def _kernels(backend):
    return import_module(f"nca_fast.kernels.rollout_{backend}")


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
def _about(rule):
    """What a kernel needs to know of a rule, from its JSON."""
    rule = Rule.from_json(rule)
    size = max([3, *(filter.size for filter in rule.filters)])
    stencils = torch.zeros(len(rule.filters), size, size)
    for stencil, filter in zip(stencils, rule.filters, strict=True):
        middle = slice((size - filter.size) // 2, (size + filter.size) // 2)
        stencil[middle, middle] = torch.tensor(filter.kernel)
    alive = (rule.alive_channel, rule.alive_threshold)
    return About(stencils, rule.layers, rule.frozen, rule.padding == "circular", rule.maximum_window, *alive)


# --- the operator -----------------------------------------------------------------------------------------------------
# Steps are cut into segments that begin at a saved state. Segment 0 begins at x unless the gradient is truncated.


def _segments(steps, every, passed):
    """First steps of the segments: of the last `passed` steps, every `every`-th."""
    return list(range(steps - passed, steps, every)) if every else []


@torch.library.custom_op("nca_fast::rollout", mutates_args=())
def _rollout_op(
    x: Tensor,
    params: Tensor,
    fire: Tensor,
    rule: str,
    backend: str,
    steps: int,
    seed: int,
    first_step: int,
    origin_row: int,
    origin_column: int,
    first_sample: int,
    canvas_height: int,
    every: int,
    passed: int,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """The states after the last step, and the states at which the segments begin, as the kernels lay them out (x itself
    left out)."""
    kernels, about = _kernels(backend), _about(rule)
    place = (seed, origin_row, origin_column, first_sample, canvas_height)
    starts = [s for s in _segments(steps, every, passed) if s > 0]
    weights, state, now = kernels.prepare(params, about, precision), kernels.enter(x), 0
    saved = state.new_empty(len(starts), *state.shape)
    y = torch.empty_like(state)
    if starts:
        kernels.advance(state, weights, fire, about, place, first_step, saved[:1], starts[0])
        kernels.advance(saved[0], weights, fire, about, place, first_step + starts[0], saved[1:], every)
        state, now = saved[-1], starts[-1]
    kernels.advance(state, weights, fire, about, place, first_step + now, y[None], steps - now)
    return kernels.leave(y, x.shape[1]), saved


@_rollout_op.register_fake
def _(
    x,
    params,
    fire,
    rule,
    backend,
    steps,
    seed,
    first_step,
    origin_row,
    origin_column,
    first_sample,
    canvas_height,
    every,
    passed,
    precision="fp32",
):
    starts = [s for s in _segments(steps, every, passed) if s > 0]
    return torch.empty_like(x), x.new_empty(len(starts), *_kernels(backend).enter(x).shape)


@torch.library.custom_op("nca_fast::rollout_backward", mutates_args=())
def _rollout_backward_op(
    grad_y: Tensor,
    x: Tensor,
    params: Tensor,
    fire: Tensor,
    saved: Tensor,
    rule: str,
    backend: str,
    steps: int,
    seed: int,
    first_step: int,
    origin_row: int,
    origin_column: int,
    first_sample: int,
    canvas_height: int,
    every: int,
    passed: int,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Gradients in x and in params."""
    kernels, about = _kernels(backend), _about(rule)
    place = (seed, origin_row, origin_column, first_sample, canvas_height)
    weights, grad, scratch = kernels.prepare(params, about, precision), kernels.enter(grad_y), None
    begin = _segments(steps, every, passed)
    inner = grad.new_empty(min(every, passed) - 1, *grad.shape)
    states = ([kernels.enter(x)] if begin[0] == 0 else []) + list(saved)
    grad_weights = kernels.gradients(weights, grad)
    for start, end, state in reversed(list(zip(begin, begin[1:] + [steps], states, strict=True))):
        between = inner[: end - start - 1]
        kernels.advance(state, weights, fire, about, place, first_step + start, between, 1)
        for n in reversed(range(start, end)):
            state_n = state if n == start else between[n - start - 1]
            if scratch is None:
                scratch = torch.empty_like(grad)
            kernels.retreat(state_n, grad, weights, fire, about, place, first_step + n, scratch, grad_weights)
            grad, scratch = scratch, (None if grad is grad_y else grad)
    grad_x = torch.zeros_like(x) if passed < steps else kernels.leave(grad, x.shape[1])
    return grad_x, kernels.total(grad_weights, weights)


@_rollout_backward_op.register_fake
def _(grad_y, x, params, *_):
    return torch.empty_like(x), torch.empty_like(params)


def _save(ctx, inputs, output):
    x, params, fire, *ctx.settings = inputs
    _, saved = output
    ctx.save_for_backward(x, params, fire, saved)
    ctx.mark_non_differentiable(saved)
    ctx.set_materialize_grads(False)  # or autograd would allocate zeros of the size of all saved states


def _differentiate(ctx, grad_y, _):
    nothing = (None,) * (len(ctx.settings) + 1)
    if grad_y is None:
        return None, None, *nothing
    x, params, fire, saved = ctx.saved_tensors
    grad_x, grad_params = _rollout_backward_op(grad_y.contiguous(), x, params, fire, saved, *ctx.settings)
    _, _, steps, *_, passed, _ = ctx.settings
    return grad_x if passed == steps else None, grad_params, *nothing


def _no_second_derivative(ctx, *_):
    raise RuntimeError(
        "rollout can be differentiated once only by a fused kernel, but a second derivative was asked for: "
        'use backend="reference".'
    )


_rollout_op.register_autograd(_differentiate, setup_context=_save)
_rollout_backward_op.register_autograd(_no_second_derivative)
