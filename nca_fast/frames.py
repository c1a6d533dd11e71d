"""Frames of cells: by what angle the gradient that a cell perceives is turned, and by what scale its derivatives are.

A frame is a vector (a, b) = scale (cos angle, sin angle), the first axis of the cell's own coordinates times its scale.
Of filters along x and y and of a laplacian, which answer g_x, g_y and l, the cell perceives

    a g_x - b g_y,    b g_x + a g_y,    (a^2 + b^2) l

so that what an automaton draws is turned by the angle, counterclockwise as it is looked at, and `scale` times as large.
Values stay as they are; (1, 0) changes nothing. A number of the plane that is multiplied by another, as complex numbers
are, is both frames one after the other.

A cell of scale s sees its neighbours as if they were 1 / s away: NoiseNCA's dx = dy = 1 / s.
"""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor

from nca_fast.derivatives import Derivatives
from nca_fast.rule import Rule


def frame(angle: float | Tensor = 0.0, scale: float | Tensor = 1.0) -> Tensor:
    """Makes frames of angles and scales; differentiable in both.

    Args:
        angle: In radians, counterclockwise: a number, [H, W] or [B, H, W].
        scale: How large what is drawn becomes, above 0; likewise.

    Returns:
        [2], [2, H, W] or [B, 2, H, W]: what `nca_fast.rollout` takes.

    Example:
        >>> nca(x, 64, frame=nca_fast.frame(math.radians(30), 2.0))

    Source: rotation of the gradient, Niklasson et al., "Self-Organising Textures" (Distill 2021); scale, Pajouheshgar
    et al., "NoiseNCA" (2024).
    """
    angle, scale = (torch.tensor(float(t)) if isinstance(t, Real) else t for t in (angle, scale))
    axis = -3 if max(angle.ndim, scale.ndim) else 0
    return torch.stack(torch.broadcast_tensors(scale * angle.cos(), scale * angle.sin()), axis)


def combined(first: Tensor, second: Tensor) -> Tensor:
    """Makes the frames that turn by both angles and scale by both scales. [..., 2, H, W], either may be [2]"""
    (a, b), (c, d) = (_parts(f) for f in (first, second))
    return torch.stack(torch.broadcast_tensors(a * c - b * d, a * d + b * c), -3)


def _parts(field):
    return field.unbind(-3) if field.ndim > 1 else field.unbind()


def polar(height: int, width: int, rows: Tensor | None = None, centre: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """Makes frames whose first axis points away from a centre: what is drawn lies around it in rings.

    They are computed by sums, products and roots alone, so that parts of a canvas have the bits of the whole.

    Args:
        height, width: Of the canvas, in cells.
        rows: Numbers of the rows that are wanted, int64 [R]. None: all.
        centre: As shares of height and width.

    Returns:
        [2, R or height, width], of length 1.
    """
    right, up = _from(centre, height, width, rows)
    return unit(right, up)


def dipole(height: int, width: int, rows: Tensor | None = None) -> Tensor:
    """Makes frames along the field lines from a pole in the left half to one in the right: the other alignment of the
    Distill article. Arguments and result as of `polar`."""
    poles = [_from((0.5, at), height, width, rows) for at in (0.25, 0.75)]
    (right, up), (right_2, up_2) = poles
    near, far = right * right + up * up, right_2 * right_2 + up_2 * up_2  # of charges in a plane
    return unit(right * far - right_2 * near, up * far - up_2 * near)


def unit(right: Tensor, up: Tensor) -> Tensor:
    """Brings vectors [H, W] to length 1; where there is none, one that points to the right. float32 [2, H, W]"""
    length = (right * right + up * up).sqrt()
    none = length == 0
    length = torch.where(none, 1.0, length)
    return torch.stack([torch.where(none, 1.0, right / length), up / length]).float()


def _from(centre, height, width, rows):
    """Distances of cells from a centre, to the right and up. float64 [R, width] both, nowhere both 0."""
    rows = torch.arange(height) if rows is None else rows
    right = torch.arange(width).double() + 0.5 - centre[1] * width
    up = centre[0] * height - 0.5 - rows.double()
    return torch.broadcast_tensors(right, up[:, None])


ALIGNMENTS = {"polar": polar, "dipole": dipole}


def turned(answers: Sequence[Tensor], field: Tensor, kinds: Derivatives) -> list[Tensor]:
    """Turns and scales what filters answer.

    Args:
        answers: Of each filter, [B, C, H, W].
        field: Frames. [B or 1, 2, H or 1, W or 1]
        kinds: Of the filters.
    """
    a, b = field[:, :1], field[:, 1:]
    seen = list(answers)
    for x, y in kinds.pairs:
        seen[x], seen[y] = a * answers[x] - b * answers[y], b * answers[x] + a * answers[y]
    for number in kinds.laplacians:
        seen[number] = (a * a + b * b) * answers[number]
    return seen


def slowed(
    rule: Rule, weights: list[tuple[Tensor, Tensor | None]], dt: float
) -> tuple[Rule, list[tuple[Tensor, Tensor | None]]]:
    """Gives rule and weights of an automaton that does a share of its step: x' = x + dt u where it fires.

    NoiseNCA's dt. At a scale s above 1 laplacians are multiplied by s^2, and whole steps of most automata run away;
    with dt at most 1 / s^2 they do not, and take s^2 as many steps to come as far.

    Raises:
        ValueError: The update takes the place of the state, so that there is no share of it.
    """
    if not rule.residual:
        raise ValueError("dt must go with a rule whose update is added to the state, but residual is False.")
    *hidden, (weight, bias) = weights
    name, parameter, divisor = rule.activations[-1]
    if name == "identity":
        return rule, [*hidden, (weight * dt, None if bias is None else bias * dt)]
    given = f"({parameter!r})" if name in ("leaky_relu", "hardtanh") else ""
    return replace(rule, update_activation=f"{name}{given}/{divisor / dt!r}"), weights


def as_field(frame: Tensor) -> Tensor:
    """Gives frames as [B or 1, 2, H or 1, W or 1]."""
    return frame[None, :, None, None] if frame.ndim == 1 else frame if frame.ndim == 4 else frame[None]
