"""The one operation: `rollout`, a whole run of an automaton as one autograd node; and `advance`, the same in place.

The operator is what torch.compile and autograd see. It saves states only; everything else of the backward pass (masks,
perception, hidden units) is computed again by the kernels.
"""

from functools import lru_cache

import torch
from torch import Tensor

from nca_fast import arguments, backends, reference
from nca_fast.backends import Place
from nca_fast.fire_mask import threshold
from nca_fast.rule import Rule


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
    precision: str | None = None,
    checkpoint_every: int | None = None,
    bptt_steps: int | None = None,
) -> Tensor:
    """Runs `steps` updates of all cells; differentiable once in x and the weights.

    The fire masks depend on (seed, step, sample, row, column) alone, so two rollouts of 10 steps, the second with
    `first_step=10`, give the same numbers as one of 20, and parts of a canvas the same as the whole.

    Errors of the precisions on a grown texture, as norms against float64 (bench/precision.py, by the reference): after
    one step and after 96 the state is off by 3e-8 and 9e-7 in "fp32", 4e-5 and 1.5e-3 in "tf32" and "fp16", 3e-4 and
    6e-3 in "bf16"; 4e-3 is one level of a picture. The gradient of the weights is off by 2 % after one step in "tf32"
    and "fp16" (8 % in "bf16") and by 14 % after 32 (25 %), because units switch on and off elsewhere; "fp32": 1e-3.
    In "fp16" the kernels scale filters and weights by powers of two, so that no product overflows as long as no number
    of the state exceeds 32768 (a laplacian, 24 times a value, would from 2730 on); beyond, cells become infinite or NaN
    and so do their neighbours, step by step: a state that blows up is seen sooner than in the others, which go on to
    1e37. The reference in "fp16" rounds as it is told and overflows at 65504.

    On a GPU steps on small states are replayed as CUDA graphs. Inside a capture of the caller they are launched one by
    one, and the caller's replays repeat the seed of the capture, and so its masks.

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
        backend: "reference", "cpu" or "triton"; None picks the fused kernel of x's device, or the reference, saying so
            once.
        precision: What the matrix products multiply: "fp32", "tf32", "fp16" or "bf16", see above. Accumulation is
            float32, the state keeps the type of x, and autocast changes neither. None gives what stock convolutions
            give: on a CPU "fp32"; on a GPU, where they use TF32, "fp16", which has as many bits after the point and
            costs a third of it in our kernels, or "fp32" if TF32 is forbidden to convolutions
            (`torch.backends.cudnn.conv.fp32_precision`, `torch.backends.cudnn.allow_tf32`). The reference takes None
            as "fp32" on every device.
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
    where = {"seed": seed, "first_step": first_step, "origin": origin, "canvas_height": canvas_height}
    where["first_sample"] = first_sample
    saved = {"checkpoint_every": checkpoint_every, "bptt_steps": bptt_steps}
    arguments.check(x, weights, rule, steps, fire_rate, **where, **saved)
    backend, precision = backends.choose(backend, rule, x, precision)
    if backend == "reference":
        return _by_reference(x, weights, rule, steps, fire_rate=fire_rate, precision=precision, **where, **saved)
    params, fire, place = _kernel_inputs(x, weights, rule, fire_rate, **where)
    differentiable = torch.is_grad_enabled() and (x.requires_grad or params.requires_grad)
    every = (checkpoint_every or 1) if differentiable else 0
    passed = steps if bptt_steps is None else min(bptt_steps, steps)
    return _rollout_op(
        x.contiguous(), params, fire, rule.to_json(), backend, precision, steps, every, passed, list(place)
    )[0]


@torch.no_grad()
def advance(
    x: Tensor,
    spare: Tensor,
    weights: list[tuple[Tensor, Tensor | None]],
    rule: Rule,
    steps: int,
    *,
    seed: int = 0,
    first_step: int = 0,
    origin: tuple[int, int] = (0, 0),
    canvas_height: int | None = None,
    fire_rate: Tensor | None = None,
    backend: str | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs `steps` updates without gradients in two buffers that take turns: for canvases that fill the memory.

    The numbers are those of `rollout`, bit for bit; that one may not touch its input, so it holds three states at once.

    Args:
        x: The state; overwritten, but by a single step. [B, C, H, W], contiguous.
        spare: A buffer like x; overwritten.
        The others as in `rollout`.

    Returns:
        The buffer that holds the result, and the other one.

    Raises:
        TypeError, ValueError: As `rollout`; or spare is not a buffer like x.
    """
    if spare.shape != x.shape or spare.dtype != x.dtype or not (spare.is_contiguous() and x.is_contiguous()):
        raise ValueError(f"spare must be a buffer like x, {list(x.shape)}, but got {list(spare.shape)}.")
    where = {"seed": seed, "first_step": first_step, "origin": origin, "canvas_height": canvas_height}
    arguments.check(x, weights, rule, steps, fire_rate, **where)
    backend, precision = backends.choose(backend, rule, x, precision)
    if backend == "reference":
        y = _by_reference(x, weights, rule, steps, fire_rate=fire_rate, precision=precision, **where)
        return spare.copy_(y), x
    params, fire, place = _kernel_inputs(x, weights, rule, fire_rate, **where)
    kernels, kernel_rule = backends.kernels(backend), rule.kernel_rule
    packed, state = kernels.pack_weights(params, kernel_rule, precision), kernels.to_layout(x)
    if state is not x:  # a copy in the kernels' own layout, on which all steps are one call
        y = torch.empty_like(state)
        kernels.advance(state, packed, fire, kernel_rule, place, y[None], steps)
        return spare.copy_(kernels.from_layout(y, rule.channels)), x
    for n in range(steps):
        kernels.advance(x, packed, fire, kernel_rule, place.after(n), spare[None], 1)
        x, spare = spare, x
    return x, spare


