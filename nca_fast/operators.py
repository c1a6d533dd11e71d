"""The rollout as PyTorch sees it: a registered operator and its gradient.

It saves states only; everything else of the backward pass (masks, perception, hidden units) is computed again by the
kernels. torch.compile, export and autograd see the operator. Transforms of torch.func, which cannot differentiate a
registered operator, see a `torch.autograd.Function` around it.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nca_fast import backends
from nca_fast.backends import Place
from nca_fast.rule import Rule


def rollout(
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
    fire: Tensor,
    rule: str,
    backend: str,
    precision: str,
    steps: int,
    every: int,
    passed: int,
    place: list[int],
) -> Tensor:
    """Runs steps by the kernels of a backend.

    Args:
        x: [B, C, H, W], contiguous.
        params: All weights and biases in a row, float32 [P]; or, one rule per sample, [B, P].
        drawn: The seed where it was drawn, int64 []; None where it is in the place.
        fire: A cell fires when its hash is below: int64, [] or a map [H, W].
        rule, place: As an operator can be given them: JSON, and the numbers of a `backends.Place`.
        every: For the gradient keep every such state.
        passed: How many of the last steps pass gradient.

    Returns:
        The states after the last step, like x.
    """
    arguments = (x, params, drawn, fire, rule, backend, precision, steps)
    differentiable = torch.is_grad_enabled() and (_is_tracked(x) or _is_tracked(params))
    every = every if differentiable else 0
    run = _Rollout.apply if _is_transformed(x, params) else _rollout_op
    return run(*arguments, every, passed, place)[0]


def _is_transformed(*tensors):
    """Says whether torch.func is at work, or forward mode."""
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


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


def seeded(place, drawn):
    """Puts a seed that was drawn into a place; it lies on the CPU."""
    return place if drawn is None else place._replace(seed=int(drawn))


@lru_cache(maxsize=256)
def _kernel_rule(rule):
    return Rule.from_json(rule).kernel_rule


def _opened(backend, rule, place, drawn):
    """Finds the kernels, the rule and the place that an operator's schema writes as text, integers and a tensor."""
    return backends.kernels(backend), _kernel_rule(rule), seeded(Place(*place), drawn)


def _segments(steps, every, passed):
    """Cuts steps into segments and lists their first steps: of the last `passed` steps, every `every`-th.

    A segment begins at a saved state, but the first one at x unless the gradient is truncated.
    """
    return list(range(steps - passed, steps, every)) if every else []


def _saved_shape(state, steps, every, passed):
    """Gives the shape of all saved states in a row: those at which segments begin, but for x.

    The numbers may be symbols of torch.compile, which no list counts. The two spare numbers are for it too: it compiles
    anew for each length that is 0 or 1, and one state or none are common numbers of them.
    """
    count = (passed + every - 1) // every - (1 if passed == steps else 0) if every else 0
    return (count * state.numel() + 2,)


def _states_in(saved, state):
    """Returns the states in the memory of `_saved_shape`. [n, *state.shape]"""
    return saved[:-2].view(-1, *state.shape)


@torch.library.custom_op("nca_fast::rollout", mutates_args=())
def _rollout_op(
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
    fire: Tensor,
    rule: str,
    backend: str,
    precision: str,
    steps: int,
    every: int,
    passed: int,
    place: list[int],
) -> tuple[Tensor, Tensor]:
    """Computes the states after the last step, and those at which segments begin, in a row in the kernels' layout."""
    kernels, rule, place = _opened(backend, rule, place, drawn)
    starts = [s for s in _segments(steps, every, passed) if s > 0]
    weights, state, done = kernels.pack_weights(params, rule, precision), kernels.to_layout(x), 0
    row = state.new_empty(_saved_shape(state, steps, every, passed))
    row[-2:] = 0
    saved = _states_in(row, state)
    y = torch.empty_like(state)
    if starts[:1] == [every]:
        runs = [(saved, every)]
    else:  # the gradient ends at a later state
        runs = [(saved[:1], starts[0]), (saved[1:], every)] if starts else []
    for states, between in [*runs, (y[None], steps - (starts[-1] if starts else 0))]:
        if len(states):
            kernels.advance(state, weights, fire, rule, place.after(done), states, between)
            state, done = states[-1], done + len(states) * between
    return kernels.from_layout(y, x.shape[1]), row


@_rollout_op.register_fake
def _(x, params, drawn, fire, rule, backend, precision, steps, every, passed, place):
    state = backends.kernels(backend).to_layout(x)
    return torch.empty_like(x), state.new_empty(_saved_shape(state, steps, every, passed))


@torch.library.custom_op("nca_fast::rollout_backward", mutates_args=())
def _rollout_backward_op(
    grad_y: Tensor,
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
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
    kernels, rule, place = _opened(backend, rule, place, drawn)
    weights, grad = kernels.pack_weights(params, rule, precision), kernels.to_layout(grad_y)
    grad = grad.clone() if grad is grad_y else grad
    buffer, saved = kernels.gradient_buffer(weights, grad), _states_in(saved, grad)
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
    x, params, drawn, fire, *ctx.settings = inputs
    _, saved = output
    ctx.save_for_backward(x, params, drawn, fire, saved)
    ctx.mark_non_differentiable(saved)
    ctx.set_materialize_grads(False)  # or autograd would allocate zeros of the size of all saved states


def _differentiate(ctx, grad_y, _):
    nothing = (None,) * (len(ctx.settings) + 2)
    if grad_y is None:
        return None, None, *nothing
    x, params, drawn, fire, saved = ctx.saved_tensors
    run = _RolloutBackward.apply if _is_transformed(grad_y) else _rollout_backward_op
    grad_x, grad_params = run(grad_y.contiguous(), x, params, drawn, fire, saved, *ctx.settings)
    _, _, _, steps, _, passed, _ = ctx.settings
    return grad_x if passed == steps else None, grad_params, *nothing


def _no_second_derivative(ctx, *_):
    raise RuntimeError(
        "rollout can be differentiated once only by a fused kernel, but a second derivative was asked for: "
        'use backend="reference".'
    )


_rollout_op.register_autograd(_differentiate, setup_context=_save)
_rollout_backward_op.register_autograd(_no_second_derivative)


def _no_forward_mode(ctx, *_):
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
    return tuple(torch.stack(same) for same in zip(*results, strict=True)), (0, 0)


class _Rollout(torch.autograd.Function):
    """`_rollout_op` for transforms."""

    forward = staticmethod(lambda *arguments: _rollout_op(*arguments))
    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)
    jvp = staticmethod(_no_forward_mode)

    @staticmethod
    def vmap(info, dims, x, params, drawn, fire, *settings):
        """Runs the rollouts one by one, of states or of weights or of both."""
        run = _Rollout.apply if _is_transformed(x, params) else _rollout_op
        return _one_by_one(run, info, dims, (x, params, drawn, fire), settings)


class _RolloutBackward(torch.autograd.Function):
    """`_rollout_backward_op` for transforms."""

    forward = staticmethod(lambda *arguments: _rollout_backward_op(*arguments))
    setup_context = staticmethod(lambda ctx, inputs, output: None)
    backward = staticmethod(_no_second_derivative)
    jvp = staticmethod(_no_forward_mode)

    @staticmethod
    def vmap(info, dims, grad_y, x, params, drawn, fire, saved, *settings):
        """Goes back one by one."""
        run = _RolloutBackward.apply if _is_transformed(grad_y, x, params) else _rollout_backward_op
        return _one_by_one(run, info, dims, (grad_y, x, params, drawn, fire, saved), settings)
