"""Rollouts to compare: random weights with a last layer that is not zero, on states that have grown."""

import torch

from nca_fast import Rule, fire_mask, rollout


def random_weights(rule: Rule, batch: int | None = None):
    """Weights that keep states of order one. Trainers start the last layer at zero, which would hide bugs."""
    lead = () if batch is None else (batch,)
    return [
        (
            torch.randn(*lead, *shape) * (0.3 / shape[1] ** 0.5 if len(shape) == 2 else 0.5),
            torch.randn(*lead, *of_bias) * 0.1 if of_bias else None,
        )
        for shape, of_bias in rule.weight_shapes
    ]


def values_and_gradients(rule, weights, x, grad_y, steps, *, backend, dtype, **options):
    """[y, grad_x or None, grad_W1, grad_b1, ...], the last that of a frame if there is one, of one rollout computed in
    a dtype, of seed 0 unless one is given."""
    x = x.to(dtype, copy=True).requires_grad_()
    frame = {name: options[name].to(dtype, copy=True).requires_grad_() for name in options if name == "frame"}
    weights = [tuple(None if t is None else t.to(dtype, copy=True).requires_grad_() for t in pair) for pair in weights]
    y = rollout(x, weights, rule, steps, backend=backend, **{"seed": 0} | options | frame)
    y.backward(grad_y.to(dtype))
    return [y.detach(), x.grad] + [t.grad for pair in [*weights, frame.values()] for t in pair if t is not None]


def relative_error(value, exact) -> float:
    """Norm of the difference over norm of the exact value."""
    return ((value.double() - exact).norm() / exact.norm().clamp(min=1e-300)).item()


def edge_rates(seed, step, height, width):
    """A map of fire rates with which the cells of sample 0 in even columns just fire and the others just do not."""
    fires, rests = torch.full((height, width), 2**32), torch.zeros(height, width, dtype=torch.int64)
    for _ in range(32):
        middle = (fires + rests) // 2
        fired = fire_mask(seed, step, 1, height, width, middle.double() / 2**32)[0, 0]
        fires, rests = torch.where(fired, middle, fires), torch.where(fired, rests, middle)
    return torch.where(torch.arange(width) % 2 == 0, fires, rests).double() / 2**32


def masked(rule, shape, device="cpu", **options):
    """What a step adds with weights of zero and an output bias of one: the mask itself."""
    weights = [(w.mul(0).to(device), (b * 0 + i).to(device)) for i, (w, b) in enumerate(random_weights(rule))]
    return rollout(torch.zeros(*shape, device=device), weights, rule, 1, **options)
