"""The rollout as PyTorch sees it: a registered operator and its gradient.

It saves states only; everything else of the backward pass (masks, perception, hidden units) is computed again by the
kernels. torch.compile, export, modes and profilers see the operator. Transforms of torch.func, which cannot
differentiate a registered operator, see a `torch.autograd.Function` around it. Where nobody watches, another one calls
the kernels at once: what PyTorch does around a registered operator takes a tenth of a millisecond, and several times
that where the kernels before it have filled the caches.
"""

from functools import partial

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nca_fast import backends, running
from nca_fast.eager import is_plain

ONCE = (
    "rollout can be differentiated once only by a fused kernel, but a second derivative was asked for: "
    'use backend="reference".'
)


def rollout(
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
    fire: Tensor,
    noise: Tensor | None,
    field: Tensor | None,
    rule: str,
    backend: str,
    precision: str,
    steps: int,
    every: int,
    passed: int,
    place: list[int],
    at: list[int],
) -> Tensor:
    """Runs steps by the kernels of a backend.

    Args:
        x: [B, C, H, W], contiguous.
        params: All weights and biases in a row, float32 [P]; one rule per sample [B, P]; by step [T, B or 1, P].
        drawn: The seed where it was drawn, int64 []; None where it is in the place.
        fire: A cell fires when its hash is below: int64, [], a map [H, W] or by step [T, B or 1, written or 1, H, W].
        noise: The factor of the rule's noise, float32 [1] or [B]; None where it has none.
        field: Frames, float32 [1 or B, 2, H, W], or None.
        rule, place: As an operator can be given them: JSON, and the numbers of a `backends.Place`.
        every: For the gradient keep every such state.
        passed: How many of the last steps pass gradient.
        at: (first, count, distance) of the numbers of steps after which states are asked for; [] for the last alone.

    Returns:
        The states after the last step, like x; with `at`, [count, *x.shape].
    """
    learned = [t for t in (x, params, field) if t is not None]
    every = every if torch.is_grad_enabled() and any(map(_is_tracked, learned)) else 0
    arguments = (x, params, drawn, fire, noise, field, rule, backend, precision, steps, every, passed, place, at)
    if is_transformed(*learned):
        return _Rollout.apply(*arguments)[0]
    if _is_watched(*learned):
        return _rollout_op(*arguments)[0]
    return (_EagerRollout.apply if every else running.forward)(*arguments)[0]


def is_transformed(*tensors):
    """Says whether torch.func is at work, or forward mode."""
    if torch._C._are_functorch_transforms_active():
        return True
    return any(map(is_dual, tensors))


def is_dual(t):
    """Says whether a tensor carries a derivative of forward mode."""
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(t).tangent is not None


def _is_watched(*tensors):
    """Says whether anybody wants to see operators: a compiler, a mode, a tracer, a profiler or a tensor's own class."""
    return not is_plain(*tensors) or torch._C._autograd._profiler_enabled()


def _is_tracked(t):
    """Says whether autograd or any of the transforms around may ask for a gradient of a tensor.

    Inside vmap a tensor says nothing of the gradients that are taken outside of it.
    """
    if t.requires_grad or torch.compiler.is_compiling():
        return t.requires_grad
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(t):
        t = functorch.get_unwrapped(t)
        if t.requires_grad:
            return True
    return False


@torch.library.custom_op("nca_fast::rollout", mutates_args=())
def _rollout_op(
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
    fire: Tensor,
    noise: Tensor | None,
    field: Tensor | None,
    rule: str,
    backend: str,
    precision: str,
    steps: int,
    every: int,
    passed: int,
    place: list[int],
    at: list[int],
) -> tuple[Tensor, Tensor]:
    settings = (rule, backend, precision, steps, every, passed, place, at)
    y, saved = running.forward(x, params, drawn, fire, noise, field, *settings)
    saved[-2:] = 0  # what is spare, for who compares
    return y, saved


@_rollout_op.register_fake
def _(x, params, drawn, fire, noise, field, rule, backend, precision, steps, every, passed, place, at):
    state = backends.kernels(backend).to_layout(x)
    y = x.new_empty(at[1], *x.shape) if at else torch.empty_like(x)
    return y, state.new_empty(running.saved_shape(state, every, steps, passed, at))