def _by_reference(x, weights, rule, steps, **options):
    kind = "cpu" if x.is_meta else x.device.type
    with torch.autocast(kind, enabled=False):  # which would round what `precision` leaves alone
        return reference.rollout(x, weights, rule, steps, **options)


def _kernel_inputs(x, weights, rule, fire_rate, *, seed, first_step, origin, canvas_height, first_sample=0):
    """Makes (all weights in a row, threshold of firing, place) of the arguments of a call."""
    per_sample = any(w.ndim == 3 or (b is not None and b.ndim == 2) for w, b in weights)
    params = _flat(weights, x.shape[0] if per_sample else None)
    fire = threshold(rule.fire_rate if fire_rate is None else fire_rate, x.device)
    signed_seed = seed - 2**64 if seed >= 2**63 else seed
    return params, fire, Place(signed_seed, first_step, *origin, first_sample, canvas_height or 2**32)


def _flat(weights, batch):
    """Puts all weights and biases in a row, float32: [P], or [batch, P] for one rule per sample (batch not None)."""
    tensors = [
        (t.to(torch.float32), ndim) for pair in weights for t, ndim in zip(pair, (2, 1), strict=True) if t is not None
    ]
    if batch is None:
        return torch.cat([t.reshape(-1) for t, _ in tensors])
    rows = [(t if t.ndim > ndim else t.expand(batch, *t.shape)).reshape(batch, -1) for t, ndim in tensors]
    return torch.cat(rows, dim=1)


@lru_cache(maxsize=256)
def _kernel_rule(rule):
    return Rule.from_json(rule).kernel_rule


def _opened(backend, rule, place):
    """Finds the kernels, the rule and the place that an operator's schema writes as text and integers."""
    return backends.kernels(backend), _kernel_rule(rule), Place(*place)


def _segments(steps, every, passed):
    """Cuts steps into segments and lists their first steps: of the last `passed` steps, every `every`-th.

    A segment begins at a saved state, but the first one at x unless the gradient is truncated.
    """
    return list(range(steps - passed, steps, every)) if every else []


@torch.library.custom_op("nca_fast::rollout", mutates_args=())
def _rollout_op(
    x: Tensor,
    params: Tensor,
    fire: Tensor,
    rule: str,
    backend: str,
    precision: str,
    steps: int,
    every: int,
    passed: int,
    place: list[int],
) -> tuple[Tensor, Tensor]:
    """Computes the states after the last step, and those at which segments begin, in the kernels' layout, without x."""
    kernels, rule, place = _opened(backend, rule, place)
    starts = [s for s in _segments(steps, every, passed) if s > 0]
    weights, state, done = kernels.pack_weights(params, rule, precision), kernels.to_layout(x), 0
    saved = state.new_empty(len(starts), *state.shape)
    y = torch.empty_like(state)
    if starts[:1] == [every]:
        runs = [(saved, every)]
    else:  # the gradient ends at a later state
        runs = [(saved[:1], starts[0]), (saved[1:], every)] if starts else []
    for states, between in [*runs, (y[None], steps - (starts[-1] if starts else 0))]:
        if len(states):
            kernels.advance(state, weights, fire, rule, place.after(done), states, between)
            state, done = states[-1], done + len(states) * between
    return kernels.from_layout(y, x.shape[1]), saved


@_rollout_op.register_fake
def _(x, params, fire, rule, backend, precision, steps, every, passed, place):
    starts = [s for s in _segments(steps, every, passed) if s > 0]
    return torch.empty_like(x), x.new_empty(len(starts), *backends.kernels(backend).to_layout(x).shape)


@torch.library.custom_op("nca_fast::rollout_backward", mutates_args=())
def _rollout_backward_op(
    grad_y: Tensor,
    x: Tensor,
    params: Tensor,
    fire: Tensor,
    saved: Tensor,
    rule: str,
    backend: str,
    precision: str,
    steps: int,
    every: int,
    passed: int,
    place: list[int],
) -> tuple[Tensor, Tensor]:
    """Computes the gradients in x and in params."""
    kernels, rule, place = _opened(backend, rule, place)
    weights, grad = kernels.pack_weights(params, rule, precision), kernels.to_layout(grad_y)
    grad = grad.clone() if grad is grad_y else grad
    buffer = kernels.gradient_buffer(weights, grad)
    begin = _segments(steps, every, passed)
    runs = list(zip(begin, begin[1:] + [steps], [None] * (begin[0] == 0) + list(saved), strict=True))
    if every == 1:  # all states are there
        grad = kernels.backward(saved, grad, weights, fire, rule, place.after(steps - len(saved)), buffer)
        runs = runs[: len(runs) - len(saved)]
    inner = grad.new_empty(min(every, passed), *grad.shape) if runs else None
    for start, end, state in reversed(runs):
        states = inner[: end - start]
        states[0] = kernels.to_layout(x) if state is None else state
        kernels.advance(states[0], weights, fire, rule, place.after(start), states[1:], 1)
        grad = kernels.backward(states, grad, weights, fire, rule, place.after(start), buffer)
    grad_x = torch.zeros_like(x) if passed < steps else kernels.from_layout(grad, x.shape[1])
    return grad_x, kernels.reduce_gradients(buffer, weights)


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
    _, _, _, steps, _, passed, _ = ctx.settings
    return grad_x if passed == steps else None, grad_params, *nothing


def _no_second_derivative(ctx, *_):
    raise RuntimeError(
        "rollout can be differentiated once only by a fused kernel, but a second derivative was asked for: "
        'use backend="reference".'
    )


_rollout_op.register_autograd(_differentiate, setup_context=_save)
_rollout_backward_op.register_autograd(_no_second_derivative)
