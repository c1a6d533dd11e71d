"""Integers of any kind, and the ranges of those that fire masks and noise are made of."""

import operator
from typing import Any

import torch
from torch import Tensor


def as_integer(value: Any) -> int | None:
    """Returns the integer that Python's, numpy's or a tensor [] holds, as `operator.index`; None for all else.

    A truth value is no number, and a symbol of torch.compile stays one.
    """
    if isinstance(value, bool) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool):
        return None
    if isinstance(value, (int, torch.SymInt)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return None


def checked_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns an integer of any kind as Python's. Raises TypeError or ValueError where it is none from low to high."""
    if type(value) is int and value >= low and (high is None or value <= high):
        return value
    number = as_integer(value)
    if number is None:
        raise TypeError(f"{name} must be an integer, but got {value!r}.")
    if number < low or (high is not None and number > high):
        bound = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bound}, but got {number}.")
    return number


def checked_origin(origin: Any) -> tuple[int, int]:
    """Returns (row, column) of a cell. Raises TypeError or ValueError where it is none from 0 to 2**32 - 1."""
    if not hasattr(origin, "__getitem__") or isinstance(origin, (str, dict)) or len(origin) != 2:
        raise ValueError(f"origin must be (row, column), but got {origin!r}.")
    names = ("origin row", "origin column")
    return tuple(checked_integer(name, origin[i], 0, 2**32 - 1) for i, name in enumerate(names))


def checked_draw(
    seed, step, batch, height, width, origin, first_sample, canvas_height
) -> tuple[int | Tensor, int, int, int, int, tuple[int, int], int, int | None]:
    """Checks what `fire_mask` and `normal` are asked for, which would wrap around; returns it as Python's integers.

    Raises:
        TypeError, ValueError: name, rule and value of the first that does not hold.
    """
    if not isinstance(seed, Tensor):
        seed = checked_integer("seed", seed, 0, 2**64 - 1)
    step = checked_integer("step", step, 0, 2**32 - 1)
    sizes = {"batch": batch, "height": height, "width": width}
    batch, height, width = (checked_integer(name, size, 1) for name, size in sizes.items())
    first_sample = checked_integer("first_sample", first_sample, 0, 2**32 - batch)
    canvas_height = None if canvas_height is None else checked_integer("canvas_height", canvas_height, 1, 2**32)
    return seed, step, batch, height, width, checked_origin(origin), first_sample, canvas_height
