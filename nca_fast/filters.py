"""The fixed stencils through which a cell sees its neighbourhood."""

import re
from dataclasses import dataclass

from nca_fast.fields import as_dataclass

_SMOOTH, _DIFFERENCE = (1, 2, 1), (-1, 0, 1)


@dataclass(frozen=True)
class Filter:
    """One odd-sized square stencil, applied to every channel by correlation (no flip).

        y(r, c) = scale * sum over i, j of taps[i][j] * x(r + i - size // 2, c + j - size // 2)

    Args:
        name: How the filter is called in listings; free text.
        taps: Square rows of finite numbers, odd size from 1 to 9.
        scale: Factor on all taps. Published automata differ silently here (1, 1/8, 1/16), and weights trained
            under one scale are useless under another, so it is part of the rule and is saved with it.

    Raises:
        ValueError: taps are not square, odd-sized and finite, or scale is not finite.
    """

    name: str
    taps: tuple[tuple[float, ...], ...]
    scale: float = 1.0

    def __post_init__(self):
        taps = tuple(tuple(float(t) for t in row) for row in self.taps)
        size = len(taps)
        if size % 2 == 0 or size > 9 or any(len(row) != size for row in taps):
            shape = f"{size} rows of {sorted({len(row) for row in taps})} numbers"
            raise ValueError(f"taps of filter {self.name!r} must be square with odd size 1 to 9, but got {shape}.")
        numbers = [t for row in taps for t in row] + [self.scale]
        if not all(abs(t) < float("inf") for t in numbers):  # false for NaN too
            raise ValueError(f"taps and scale of filter {self.name!r} must be finite, but got {numbers}.")
        object.__setattr__(self, "taps", taps)
        object.__setattr__(self, "scale", float(self.scale))

    @property
    def size(self) -> int:
        """Rows (and columns) of the stencil."""
        return len(self.taps)

    @property
    def kernel(self) -> list[list[float]]:
        """The stencil with its scale multiplied in: `size` rows of `size` numbers."""
        return [[self.scale * t for t in row] for row in self.taps]


def _outer(column, row):
    return tuple(tuple(float(a * b) for b in row) for a in column)


def _transposed(taps):
    return tuple(zip(*taps, strict=True))


def _generalised_sobel(size):
    """x / (x^2 + y^2) over the window, scaled so that size 3 is the classic Sobel filter (sum of |taps| = 8)."""
    reach = range(-(size // 2), size // 2 + 1)
    taps = [[x / (x * x + y * y) if x else 0.0 for x in reach] for y in reach]
    total = sum(abs(t) for row in taps for t in row)
    return tuple(tuple(8 * t / total for t in row) for row in taps)


_SQUARE = {
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "sobel_x": _outer(_SMOOTH, _DIFFERENCE),
    "scharr_x": _outer((3, 10, 3), _DIFFERENCE),
    "prewitt_x": _outer((1, 1, 1), _DIFFERENCE),
    "laplacian": ((1, 2, 1), (2, -12, 2), (1, 2, 1)),
    # Hexagonal grid in skewed coordinates: the neighbours are the six taps off one diagonal.
    "hex_sobel_x": ((0, -1, 1), (-2, 0, 2), (-1, 1, 0)),
    "hex_sobel_y": ((0, -2, -2), (0, 0, 0), (2, 2, 0)),
    "hex_laplacian": ((0, 2, 2), (2, -12, 2), (2, 2, 0)),
}
_SQUARE |= {name[:-1] + "y": _transposed(_SQUARE[name]) for name in ("sobel_x", "scharr_x", "prewitt_x")}
_SQUARE |= {f"sobel_x{size}": _generalised_sobel(size) for size in (5, 7, 9)}
_SQUARE |= {f"sobel_y{size}": _transposed(_SQUARE[f"sobel_x{size}"]) for size in (5, 7, 9)}

NAMES = tuple(sorted(_SQUARE))


def named(text: str) -> Filter:
    """The filter called `text`: a name of `NAMES`, optionally divided by a number ("sobel_x/8").

    Sobel and Laplacian as in the Distill texture notebook, unnormalised; "sobel_x5", 7 and 9 are VAE-NCA's
    generalisation of Sobel to larger windows; the hexagonal ones are those of the Distill texture demo times 8.

    Raises:
        ValueError: unknown name, or a divisor that is not a positive number.
    """
    match = re.fullmatch(r"([a-z_]+[0-9]?)(?:/([0-9.]+))?", text)
    name, divisor = match.groups() if match else (text, None)
    if name not in _SQUARE:
        raise ValueError(f"filter must be one of {', '.join(NAMES)} (or one of them '/8'), but got {text!r}.")
    try:
        scale = 1 / float(divisor) if divisor else 1.0
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"the divisor of a filter must be a positive number, but got {text!r}.") from None
    return Filter(name, _SQUARE[name], scale)


def as_filter(value) -> Filter:
    """A `Filter` from itself, a name, rows of numbers, or its JSON form {"name", "taps", "scale"}."""
    if isinstance(value, Filter):
        return value
    if isinstance(value, str):
        return named(value)
    if isinstance(value, dict):
        return as_dataclass(Filter, value, "a filter")
    return Filter("custom", value)