@torch.library.custom_op("nca_fast::rollout_backward", mutates_args=())
def _rollout_backward_op(
    grad_y: Tensor,
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
    fire: Tensor,
    noise: Tensor | None,
    field: Tensor | None,
    returned: Tensor | None,
    saved: Tensor,
    rule: str,
    backend: str,
    precision: str,
    steps: int,
    every: int,
    passed: int,
    place: list[int],
    at: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    settings = (rule, backend, precision, steps, every, passed, place, at)
    return running.backward(grad_y, x, params, drawn, fire, noise, field, returned, saved, *settings)


@_rollout_backward_op.register_fake
def _(grad_y, x, params, drawn, fire, noise, field, *_):
    return (
        torch.empty_like(x),
        torch.empty_like(params),
        params.new_empty(0) if field is None else field.new_empty(field.shape),
    )


def _save(ctx, inputs, output):
    *tensors, ctx.rule, ctx.backend, ctx.precision, ctx.steps, every, ctx.passed, place, at = inputs
    ctx.settings = (ctx.rule, ctx.backend, ctx.precision, ctx.steps, every, ctx.passed, place, at)
    y, saved = output
    ctx.framed = tensors[-1] is not None
    ctx.save_for_backward(*tensors, y if at else None, saved)
    ctx.mark_non_differentiable(saved)
    ctx.set_materialize_grads(False)  # or autograd would allocate zeros of the size of all saved states


def _differentiate(ctx, grad_y, _):
    settings = (None,) * len(ctx.settings)
    if grad_y is None:
        return *(None,) * 6, *settings
    run = partial(running.backward, weights=getattr(ctx, "weights", None))
    if is_transformed(grad_y):
        run = _RolloutBackward.apply
    elif torch.is_grad_enabled() or _is_watched(grad_y):  # a second derivative, which the operator refuses
        run = _rollout_backward_op
    grad_x, grad_params, grad_field = run(grad_y.contiguous(), *ctx.saved_tensors, *ctx.settings)
    grad_x, grad_field = (grad_x if ctx.passed == ctx.steps else None), (grad_field if ctx.framed else None)
    return grad_x, grad_params, None, None, None, grad_field, *settings


class _EagerRollout(torch.autograd.Function):
    """The rollout and its gradient where nobody watches; packed weights, which are small, are kept for it."""

    @staticmethod
    def forward(ctx, *arguments):
        """Runs the kernels."""
        _, params, _, _, noise, field, rule, backend, precision, *_ = arguments
        ctx.weights = running.weights_of(params, noise, field, rule, backend, precision)
        output = running.forward(*arguments, weights=ctx.weights)
        _save(ctx, arguments, output)
        return output

    backward = staticmethod(_differentiate)


def _no_second_derivative(ctx, *_):
    raise RuntimeError(ONCE)


_rollout_op.register_autograd(_differentiate, setup_context=_save)
_rollout_backward_op.register_autograd(_no_second_derivative)


def no_forward_mode(*_):
    """Raises RuntimeError: it would be a zero that nobody notices."""
    raise RuntimeError(
        "rollout has no forward mode (jvp, jacfwd, dual tensors) in a fused kernel, but one was asked for: "
        'use backend="reference".'
    )


def _one_by_one(run, info, dims, tensors, settings):
    """Runs a function of tensors for each index of a vmap, and stacks what it returns.

    One call for all would be another function: the fire masks of a sample depend on its number in its own batch.
    """

    def taken(n):
        return [t if d is None else t.select(d, n).contiguous() for t, d in zip(tensors, dims, strict=False)]

    results = [run(*taken(n), *settings) for n in range(info.batch_size)]
    return tuple(torch.stack(same) for same in zip(*results, strict=True)), (0,) * len(results[0])


class _Rollout(torch.autograd.Function):
    """`_rollout_op` for transforms."""

    forward = staticmethod(lambda *arguments: _rollout_op(*arguments))
    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)
    jvp = staticmethod(no_forward_mode)

    @staticmethod
    def vmap(info, dims, x, params, drawn, fire, noise, field, *settings):
        """Runs the rollouts one by one, of states, of weights, of frames."""
        run = _Rollout.apply if is_transformed(*(t for t in (x, params, field) if t is not None)) else _rollout_op
        return _one_by_one(run, info, dims, (x, params, drawn, fire, noise, field), settings)


class _RolloutBackward(torch.autograd.Function):
    """`_rollout_backward_op` for transforms."""

    forward = staticmethod(lambda *arguments: _rollout_backward_op(*arguments))
    setup_context = staticmethod(lambda ctx, inputs, output: None)
    backward = staticmethod(_no_second_derivative)
    jvp = staticmethod(no_forward_mode)

    @staticmethod
    def vmap(info, dims, grad_y, x, params, *others):
        """Goes back one by one."""
        run = _RolloutBackward.apply if is_transformed(grad_y, x, params) else _rollout_backward_op
        tensors, settings = (grad_y, x, params, *others[:6]), others[6:]
        return _one_by_one(run, info, dims, tensors, settings)
