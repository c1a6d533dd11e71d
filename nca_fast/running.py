"""A rollout by the kernels of a backend, forward and back: what the operators of `operators` compute.

A rollout is cut into legs, which end at states that are asked for, and for the gradient into segments, which begin at
saved states.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nca_fast import backends
from nca_fast.backends import Place
from nca_fast.kernels import kept_memory
from nca_fast.rule import Rule


def forward(
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
    fire: Tensor,
    noise: Tensor | None,
    field: Tensor | None,
    *settings: Any,
    weights: Any = None,
) -> tuple[Tensor, Tensor]:
    """Computes the states that are asked for, and those at which segments begin, in a row in the kernels' layout.

    Args:
        settings: rule, backend, precision, steps, every, passed, place and at.
        weights: What `weights_of` gave, or None.
        All but that as in `operators.rollout`. The spare numbers of the row, see `saved_shape`, are not written.
    """
    rule, backend, precision, steps, every, passed, place, at = settings
    weights = weights or weights_of(params, noise, field, rule, backend, precision)
    kernels, rule, place = _opened(backend, rule, place, drawn)
    state = kernels.to_layout(x)
    legs = _legs(steps, passed, at)
    row = kept_memory.empty(saved_shape(state, every, steps, passed, at), state)
    saved = _states_in(row, state)
    y = kept_memory.empty((len(legs), *state.shape) if at else state.shape, state)
    ends = y if at else y[None]
    if at and saved.shape[0] == 0 and len(legs) > 1:  # no states between those that are returned, evenly spaced
        first, distance = legs[0][1], legs[1][1]
        kernels.advance(state, weights, fire, rule, place, ends[:1], first)
        kernels.advance(ends[0], weights, fire, rule, place.after(first), ends[1:], distance)
    else:
        for (start, count, within), end in zip(legs, ends, strict=True):
            own = _saved_count(count, every, within)
            how = (weights, fire, rule, place.after(start))
            _advance_leg(kernels, state, how, count, every, within, saved[:own], end)
            state, saved = end, saved[own:]
    if not at:
        return kernels.from_layout(y, x.shape[1]), row
    plain = [kernels.from_layout(end, x.shape[1]) for end in y]
    return y if plain[0].data_ptr() == y.data_ptr() else torch.stack(plain), row


def backward(
    grad_y: Tensor,
    x: Tensor,
    params: Tensor,
    drawn: Tensor | None,
    fire: Tensor,
    noise: Tensor | None,
    field: Tensor | None,
    returned: Tensor | None,
    saved: Tensor,
    *settings: Any,
    weights: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients in x, in params and in field, empty where there is none.

    Args:
        returned: The states that were asked for; None without `at`.
        saved: Those in between, as `forward` has them.
        The others as there.
    """
    rule, backend, precision, steps, every, passed, place, at = settings
    weights = weights or weights_of(params, noise, field, rule, backend, precision)
    kernels, rule, place = _opened(backend, rule, place, drawn)
    legs = _legs(steps, passed, at)
    last = grad_y[-1] if at else grad_y
    grad = kernels.to_layout(last)
    grad = grad.clone() if grad.data_ptr() == last.data_ptr() else grad
    buffer, saved = kernels.gradient_buffer(weights, grad), _states_in(saved, grad)
    for i, (start, count, within) in reversed(list(enumerate(legs))):
        if i + 1 < len(legs):
            grad += kernels.to_layout(grad_y[i])
        if within == 0:
            break
        left = saved.shape[0] - _saved_count(count, every, within)
        begin = x if i == 0 else returned[i - 1]
        how = (weights, fire, rule, place.after(start))
        grad = _leg_back(kernels, begin, grad, how, count, every, within, saved[left:], buffer)
        saved = saved[:left]
        if within < count:
            break
    grad_x = torch.zeros_like(x) if passed < steps else kernels.from_layout(grad, x.shape[1])
    grad_params, grad_field = kernels.reduce_gradients(buffer, weights)
    return grad_x, grad_params, params.new_empty(0) if grad_field is None else grad_field


def weights_of(
    params: Tensor, noise: Tensor | None, field: Tensor | None, rule: str, backend: str, precision: str
) -> Any:
    """Packs the weights of a rollout, which serve forward and back."""
    return packed(backends.kernels(backend), params, _kernel_rule(rule), precision, noise, field)


def packed(kernels, params: Tensor, rule, precision: str, noise: Tensor | None, field: Tensor | None):
    """Packs the weights; backends that are asked for neither noise nor frames need not know of them."""
    given = {name: t for name, t in (("noise", noise), ("field", field)) if t is not None}
    return kernels.pack_weights(params, rule, precision, **given)


def seeded(place: Place, drawn: Tensor | None) -> Place:
    """Puts a seed that was drawn into a place; it lies on the CPU."""
    return place if drawn is None else place._replace(seed=int(drawn))


def saved_shape(state: Tensor, every: int, steps: int, passed: int, at: list[int]) -> tuple[int]:
    """Gives the shape of all saved states in a row: those at which segments begin, but for x and what is returned.

    The numbers may be symbols of torch.compile, which no list counts. The two spare numbers are for it too: it compiles
    anew for each length that is 0 or 1, and one state or none are common numbers of them.
    """
    counts = (_saved_count(count, every, within) for _, count, within in _legs(steps, passed, at))
    return (sum(counts) * state.numel() + 2,)


@lru_cache(maxsize=256)
def _kernel_rule(rule):
    return Rule.from_json(rule).kernel_rule


def _opened(backend, rule, place, drawn):
    """Finds the kernels, the rule and the place that an operator's schema writes as text, integers and a tensor."""
    return backends.kernels(backend), _kernel_rule(rule), seeded(Place(*place), drawn)


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


def _states_in(saved, state):
    """Returns the states in the memory of `saved_shape`. [n, *state.shape]"""
    return saved[:-2].view(-1, *state.shape)


def _advance_leg(kernels, state, how, steps, every, passed, saved, end):
    """Takes the steps of a leg from `state` to `end`, by way of those that are saved."""
    weights, fire, rule, place = how
    starts, done = [s for s in _segments(steps, every, passed) if s > 0], 0
    if starts[:1] == [every]:
        runs = [(saved, every)]
    else:  # the gradient ends at a later state
        runs = [(saved[:1], starts[0]), (saved[1:], every)] if starts else []
    for states, between in [*runs, (end[None], steps - (starts[-1] if starts else 0))]:
        if count := states.shape[0]:
            kernels.advance(state, weights, fire, rule, place.after(done), states, between)
            state, done = states[-1], done + count * between


def _leg_back(kernels, x, grad, how, steps, every, passed, saved, buffer):
    """Takes the gradient of a leg's last state back to that of its first, or of the first that gets one."""
    weights, fire, rule, place = how
    if every == 1:  # all states are there
        if count := saved.shape[0]:
            grad = kernels.backward(saved, grad, weights, fire, rule, place.after(steps - count), buffer)
        if passed < steps:
            return grad
        return kernels.backward(kernels.to_layout(x)[None], grad, weights, fire, rule, place, buffer)
    begin = _segments(steps, every, passed)
    runs = list(zip(begin, begin[1:] + [steps], [None] * (begin[0] == 0) + list(saved), strict=True))
    inner = grad.new_empty(min(every, passed), *grad.shape)
    for start, end, state in reversed(runs):
        states = inner[: end - start]
        states[0] = kernels.to_layout(x) if state is None else state
        kernels.advance(states[0], weights, fire, rule, place.after(start), states[1:], 1)
        grad = kernels.backward(states, grad, weights, fire, rule, place.after(start), buffer)
    return grad
