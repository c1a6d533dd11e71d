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
from nca_fast.kernels import kept_memory
from nca_fast.rule import Rule

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
    arguments = (x, params, drawn, fire, noise, field, rule, backend, precision, steps)
    learned = [t for t in (x, params, field) if t is not None]
    every = every if torch.is_grad_enabled() and any(map(_is_tracked, learned)) else 0
    run = _Rollout.apply if is_transformed(*learned) else _rollout_op
    return run(*arguments, every, passed, place, at)[0]


def is_transformed(*tensors):
    """Says whether torch.func is at work, or forward mode."""
    if torch._C._are_functorch_transforms_active():
        return True
    return any(map(is_dual, tensors))


def is_dual(t):
    """Says whether a tensor carries a derivative of forward mode."""
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(t).tangent is not None


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


def packed(kernels, params, rule, precision, noise, field):
    """Packs the weights; backends that are asked for neither noise nor frames need not know of them."""
    given = {name: t for name, t in {"noise": noise, "field": field}.items() if t is not None}
    return kernels.pack_weights(params, rule, precision, **given)


def _legs(steps, passed, at):
    """Cuts a rollout at the states that are asked for: (first step, steps, how many of them pass gradient) of each."""
    if not at:
        return [(0, steps, passed)]
    first, count, distance = at
    ends = [first + i * distance for i in range(count)]
    starts = [0, *ends[:-1]]
    return [
        (start, end - start, _within(end - (steps - passed), end - start))
        for start, end in zip(starts, ends, strict=True)
    ]


def _within(number, most):
    """Cuts a number, which may be a symbol of torch.compile, to 0 to most."""
    return max(0, min(number, most))


def _segments(steps, every, passed):
    """Cuts steps into segments and lists their first steps: of the last `passed` steps, every `every`-th.

    A segment begins at a saved state, but the first one at the first state unless the gradient is truncated.
    """
    return list(range(steps - passed, steps, every)) if every else []


def _saved_count(steps, every, passed):
    """Counts the states of a leg at which segments begin, but for its first."""
    return (passed + every - 1) // every - (1 if passed == steps else 0) if every else 0


def _saved_shape(state, every, legs):
    """Gives the shape of all saved states in a row: those at which segments begin, but for x and what is returned.

    The numbers may be symbols of torch.compile, which no list counts. The two spare numbers are for it too: it compiles
    anew for each length that is 0 or 1, and one state or none are common numbers of them.
    """
    return (sum(_saved_count(steps, every, passed) for _, steps, passed in legs) * state.numel() + 2,)


def _states_in(saved, state):
    """Returns the states in the memory of `_saved_shape`. [n, *state.shape]"""
    return saved[:-2].view(-1, *state.shape)


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
    """Computes the states that are asked for, and those at which segments begin, in a row in the kernels' layout."""
    kernels, rule, place = _opened(backend, rule, place, drawn)
    weights, state, legs = (
        packed(kernels, params, rule, precision, noise, field),
        kernels.to_layout(x),
        _legs(steps, passed, at),
    )
    row = kept_memory.empty(_saved_shape(state, every, legs), state)
    row[-2:] = 0
    saved = _states_in(row, state)
    y = kept_memory.empty((len(legs), *state.shape) if at else state.shape, state)
    ends = y if at else y[None]
    if at and len(saved) == 0 and len(legs) > 1:  # no states between those that are returned, which are evenly spaced
        first, distance = legs[0][1], legs[1][1]
        kernels.advance(state, weights, fire, rule, place, ends[:1], first)
        kernels.advance(ends[0], weights, fire, rule, place.after(first), ends[1:], distance)
    else:
        for (start, count, within), end in zip(legs, ends, strict=True):
            own = _saved_count(count, every, within)
            _advance_leg(
                kernels, state, (weights, fire, rule, place.after(start)), count, every, within, saved[:own], end
            )
            state, saved = end, saved[own:]
    if not at:
        return kernels.from_layout(y, x.shape[1]), row
    plain = [kernels.from_layout(end, x.shape[1]) for end in y]
    return y if plain[0].data_ptr() == y.data_ptr() else torch.stack(plain), row


def _advance_leg(kernels, state, how, steps, every, passed, saved, end):
    """Takes the steps of a leg from `state` to `end`, by way of those that are saved."""
    weights, fire, rule, place = how
    starts, done = [s for s in _segments(steps, every, passed) if s > 0], 0
    if starts[:1] == [every]:
        runs = [(saved, every)]
    else:  # the gradient ends at a later state
        runs = [(saved[:1], starts[0]), (saved[1:], every)] if starts else []
    for states, between in [*runs, (end[None], steps - (starts[-1] if starts else 0))]:
        if len(states):
            kernels.advance(state, weights, fire, rule, place.after(done), states, between)
            state, done = states[-1], done + len(states) * between


@_rollout_op.register_fake
def _(x, params, drawn, fire, noise, field, rule, backend, precision, steps, every, passed, place, at):
    state = backends.kernels(backend).to_layout(x)
    y = x.new_empty(at[1], *x.shape) if at else torch.empty_like(x)
    return y, state.new_empty(_saved_shape(state, every, _legs(steps, passed, at)))


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
    """Computes the gradients in x, in params and in field, empty where there is none.

    Args:
        returned: The states that were asked for; None without `at`.
        saved: Those in between, as the rollout has them.
        The others as there.
    """
    kernels, rule, place = _opened(backend, rule, place, drawn)
    weights, legs = packed(kernels, params, rule, precision, noise, field), _legs(steps, passed, at)
    last = grad_y[-1] if at else grad_y
    grad = kernels.to_layout(last)
    grad = grad.clone() if grad.data_ptr() == last.data_ptr() else grad
    buffer, saved = kernels.gradient_buffer(weights, grad), _states_in(saved, grad)
    for i, (start, count, within) in reversed(list(enumerate(legs))):
        if i + 1 < len(legs):
            grad += kernels.to_layout(grad_y[i])
        if within == 0:
            break
        own = _saved_count(count, every, within)
        begin = x if i == 0 else returned[i - 1]
        how = (weights, fire, rule, place.after(start))
        grad = _leg_back(kernels, begin, grad, how, count, every, within, saved[len(saved) - own :], buffer)
        saved = saved[: len(saved) - own]
        if within < count:
            break
    grad_x = torch.zeros_like(x) if passed < steps else kernels.from_layout(grad, x.shape[1])
    grad_params, grad_field = kernels.reduce_gradients(buffer, weights)
    return grad_x, grad_params, params.new_empty(0) if grad_field is None else grad_field


def _leg_back(kernels, x, grad, how, steps, every, passed, saved, buffer):
    """Takes the gradient of a leg's last state back to that of its first, or of the first that gets one."""
    weights, fire, rule, place = how
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
    return grad


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
    run = _RolloutBackward.apply if is_transformed(grad_y) else _rollout_backward_op
    grad_x, grad_params, grad_field = run(grad_y.contiguous(), *ctx.saved_tensors, *ctx.settings)
    grad_x, grad_field = (grad_x if ctx.passed == ctx.steps else None), (grad_field if ctx.framed else None)
    return grad_x, grad_params, None, None, None, grad_field, *settings


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
